"""Each chapter's launch buttons open that chapter, under whatever address the repository has.

And what they open it with is good enough for himlib: no bound of ours moves a version of Colab's.
"""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import notebooks
import pytest
import yaml
from packaging.requirements import Requirement
from trees import copy_repository

OPENS = {
    "Colab": r"https://colab\.research\.google\.com/github/([\w-]+/[\w.-]+)/blob/main/([\w/.]+)",
    "Binder": r"https://mybinder\.org/v2/gh/([\w-]+/[\w.-]+)/main\?urlpath=lab/tree/([\w/.]+)",
}


def opened(page: str) -> dict[str, tuple[str, str]]:
    """Return, by service, the repository and the path that a built page's button opens."""
    return {name: found[0] for name, link in OPENS.items() if (found := re.findall(f'href="{link}"', page))}


def problems(html: Path, root: Path, name: str) -> list[str]:
    """Say what is wrong with the buttons of a chapter's page."""
    repository = yaml.safe_load((root / "_config.yml").read_text())["repository"]["url"]
    found = opened((html / f"{name}.html").read_text())
    return [
        f"{service}: {found.get(service)}"
        for service in OPENS
        if found.get(service) != (repository.removeprefix("https://github.com/"), f"book/{name}.ipynb")
        or not (root / "book" / f"{name}.ipynb").is_file()
    ]


MOVED = "https://github.com/" + "some-one/a.book"


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """A copy of the repository at another address, with two of its pages built."""
    root = copy_repository(tmp_path_factory.mktemp("moved"))
    tools = Path(sys.prefix, "bin")
    move = ["make", "--old-file=.venv/ready", f"bin={tools}", "repository", f"URL={MOVED}"]
    done = subprocess.run(move, cwd=root, capture_output=True, text=True)
    assert "_config.yml" in done.stdout, done.stderr
    toc = {"format": "jb-book", "root": "00_jax", "chapters": [{"file": "notation"}]}
    (root / "book" / "_toc.yml").write_text(yaml.safe_dump(toc))
    done = subprocess.run([tools / "jupyter-book", "build", "book"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return root


def test_buttons_open_the_chapter_at_the_new_address(moved):
    html = moved / "_build" / "html"
    assert problems(html, moved, "00_jax") == []
    assert opened((html / "notation.html").read_text()) == {}  # no notebook, nothing to open
    assert all(
        repository == "some-one/a.book"
        for repository, _ in opened((html / "00_jax.html").read_text()).values()
    )


def test_install_cells_install_from_the_new_address(moved):
    cells = [
        notebooks.code_cells(notebooks.read(path))[0] for path in sorted((moved / "book").glob("*.ipynb"))
    ]
    assert len(cells) > 5
    assert all(f"git+{MOVED}@main" in cell.source for cell in cells)


def test_problems_are_noticed(tmp_path):
    (tmp_path / "_config.yml").write_text("repository: {url: https://github.com/" + "a/b}")
    (tmp_path / "x.html").write_text(
        '<a href="https://colab.research.google.com/github/' + 'a/b/blob/main/book/x.ipynb"></a>'
    )
    colab, binder = problems(tmp_path, tmp_path, "x")
    assert colab.startswith("Colab")  # the file is not there
    assert binder == "Binder: None"
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "x.ipynb").touch()
    assert problems(tmp_path, tmp_path, "x") == ["Binder: None"]


COLAB = (notebooks.ROOT / "tests" / "colab.txt").read_text()


def refused(bounds: list[str], listed: str) -> set[str]:
    """The packages whose bound does not admit the version that is listed, or that are not listed."""
    versions = dict(line.split("==") for line in listed.splitlines() if line[0] != "#")
    requirements = map(Requirement, bounds)
    return {each.name for each in requirements if not each.specifier.contains(versions.get(each.name, "0"))}


def test_bounds_admit_what_colab_has():
    project = tomllib.loads((notebooks.ROOT / "pyproject.toml").read_text())["project"]
    bounds = project["dependencies"] + project["optional-dependencies"]["book"]
    assert refused(bounds, COLAB) == {"numpyro"}  # Colab has none: the install cell adds it
    python = re.search(r"\(Python ([\d.]+)\)", COLAB)[1]
    assert refused([f"python{project['requires-python']}"], f"python=={python}") == set()


def test_list_of_colab_is_complete():
    lines = [line for line in COLAB.splitlines() if line[0] != "#"]
    assert [line for line in lines if not re.fullmatch(r"[a-z\d-]+==[\w.]+", line)] == []
    assert {"ipykernel", "ipython", "jaxlib", "pandas", "pillow", "pip"} <= {
        line.split("==")[0] for line in lines
    }


def test_a_bound_that_is_too_high_is_noticed():
    assert refused(["jax>=0.10", "numpy>=2.0", "flax>=0.12"], "# all\njax==0.7.2\nnumpy==2.1.3") == {
        "jax",
        "flax",
    }


def test_install_cell_asks_for_the_jax_that_is_there(monkeypatch, capsys):
    """Executed without himlib: what it would run, and that it shows the devices."""
    asked = []
    cell = notebooks.INSTALL.format(url=MOVED).replace("%pip", "pip(kept, '").replace("{kept}", "')")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    exec(cell, {"pip": lambda kept, line: asked.append((kept, line))})
    ((kept, line),) = asked
    assert kept == f"jax=={version('jax')}"
    assert line.split('"')[1] == f"himlib @ git+{MOVED}@main"
    assert "Device(id=0)" in capsys.readouterr().out
