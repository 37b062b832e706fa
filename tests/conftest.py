"""What the tests share."""

import os

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
