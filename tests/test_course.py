"""The course: what students get, what hand-ins are worth, and what the code of strangers cannot do."""

import functools
import importlib
import os
from pathlib import Path

import course
import nbformat
import notebooks
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from nbgrader.api import Gradebook
from nbgrader.utils import is_grade, is_solution

SOURCES = {path.stem: path for path in sorted((course.HERE / "source").glob("*/*.ipynb"))}
WRONG = {name: importlib.import_module(f"submissions.{name}").WRONG for name in SOURCES}


def together(wrong: dict) -> dict:
    """Wrong solutions of different cells that cost different marks are handed in by one student."""
    groups: list[list] = []
    for case, (replacements, deserved) in wrong.items():
        for group in groups:
            if not set(group[1]) & set(replacements) and not set(group[2]) & set(deserved):
                group[:] = f"{group[0]}; {case}", group[1] | replacements, group[2] | deserved
                break
        else:
            groups.append([case, replacements, deserved])
    return {f"wrong {i}": group for i, group in enumerate(groups)}


TOGETHER = {name: together(WRONG[name]) for name in SOURCES}
SUBMISSIONS = [(name, case) for name in SOURCES for case in ("solved", "empty", *TOGETHER[name])]
PATIENT = {"timeout": 300, "notebook_timeout": 900}  # the machine may be busy with other tests
SECRETS = ("BEGIN SOLUTION", "END SOLUTION", "HIDDEN TESTS", "MARK SCHEME")


@functools.cache
def read(path: Path):
    return nbformat.read(path, as_version=4)


def graded(notebook) -> dict:
    """The cells that nbgrader knows, by their names."""
    return {cell.metadata.nbgrader.grade_id: cell for cell in notebook.cells if "nbgrader" in cell.metadata}


def automatic_points(notebook) -> dict[str, float]:
    """Points of the cells that are marked by themselves."""
    cells = graded(notebook).items()
    return {
        name: cell.metadata.nbgrader.points
        for name, cell in cells
        if is_grade(cell) and not is_solution(cell)
    }


def solve(students: Path, source, replacements: dict[str, str] | None = None):
    """A release notebook with the solutions filled in, or others in their place."""
    notebook = nbformat.read(students, as_version=4)
    solutions = {name: cell.source for name, cell in graded(source).items() if is_solution(cell)}
    solutions |= replacements or {}
    for name, cell in graded(notebook).items():
        if name in solutions:
            lines = solutions[name].strip("\n").split("\n")
            cell.source = "\n".join(line for line in lines if not line.strip().startswith("### "))
    return notebook


def hand_in(folder: Path, student: str, name: str, notebook) -> Path:
    target = folder / student / name
    target.mkdir(parents=True)
    nbformat.write(notebook, target / f"{name}.ipynb")
    return folder


def automatic(teacher: Path, name: str, student: str) -> dict[str, float]:
    """Marks in the gradebook, one for each test."""
    with Gradebook(f"sqlite:///{teacher / 'gradebook.db'}") as gradebook:
        grades = gradebook.find_submission_notebook(name, name, student).grades
        return {grade.name: grade.auto_score for grade in grades if grade.name.startswith("test_")}


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The course, built once for each process; hand-ins share what JAX compiled."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    settings = {"DIR": shared / "compiled", "MIN_COMPILE_TIME_SECS": 0, "MIN_ENTRY_SIZE_BYTES": -1}
    target = tmp_path_factory.mktemp("course")
    course.build(target=target)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            middle = "COMPILATION" if name == "DIR" else "PERSISTENT"
            patch.setenv(f"JAX_{middle}_CACHE_{name}", str(value))
        yield target


@pytest.mark.parametrize("name", SOURCES)
def test_source(name):
    notebook = read(SOURCES[name])
    cells = graded(notebook)
    points = automatic_points(notebook)
    essays = {key: cell for key, cell in cells.items() if is_grade(cell) and is_solution(cell)}
    assert 70 <= sum(points.values()) <= 80
    assert sum(points.values()) + sum(cell.metadata.nbgrader.points for cell in essays.values()) == 100
    assert all(key.startswith("test_") for key in points)
    assert all("BEGIN HIDDEN TESTS" in cells[key].source for key in points)
    assert all("MARK SCHEME" in cell.source and key.startswith("essay_") for key, cell in essays.items())
    assert len(WRONG[name]) >= 4
    for replacements, deserved in WRONG[name].values():
        assert set(replacements) <= {key for key, cell in cells.items() if is_solution(cell)}
        assert deserved and all(0 <= mark < points[key] for key, mark in deserved.items())
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].source == notebooks.INSTALL.format(url=notebooks.repository_url())
    assert not any(cell.outputs or cell.execution_count for cell in code)


