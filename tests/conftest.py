"""What the tests share."""

import os
from collections import Counter
from pathlib import Path

# One thread of XLA per process: where two processes share two cores, the threads of each wait for one another
# longer than they compute. It is read when the first array is made.
os.environ.setdefault("PJRT_NPROC", "1")

import jax
import jax.export  # which older versions of JAX do not import by themselves
import pytest

if not hasattr(jax, "enable_x64"):  # and this has another name there
    from jax.experimental import enable_x64

    jax.enable_x64 = enable_x64


@pytest.fixture(scope="module")
def quick_compilation():
    """Compile with few optimizations: these tests compile for seconds what then runs for milliseconds."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # or the next module would run some of what was compiled for this one


# A test's seconds are those of all its cases; what takes longer than this is left to `make test`.
LONG = 1.5
SLOW = Path(__file__).with_name("slow.txt")
seconds = Counter()


def pytest_addoption(parser):
    parser.addoption("--times", action="store_true", help="write into slow.txt which tests are slow")


def function(nodeid: str) -> str:
    return nodeid.partition("[")[0]


def pytest_collection_modifyitems(items):
    slow = set(SLOW.read_text().splitlines())
    for item in items:
        if function(item.nodeid) in slow:
            item.add_marker(pytest.mark.slow)


def pytest_runtest_logreport(report):
    seconds[function(report.nodeid)] += report.duration


def pytest_sessionfinish(session):
    if session.config.getoption("times") and not hasattr(session.config, "workerinput"):
        slow = {name for name in SLOW.read_text().splitlines() if name not in seconds}
        slow |= {name for name, taken in seconds.items() if taken > LONG}
        SLOW.write_text("".join(f"{name}\n" for name in sorted(slow)))
