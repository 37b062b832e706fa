"""Run the tests of an assignment on its model solution under many other keys: which of them fail by chance?

python book/course/keys.py N_name            200 keys, or as many as a quarter of an hour allows
python book/course/keys.py N_name test_a     of one test alone
"""

import argparse
import time
from pathlib import Path

import course
import grading
import jax
import matplotlib
import numpy as np
from IPython.core.interactiveshell import InteractiveShell

matplotlib.use("agg")


def shift(by: int, real_key=jax.random.key, real_rng=np.random.default_rng) -> None:
    """Let every seed that is written down mean another one."""
    jax.random.key = lambda seed, **settings: real_key(seed + by, **settings)
    np.random.default_rng = lambda seed: real_rng(seed + by)


def fails(name: str, wanted: str | None, keys: int, seconds: float) -> dict[str, tuple[int, int]]:
    """For each test, how many of how many runs failed; each test gets an equal part of the seconds."""
    source = course.read(course.HERE / "source", name)
    shell, counts = InteractiveShell.instance(), {}
    tests = [cell for cell in source.cells if grading.is_test(cell)]
    chosen = [cell for cell in tests if wanted in (None, grading.grade_id(cell))]
    for cell in source.cells:
        if cell.cell_type != "code":
            continue
        if cell not in tests:
            if grading.grade_id(cell):  # others only show something
                shell.run_cell(cell.source).raise_error()
            continue
        began, failed, number = time.process_time(), 0, 0
        budget = seconds / len(chosen) if cell in chosen else 0
        while number == 0 or (number <= keys and time.process_time() - began < budget):
            shift(1000 * number)
            try:
                exec(compile(cell.source, "<test>", "exec"), shell.user_ns)
            except AssertionError as error:
                failed += 1
                print(f"{grading.grade_id(cell)}, key {number}: {error}", flush=True)
            number += 1
        shift(0)
        if cell in chosen:
            counts[grading.grade_id(cell)] = failed, number
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=sorted(path.name for path in Path(course.HERE, "source").iterdir()))
    parser.add_argument("test", nargs="?")
    parser.add_argument("--keys", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=900, help="of the processor")
    arguments = parser.parse_args()
    found = fails(arguments.name, arguments.test, arguments.keys, arguments.seconds)
    for test, (failed, runs) in found.items():
        print(f"{test:30} {failed:4} of {runs:4} failed")