def lines(notebook) -> tuple[set[str], set[str]]:
    """Split the lines of a source into those that students see, and the others."""
    both = set(), set()
    for cell in notebook.cells:
        hidden = whole = is_solution(cell) and "BEGIN SOLUTION" not in cell.source
        for line in cell.source.split("\n"):
            if line.strip().startswith(("### BEGIN", "### END")):
                hidden = whole or "BEGIN" in line
            else:
                both[hidden].add(line.strip())
    return both


@pytest.mark.parametrize("name", SOURCES)
def test_release_gives_nothing_away(built, name):
    released = built / "students" / name / f"{name}.ipynb"
    shown, hidden = lines(read(SOURCES[name]))
    seen = {line.strip() for cell in read(released).cells for line in cell.source.split("\n")}
    assert len(hidden) > 40
    assert seen & (hidden - shown) == set()
    assert shown <= seen
    assert [secret for secret in SECRETS if secret in released.read_text()] == []
    data = {path.name for path in SOURCES[name].parent.iterdir() if path.suffix != ".ipynb"}
    assert {path.name for path in released.parent.iterdir()} == data | {released.name}


@pytest.mark.parametrize(("name", "case"), SUBMISSIONS)
def test_marks(built, tmp_path, name, case):
    source, released = read(SOURCES[name]), built / "students" / name / f"{name}.ipynb"
    expected = automatic_points(source)
    cases = case
    if case == "empty":
        notebook, expected = read(released), dict.fromkeys(expected, 0)
    else:
        cases, replacements, deserved = TOGETHER[name].get(case, (case, {}, {}))
        notebook, expected = solve(released, source, replacements), expected | deserved
    student = case.replace(" ", "-")
    course.grade(hand_in(tmp_path, student, name, notebook), built / "teacher", **PATIENT)
    assert automatic(built / "teacher", name, student) == expected, cases


def nbgrader_cell(make, name, source, **settings):
    given = {"grade": False, "solution": False, "locked": False, "task": False, "schema_version": 3}
    return make(source, id=name, metadata={"nbgrader": given | {"grade_id": name} | settings})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A course with one assignment, in which nothing takes time."""
    folder = tmp_path_factory.mktemp("tiny")
    test = {"grade": True, "locked": True}
    cells = [
        nbgrader_cell(new_code_cell, "given", "one = 1", locked=True),
        nbgrader_cell(new_code_cell, "double", "### BEGIN SOLUTION\nSECRET\n### END SOLUTION", solution=True),
        nbgrader_cell(
            new_code_cell,
            "test_double",
            "assert double(one) == 2\n### BEGIN HIDDEN TESTS\nassert double(21) == 42, 'no double'\n"
            "### END HIDDEN TESTS",
            points=5,
            **test,
        ),
        nbgrader_cell(new_code_cell, "more", "### BEGIN SOLUTION\nmore = 3\n### END SOLUTION", solution=True),
        nbgrader_cell(new_code_cell, "test_more", "assert more == 3", points=2, **test),
        nbgrader_cell(
            new_markdown_cell,
            "essay_why",
            "Because.\n=== BEGIN MARK SCHEME ===\n* 3: so\n=== END MARK SCHEME ===",
            grade=True,
            solution=True,
            points=3,
        ),
    ]
    notebook = new_notebook(
        cells=cells, metadata={"kernelspec": notebooks.KERNEL, "language_info": notebooks.LANGUAGE}
    )
    (folder / "source" / "tiny").mkdir(parents=True)
    nbformat.write(notebook, folder / "source" / "tiny" / "tiny.ipynb")
    (folder / "source" / "tiny" / "data.csv").write_text("1, 2, 3")
    course.build(folder / "source", folder / "built")
    return folder / "built"


def fill(tiny, first: str, second: str = "more = 3"):
    notebook = nbformat.read(tiny / "students" / "tiny" / "tiny.ipynb", as_version=4)
    graded(notebook)["double"].source, graded(notebook)["more"].source = first, second
    return notebook


DOUBLE = "def double(x):\n    return 2 * x\n\n"
READS = f"""{DOUBLE}
import os
import sqlite3
from pathlib import Path

assert Path("data.csv").read_text() == "1, 2, 3"
assert os.listdir(".") == ["data.csv"]
assert not [name for name in os.environ if "TOKEN" in name]
found = []
for look in (
    lambda: Path("TEACHER/source/tiny/tiny.ipynb").read_text(),
    lambda: sqlite3.connect("TEACHER/gradebook.db"),
    lambda: os.listdir("TEACHER/autograded"),
    lambda: Path(f"/proc/{{os.getppid()}}/cwd/gradebook.db").read_bytes(),
    lambda: Path("CHECKOUT/book/course/source/1_abc/1_abc.ipynb").read_text(),
    lambda: Path("FOLDER/honest/tiny/tiny.ipynb").read_text(),
    lambda: os.system("cat TEACHER/source/tiny/tiny.ipynb"),
    lambda: os.kill(os.getppid(), 0),
):
    try:
        found.append(look())
    except PermissionError as error:
        assert "assignment" in str(error)
