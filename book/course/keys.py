"""Run the tests of an assignment on its model solution under many other keys: which of them fail by chance?

python book/course/keys.py all               200 keys for each test, or as many as the seconds allow
python book/course/keys.py N_name            of one assignment
python book/course/keys.py N_name test_a     of one test alone

Results are added to those in `keys.json`, from which the table in `changing.md` is made, and the next run
goes on with the next key. A test that is not the same as it was begins anew.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import course
import grading
import jax
import matplotlib
import numpy as np
from IPython.core.interactiveshell import InteractiveShell

matplotlib.use("agg")
STORED = course.HERE / "keys.json"
PAGE, BEGIN, END = course.HERE / "changing.md", "<!-- keys: begin -->", "<!-- keys: end -->"
STEP = 1000  # to each seed that is written down, key number k adds k times this


def shift(by: int, real_key=jax.random.key, real_rng=np.random.default_rng) -> None:
    """Let every seed that is written down mean another one."""
    jax.random.key = lambda seed, **settings: real_key(seed + by, **settings)
    np.random.default_rng = lambda seed=None: real_rng(seed + by if isinstance(seed, int) else seed)


def digest(cell) -> str:
    """Of the code of a test, by which it is seen that it changed."""
    return hashlib.sha256(cell.source.encode()).hexdigest()[:12]


def stored() -> dict:
    """What was found so far: for each assignment and test, how many keys, and which of them failed."""
    return json.loads(STORED.read_text()) if STORED.exists() else {}


def table(found: dict) -> str:
    """The table of the page, a row for each test."""
    lines = [
        "| assignment | test | keys | failed | date | jax, numpy, Python |",
        "| --- | --- | --: | --: | --- | --- |",
    ]
    for name, rows in found.items():
        for test, row in rows.items():
            versions = ", ".join(row[field] for field in ("jax", "numpy", "python"))
            cells = name, f"`{test}`", row["keys"], len(row["failed"]), row["date"], versions
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def show() -> None:
    """Put the table into its page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(stored())}\n\n{END}{rest.partition(END)[2]}")


def fails(name: str, wanted: str | None, keys: int, seconds: float, before: dict) -> dict[str, dict]:
    """Go on with each test for an equal part of the seconds of the processor."""
    source, folder = course.read(course.HERE / "source", name), course.HERE / "source" / name
    os.chdir(folder)  # where its data are
    sys.path.insert(0, str(folder))
    shell, found = InteractiveShell.instance(), dict(before)
    tests = [cell for cell in source.cells if grading.is_test(cell)]
    chosen = [cell for cell in tests if wanted in (None, grading.grade_id(cell))]
    for cell in source.cells:
        if cell.cell_type != "code":
            continue
        if cell not in tests:
            shell.run_cell(cell.source).raise_error()
            continue
        exec(compile(cell.source, "<test>", "exec"), shell.user_ns)  # later cells read what it binds
        if cell not in chosen:
            continue
        test, began = grading.grade_id(cell), time.process_time()
        row = {"code": digest(cell), "keys": 0, "failed": []}
        if before.get(test, row)["code"] == row["code"]:
            row = before.get(test, row)
        while row["keys"] < keys and time.process_time() - began < seconds / len(chosen):
            row["keys"] += 1
            shift(STEP * row["keys"])
            try:
                exec(compile(cell.source, "<test>", "exec"), shell.user_ns)
            except AssertionError as error:
                row["failed"].append(row["keys"])
                print(f"{name}, {test}, key {row['keys']}: {error}", flush=True)
        shift(0)
        row |= {"date": datetime.now(UTC).date().isoformat(), "jax": version("jax")}
        found[test] = row | {"numpy": version("numpy"), "python": platform.python_version()}
    return {
        grading.grade_id(cell): found[grading.grade_id(cell)]
        for cell in tests
        if grading.grade_id(cell) in found
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = sorted(path.name for path in Path(course.HERE, "source").iterdir())
    parser.add_argument("name", choices=[*names, "all"])
    parser.add_argument("test", nargs="?")
    parser.add_argument("--keys", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=900, help="of the processor, for each assignment")
    arguments = parser.parse_args()
    if arguments.name == "all":
        for name in names:
            subprocess.run([sys.executable, __file__, name, *sys.argv[2:]], check=True)
        sys.exit()
    rows = stored().get(arguments.name, {})
    rows = fails(arguments.name, arguments.test, arguments.keys, arguments.seconds, rows)
    STORED.write_text(json.dumps(dict(sorted((stored() | {arguments.name: rows}).items())), indent=1) + "\n")
    show()
    for test, row in rows.items():
        print(f"{test:30} {len(row['failed']):4} of {row['keys']:4} failed")
