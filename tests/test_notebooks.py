"""The chapters are executed and complete, and the check that says so notices each way of not being it."""

import copy
import shutil
import subprocess

import notebooks
import pytest
from nbformat import from_dict
from nbformat.v4 import new_code_cell, new_output

URL = notebooks.repository_url()
PATHS = notebooks.notebooks()
TEMPLATE = notebooks.read(notebooks.BOOK / "template.ipynb")


def cell(notebook, name):
    return next(cell for cell in notebook.cells if cell.id == name)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_chapter(path):
    assert notebooks.problems(notebooks.read(path), URL) == []


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_chapter_keeps_to_its_budget(path):
    header = notebooks.read(path).metadata["himlib"]
    experiment = "09" <= path.stem[:2] <= "16"
    assert header["minutes_to_run"]["cpu"] <= (5 if experiment else 3)
    assert header["memory_mb"] <= 2_000


def test_book_keeps_to_its_budget():
    headers = [notebooks.read(path).metadata["himlib"] for path in PATHS]
    assert sum(header["minutes_to_run"]["cpu"] for header in headers) <= 42


def header(key, value):
    return lambda notebook: notebook.metadata["himlib"].update({key: value})


def output(where, **kind):
    return lambda notebook: cell(notebook, where).outputs.append(new_output(**kind))


def change(name, **values):
    return lambda notebook: cell(notebook, name).update(copy.deepcopy(values))


def shown(kind, text="x"):
    return output("run", output_type="display_data", data={kind: text})


def printed(text, name="stdout"):
    return output("run", output_type="stream", name=name, text=text)


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda notebook: notebook.metadata.pop("himlib"), "header: title"),
        (header("goals", "one"), "header: goals"),
        (header("goals", []), "header: a key without content"),
        (header("minutes_to_read", None), "header: minutes_to_read"),
        (header("minutes_to_run", {"cpu": 1}), "header: minutes_to_run"),
        (header("prerequisites", ["77_no_such_chapter"]), "header: a prerequisite"),
        (header("memory", 100), "header: unknown key"),
        (header("measured", {"minutes": 9, "memory_mb": 9}), "header: promises less"),
        (header("measured", {"minutes": 0.1, "memory_mb": 9_000}), "header: promises less"),
        (header("title", "Another"), "the first cell differs"),
        (change("header", source="# Another"), "the first cell differs"),
        (change("install", source="%pip install himlib"), "not the install cell"),
        (change("install", metadata=from_dict({})), "not the install cell"),
        (output("install", output_type="stream", text="done"), "not the install cell"),
        (change("run", source="1 + 1"), "the code changed"),
        (change("run", execution_count=None), "not executed once"),
        (change("run", execution_count=9), "not executed once"),
        (lambda notebook: notebook.cells.append(new_code_cell("2")), "not executed once"),
        (
            lambda notebook: [entry.metadata.pop("tags", None) for entry in notebook.cells[2:]],
            "no output is tagged",
        ),
        (change("assertion", source="print(spread)"), "nothing is asserted"),
        (printed("/" + "home/me/book"), "something of this machine"),
        (printed("<function f at " + "0x7f00aa00bb00>"), "something of this machine"),
        (printed("x" * 1_000_000), "more than 1 MB"),
        (printed("UserWarning: careful", name="stderr"), "prints to stderr"),
        (output("run", output_type="error", ename="ValueError"), "ends in an error"),
        (shown("application/vnd.jupyter.widget-view+json"), "shows a widget"),
        (shown("image/svg+xml"), "not PNG"),
        (shown("image/png"), "without a name or caption"),
        (
            change("figure", metadata=from_dict({"mystnb": {"figure": {"name": "a"}}})),
            "without a name or caption",
        ),
        (change("figure", metadata=from_dict({"mystnb": {"image": {}}})), "without alt text"),
    ],
)
def test_check_notices(break_it, complaint):
    notebook = copy.deepcopy(TEMPLATE)
    break_it(notebook)
    found = notebooks.problems(notebook, URL)
    assert any(complaint in what for what in found), found


