"""CONTRIBUTING.md, followed to the letter in a copy of the repository."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import notebooks
import pytest
from trees import copy_repository

TEXT = (notebooks.ROOT / "CONTRIBUTING.md").read_text()


def blocks(section: str) -> list[str]:
    """Return the code blocks of a section, in order."""
    return re.findall(
        r"```\w*\n(.+?)```", re.search(rf"## {section}\n(.+?)(?:\n## |\Z)", TEXT, re.S)[1], re.S
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the repository, with this environment as its own."""
    folder = copy_repository(tmp_path_factory.mktemp("copy"))
    (folder / ".venv").mkdir()
    for entry in Path(sys.prefix).iterdir():
        if entry.name != "ready":
            (folder / ".venv" / entry.name).symlink_to(entry)
    (folder / ".venv" / "ready").touch()  # newer than what it is made from: make installs nothing
    return folder


def run(folder: Path, commands: str) -> str:
    """Run commands as a contributor does; what the copy's tests import is the copy's himlib."""
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTEST_ADDOPTS": "-q -p no:cacheprovider"}
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "COV_CORE_DATAFILE", "COV_CORE_SOURCE"):
        environment.pop(name, None)
    done = subprocess.run(
        ["bash", "-e", "-c", commands], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def insert(path: Path, before: str, text: str) -> None:
    assert path.read_text().count(before) == 1, f"{before} in {path.name}"
    path.write_text(path.read_text().replace(before, text + before))


def test_chapter(copy):
    new, listed, execute = blocks("Add a chapter")
    run(copy, new)
    insert(copy / "book/_toc.yml", "  - caption: Course", listed)
    path = copy / "book/19_event_counts.ipynb"
    notebook = notebooks.read(path)
    run_cell = next(cell for cell in notebook.cells if cell.id == "run")
    run_cell.source = run_cell.source.replace("jax.random.key(0)", "jax.random.key(7)")
    notebook.metadata["himlib"]["minutes_to_run"]["cpu"] = 3  # even where it shares the machine
    nbformat.write(notebook, path)
    assert "up to date" in run(copy, execute)
    assert notebooks.read(path).metadata["himlib"]["executed"] == notebooks.digest(notebook)
    assert "19 Event counts" in (copy / "book/figures/chapter_map.svg").read_text()  # it is listed


def test_diff(copy):
    run(copy, "make diff-setup")
    path = copy / "book/00_jax.ipynb"
    path.write_text(path.read_text().replace("# JAX in a quarter of an hour", "# JAX, briefly"))
    shown = run(copy, f"git diff {path}")
    assert "+# JAX, briefly" in shown
    assert '"cell_type"' not in shown and "image/png" not in shown


def test_loss(copy):
    loss, row, check = blocks("Add a loss")
    insert(copy / "himlib/losses.py", '        RatioLoss("hinge"', loss)
    insert(copy / "tests/test_losses.py", '    "hinge": (', row)
    insert(copy / "tests/test_losses_in_lfvi.py", '"donsker_varadhan"])', '"jeffreys", ')
    passed = int(re.search(r"(\d+) passed", run(copy, check))[1])
    assert passed >= 12


def test_simulator(copy):
    module, page, test, check = blocks("Add a simulator")
    (copy / "himlib/simulators/event_counts.py").write_text(module)
    door = copy / "himlib/simulators/__init__.py"
    insert(door, "    genome,\n", "    event_counts,\n")
    insert(door, '    "genome",\n', '    "event_counts",\n')
    (copy / "tests/test_event_counts.py").write_text(test)
    insert(copy / "book/api.md", ".. automodule:: himlib.simulators.conjugate\n", page + "\n")
    doctests, project = re.findall(r"(\d+) passed", run(copy, check))
    assert int(doctests) == 4 and int(project) == 4
    run(copy, ".venv/bin/ruff check himlib tests && .venv/bin/ruff format --check himlib tests")
