"""Each chapter's launch buttons open that chapter, under whatever address the repository has."""

import re
import subprocess
import sys
from pathlib import Path

import notebooks
import pytest
import yaml
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