def test_normalize_drops_progress_and_keeps_warnings():
    notebook = copy.deepcopy(TEMPLATE)
    cell(notebook, "imports").outputs = [
        new_output("stream", name="stderr", text="\r 50%|"),
        new_output("stream", name="stderr", text="#####\r100%|#####\n"),
    ]
    cell(notebook, "run").outputs = [
        new_output("stream", name="stderr", text="\r100%|#\nUserWarning: careful\n"),
        new_output("stream", name="stdout", text="a"),
        new_output("stream", name="stdout", text="b\n"),
    ]
    cell(notebook, "run").metadata["scrolled"] = True
    notebook.metadata["widgets"] = {}
    notebooks.normalize(notebook)
    assert cell(notebook, "imports").outputs == []
    assert [entry.text for entry in cell(notebook, "run").outputs] == ["UserWarning: careful", "ab\n"]
    assert set(cell(notebook, "run").metadata) == {"tags"}
    assert set(notebook.metadata) == {"himlib", "kernelspec", "language_info"}


def test_execution_repeats_to_the_byte(tmp_path, capsys):
    path = tmp_path / "template.ipynb"
    shutil.copy(notebooks.BOOK / "template.ipynb", path)
    seen = []
    for _ in range(2):
        notebooks.run([path], everything=True)
        seen.append(path.read_bytes())
    assert seen[0] == seen[1]
    assert "up to date" in capsys.readouterr().out


def test_run_executes_only_what_changed(tmp_path, monkeypatch):
    path = tmp_path / "template.ipynb"
    shutil.copy(notebooks.BOOK / "template.ipynb", path)
    executed = []
    monkeypatch.setattr(
        notebooks, "execute", lambda notebook, name: executed.append(name) or {"minutes": 9.0}
    )
    notebooks.run([path], everything=False)
    assert executed == []
    assert path.read_bytes() == (notebooks.BOOK / "template.ipynb").read_bytes()
    path.write_text(path.read_text().replace("arange(1, 101)", "arange(1, 100 + 1)"))
    with pytest.raises(SystemExit, match="promises less than was measured"):
        notebooks.run([path], everything=False)
    assert executed == ["template"]


def test_new_chapter(tmp_path, monkeypatch):
    shutil.copy(notebooks.BOOK / "template.ipynb", tmp_path)
    (tmp_path / "04_density_ratios.md").write_text("# Density-ratio tricks (planned)")
    (tmp_path / "19_new_topic.md").write_text("# A new topic (planned)")
    monkeypatch.setattr(notebooks, "BOOK", tmp_path)
    notebooks.new("19_new_topic")
    notebook = notebooks.read(tmp_path / "19_new_topic.ipynb")
    assert notebooks.problems(notebook, URL) == []
    assert notebook.cells[0].source.startswith("# New topic\n")
    assert "thm-19-error" in cell(notebook, "result").source
    assert not (tmp_path / "19_new_topic.md").exists()
    for taken_or_malformed in ("19_new_topic", "new_topic", "20-topic"):
        with pytest.raises(SystemExit, match="expected an unused name"):
            notebooks.new(taken_or_malformed)


def test_full_size(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    sources = []
    monkeypatch.setattr(
        notebooks, "execute", lambda notebook, name: sources.append(cell(notebook, "run").source)
    )
    monkeypatch.setattr(notebooks, "notebooks", lambda: [notebooks.BOOK / "template.ipynb"])
    notebooks.full()
    assert 'size = "full"' in sources[0]
    assert (tmp_path / "_build" / "full" / "template.ipynb").exists()


def test_repository_moves_and_comes_back(tmp_path, monkeypatch):
    for path in notebooks.tracked():
        target = tmp_path / path.relative_to(notebooks.ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    before = {path: path.read_bytes() for path in notebooks.tracked()}
    moved = "https://github.com/" + "some-one/a.book"
    notebooks.repository(moved)
    texts = [path.read_text() for path in notebooks.tracked()]
    assert not any(address in text for text in texts for address in notebooks.addresses(URL))
    template = notebooks.read(tmp_path / "book" / "template.ipynb")
    assert notebooks.problems(template, moved) == []
    notebooks.repository(URL)
    assert {path: path.read_bytes() for path in notebooks.tracked()} == before
    with pytest.raises(SystemExit, match="expected an address"):
        notebooks.repository("github.com/no-scheme")