assert not found, found
try:
    import submissions
except ModuleNotFoundError:
    import book.course.course
"""
# What is handed in, the marks of the two tests, and what the feedback says of it.
STRANGERS = {
    "honest": (DOUBLE, 5, 2, "Score: 7.0 / 10.0"),
    "loops": (
        "def double(x):\n    while True:\n        pass",
        0,
        2,
        "Stopped: this cell took longer than 8 sec",
    ),
    "eats": (DOUBLE + "x = []\nwhile True:\n    x.append(bytearray(50_000_000))", 0, 0, "than 400 MB of mem"),
    "prints": (DOUBLE + "print('x' * 1_000_000)", 5, 2, "Stopped: more than 500 kB of output"),
    "prints on": (
        DOUBLE + "while True:\n    print('x' * 1_000)",
        5,
        2,
        "Stopped: more than 500 kB of output",
    ),
    "dies": (DOUBLE + "import os\nos._exit(0)", 0, 0, "Stopped: the kernel died in this cell"),
    "reads": (READS, 5, 2, "No module named"),
    "opens": (DOUBLE + "open('TEACHER/gradebook.db')", 5, 2, "closed to submissions"),
    "warns": (
        DOUBLE.replace("return", "__import__('warnings').warn('careful')\n    return"),
        5,
        2,
        "careful",
    ),
    "fails": ("def double(x):\n    return x + 1", 0, 2, "AssertionError: no double"),
}


def test_strangers(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "secret")
    teacher = tiny / "teacher"
    for student, (source, *_) in STRANGERS.items():
        source = source.replace("TEACHER", str(teacher)).replace("CHECKOUT", str(notebooks.ROOT))
        hand_in(tmp_path, student, "tiny", fill(tiny, source.replace("FOLDER", str(tmp_path))))
    # Those who change tests, skip or delete them get what they deserve.
    changed = fill(tiny, "def double(x):\n    return 0")
    graded(changed)["test_double"].source = graded(changed)["given"].source = "pass"
    graded(changed)["test_double"].metadata.tags = ["skip-execution"]
    hand_in(tmp_path, "changes", "tiny", changed)
    deleted = fill(tiny, "def double(x):\n    return 0")
    deleted.cells.remove(graded(deleted)["test_double"])
    hand_in(tmp_path, "deletes", "tiny", deleted)
    (hand_in(tmp_path, "breaks", "tiny", deleted) / "breaks" / "tiny" / "tiny.ipynb").write_text("{")
    hand_in(tmp_path, "misnames", "small", deleted)

    limits = {"timeout": 8, "memory": 400}
    rows = {row["student"]: row for row in course.grade(tmp_path, teacher, **limits)}
    expected = {student: (double, more) for student, (_, double, more, _) in STRANGERS.items()}
    expected |= {"changes": (0, 2), "deletes": (0, 2)}
    for student, (double, more) in expected.items():
        assert automatic(teacher, "tiny", student) == {"test_double": double, "test_more": more}, student
        assert rows[student]["automatic"] == double + more
        page = (teacher / "feedback" / student / "tiny" / "tiny.html").read_text()
        assert STRANGERS.get(student, "0000")[3] in page or student in ("changes", "deletes"), student
        assert "double(21)" not in page
        assert len(page) < 1_000_000
    assert "more than 400 MB" in rows["eats"]["remark"]
    assert "could not be graded" in rows["breaks"]["remark"]
    assert "misnames" not in rows
    assert (teacher / "marks.csv").read_text().count("\n") == len(rows) + 1


def test_grading_again_keeps_what_was_done_by_hand(tiny, tmp_path, capsys):
    teacher = tiny / "teacher"
    notebook = fill(tiny, DOUBLE)
    graded(notebook)["essay_why"].source = "Why not?"
    hand_in(tmp_path, "patient", "tiny", notebook)
    course.grade(tmp_path, teacher)
    with Gradebook(f"sqlite:///{teacher / 'gradebook.db'}") as gradebook:
        grade = gradebook.find_grade("essay_why", "tiny", "tiny", "patient")
        assert grade.needs_manual_grade
        grade.manual_score, grade.needs_manual_grade = 2, False
        gradebook.db.commit()
    row = next(row for row in course.grade(tmp_path, teacher) if row["student"] == "patient")
    assert "graded before" in capsys.readouterr().out
    assert (row["by hand"], row["total"], row["remark"]) == (2, 9, "")
    course.build(tiny.parent / "source", tiny)
    row = next(row for row in course.marks(teacher) if row["student"] == "patient")
    assert row["total"] == 9
