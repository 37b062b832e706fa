"""The course: what students get, what hand-ins are worth, and what the code of strangers cannot do."""

import functools
import hashlib
import importlib
import json
import os
import re
import shutil
import socket
import symtable
import zipfile
from pathlib import Path

import course
import keys
import nbformat
import notebooks
import psutil
import pytest
import sandbox
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell
from nbgrader.api import Gradebook
from nbgrader.utils import is_grade, is_solution

SOURCES = {path.stem: path for path in sorted((course.HERE / "source").glob("*/*.ipynb"))}
SUBMISSIONS = {name: importlib.import_module(f"submissions.{name}") for name in SOURCES}
WRONG = {name: module.WRONG for name, module in SUBMISSIONS.items()}
RIGHT = {name: module.RIGHT for name, module in SUBMISSIONS.items()}


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
TRUSTED = {
    "unconfined": True,
    "feedback": False,
    "check": False,
}  # the code of this file; what strangers do is tried below
SECRETS = ("BEGIN SOLUTION", "END SOLUTION", "HIDDEN TESTS", "MARK SCHEME")


@functools.cache
def read(path: Path):
    return nbformat.read(path, as_version=4)


def is_code(cell) -> bool:
    return cell.cell_type == "code" and "%pip" not in cell.source


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


def names(source: str) -> tuple[set[str], set[str]]:
    """What a cell binds, and what it reads without having bound it."""
    tables = [symtable.symtable(source, "<cell>", "exec")]
    symbols, bound = set(), {symbol.get_name() for symbol in tables[0].get_symbols() if symbol.is_assigned()}
    for table in tables:
        tables += table.get_children()
        symbols |= {
            symbol.get_name() for symbol in table.get_symbols() if symbol.is_global() or table is tables[0]
        }
    return bound, symbols - bound


def without_demonstrations(notebook):
    """A hand-in without cells that only show something: no graded cell after them reads what they bind."""
    needed = set()
    for cell in filter(is_code, reversed(notebook.cells)):
        if "nbgrader" in cell.metadata:
            needed |= names(cell.source)[1]
        elif not names(cell.source)[0] & needed:
            cell.source = "None"
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
    """The course, built once for each process."""
    target = tmp_path_factory.mktemp("course")
    course.build(target=target)
    return target


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
    answers = {key for key, cell in cells.items() if is_solution(cell) and not is_grade(cell)}
    assert len(RIGHT[name]) == 2 and all(set(right) == answers for right in RIGHT[name].values())
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
    assert {line.replace("@main", f"@{course.checkout()}") for line in shown} <= seen
    assert [secret for secret in SECRETS if secret in released.read_text()] == []
    data = {path.name for path in SOURCES[name].parent.iterdir() if path.suffix != ".ipynb"}
    assert {path.name for path in released.parent.iterdir()} == data | {released.name}


@pytest.mark.parametrize("name", SOURCES)
def test_release_stands_alone(built, tmp_path, monkeypatch, name):
    """On Colab a notebook comes alone: it brings its files, and installs the himlib that grades it."""
    released = read(built / "students" / name / f"{name}.ipynb")
    cells = graded(released)
    revision = course.checkout()
    assert re.fullmatch(r"main|[0-9a-f]{40}", revision)
    assert f'git+{notebooks.repository_url()}@{revision}"' in cells["setup_install"].source
    data = {path.name: path.read_text() for path in SOURCES[name].parent.iterdir() if path.suffix != ".ipynb"}
    assert ("setup_data" in cells) == bool(data)
    monkeypatch.chdir(tmp_path)
    for own in (False, True):  # what a student put there stays
        for file in data if own else ():
            Path(file).write_text("own")
        exec(cells["setup_data"].source if data else "", {})
        for file, text in data.items():
            assert Path(file).read_text() == ("own" if own else text)


def test_one_setting_says_which_himlib(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(SOURCES["1_abc"].parent, source / "1_abc")
    course.stand_alone(source, "1_abc", "v1.0")
    assert (
        '@v1.0"'
        in graded(nbformat.read(source / "1_abc" / "1_abc.ipynb", as_version=4))["setup_install"].source
    )


@pytest.mark.parametrize("name", SOURCES)
def test_marks(built, tmp_path, name):
    source, released = read(SOURCES[name]), built / "students" / name / f"{name}.ipynb"
    full, expected, titles = automatic_points(source), {}, {}
    notebooks = {"solved": solve(released, source), "empty": read(released)}
    expected = {"solved": full, "empty": dict.fromkeys(full, 0)}
    for case, (title, replacements, deserved) in TOGETHER[name].items():
        notebooks[case] = without_demonstrations(solve(released, source, replacements))
        titles[case] = title
        expected[case] = full | deserved
    for case, notebook in notebooks.items():
        hand_in(tmp_path, case, name, notebook)
    rows = course.grade(tmp_path, built / "teacher", jobs=1, **TRUSTED)
    for case, marks in expected.items():
        assert automatic(built / "teacher", name, case) == marks, titles.get(case, case)
    remarks = {row["student"]: row["remark"] for row in rows if row["assignment"] == name}
    assert not any("LOOK" in remark or "longer" in remark for remark in remarks.values()), remarks


GRADED = Path(__file__).parent / "submissions" / "graded.json"


@pytest.mark.parametrize("name", SOURCES)
def test_other_right_solutions(built, tmp_path, name):
    """Graded when the notebook or the solutions changed; RECORD=1 writes down that they were."""
    text = SOURCES[name].read_text() + json.dumps(RIGHT[name])
    now, before = hashlib.sha256(text.encode()).hexdigest()[:12], json.loads(GRADED.read_text())
    if before.get(name) == now and "RECORD" not in os.environ:
        pytest.skip("graded as they are; RECORD=1 grades them again")
    source, released = read(SOURCES[name]), built / "students" / name / f"{name}.ipynb"
    for case, replacements in RIGHT[name].items():
        hand_in(tmp_path, case, name, without_demonstrations(solve(released, source, replacements)))
    course.grade(tmp_path, built / "teacher", jobs=1, **TRUSTED)
    for case in RIGHT[name]:
        assert automatic(built / "teacher", name, case) == automatic_points(source), case
    if "RECORD" in os.environ:
        GRADED.write_text(json.dumps(dict(sorted((before | {name: now}).items())), indent=1) + "\n")


def test_no_test_fails_the_model_solution_by_chance():
    """The stored runs under other keys are those of the tests that there are, and the page shows them."""
    found = keys.stored()
    assert {name: list(rows) for name, rows in found.items()} == {
        name: list(automatic_points(read(path))) for name, path in SOURCES.items()
    }
    for name, rows in found.items():
        cells = graded(read(SOURCES[name]))
        for test, row in rows.items():
            assert row["code"] == keys.digest(cells[test]), f"{name}, {test} changed: run keys.py again"
            assert row["failed"] == [] and row["keys"] >= 3, (name, test)
    assert keys.table(found) in keys.PAGE.read_text()


def nbgrader_cell(make, name, source, **settings):
    given = {"grade": False, "solution": False, "locked": False, "task": False, "schema_version": 3}
    return make(source, id=name, metadata={"nbgrader": given | {"grade_id": name} | settings})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A course with one assignment, in which nothing takes time."""
    folder = tmp_path_factory.mktemp("tiny")
    test = {"grade": True, "locked": True}
    cells = [
        nbgrader_cell(new_code_cell, "given", "import numpy as np\n\none = 1", locked=True),
        nbgrader_cell(
            new_code_cell,
            "double",
            "### BEGIN SOLUTION\ndef double(x):\n    return x + x\n### END SOLUTION",
            solution=True,
        ),
        nbgrader_cell(
            new_code_cell,
            "test_double",
            "assert double(one) == 2\n### BEGIN HIDDEN TESTS\nassert double(21) == 42, 'no double'\n"
            "### END HIDDEN TESTS",
            points=5,
            **test,
        ),
        nbgrader_cell(new_code_cell, "more", "### BEGIN SOLUTION\nmore = 3\n### END SOLUTION", solution=True),
        nbgrader_cell(new_code_cell, "test_more", "assert np.allclose(more, 3)", points=2, **test),
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
# What is handed in, the marks of the two tests, and what feedback or remark says of it.
STRANGERS = {
    "honest": (DOUBLE, 5, 2, "Score: 7.0 / 10.0"),
    "loops": (
        "def double(x):\n    while True:\n        pass",
        0,
        2,
        "Stopped: this cell took longer than 3 sec",
    ),
    "holds on": (
        DOUBLE + "while True:\n    try:\n        while True:\n            pass\n    except:\n        pass",
        0,
        0,
        "Stopped: this cell",  # by the clock, where the machine is busy with other things
    ),
    "waits": (DOUBLE + "import time\ntime.sleep(1000)", 0, 0, "longer than 15 seconds by the clock"),
    "eats": (DOUBLE + "x = []\nwhile True:\n    x.append(bytearray(50_000_000))", 0, 0, "than 400 MB of mem"),
    "prints": (DOUBLE + "print('x' * 1_000_000)", 5, 2, "Stopped: more than 500 kB of output"),
    "prints on": (
        DOUBLE + "while True:\n    print('x' * 1_000)",
        5,
        2,
        "Stopped: more than 500 kB of output",
    ),
    "dies": (DOUBLE + "import os\nos._exit(0)", 0, 0, "Stopped: the process died in this cell"),
    "leaves": (DOUBLE + "import sys\nsys.exit()", 5, 2, "SystemExit"),
    "recurses": ("def double(x):\n    return double(x)", 0, 2, "RecursionError"),
    "lacks": ("import submissions\n" + DOUBLE, 0, 2, "No module named"),
    "magic": ("%time 1\n!true\n" + DOUBLE, 5, 2, "Score: 7.0"),
    "reads its data": (DOUBLE + "assert open('data.csv').read() == '1, 2, 3'", 5, 2, "Score: 7.0"),
    "warns": (
        DOUBLE.replace("return", "__import__('warnings').warn('careful')\n    return"),
        5,
        2,
        "Score: 7.0",
    ),
    "fails": ("def double(x):\n    return x + 1", 0, 2, "AssertionError: no double"),
    "tells": (
        "def double(x):\n    import sys\n    raise AssertionError(sys._getframe(1).f_code.co_consts)",
        0,
        2,
        "AssertionError",
    ),
}


def marks_of(tiny, student: str) -> tuple[float, float]:
    marks = automatic(tiny / "teacher", "tiny", student)
    return marks["test_double"], marks["test_more"]


def page_of(tiny, student: str) -> str:
    return (tiny / "teacher" / "feedback" / student / "tiny" / "tiny.html").read_text()


def test_strangers(tiny, tmp_path):
    for student, (source, *_) in STRANGERS.items():
        hand_in(tmp_path, student, "tiny", fill(tiny, source))
    limits = {"cell": 3, "memory": 400, "unconfined": bool(sandbox.missing())}
    rows = {row["student"]: row for row in course.grade(tmp_path, tiny / "teacher", **limits)}
    for student, (_, double, more, said) in STRANGERS.items():
        assert marks_of(tiny, student) == (double, more), student
        assert rows[student]["automatic"] == double + more
        page = page_of(tiny, student)
        assert said in page, student
        assert "double(21)" not in page and "(21," not in page and len(page) < 1_000_000
    for student in ("loops", "holds on", "waits", "eats", "dies"):
        assert STRANGERS[student][3].removeprefix("Stopped: ") in rows[student]["remark"]
    assert not any("LOOK" in row["remark"] for row in rows.values())
    assert (tiny / "teacher" / "marks.csv").read_text().count("\n") == len(rows) + 1


# Each ends without an error where it gets through. The names in capitals are put in.
BREAK_INS = {
    "writes into the library": "open('LIBRARY/x.py', 'w')",
    "writes code for the next start of Python": "open('PACKAGES/x.pth', 'w')",
    "makes folders of the teacher's": "os.makedirs('TEACHER/x')",
    "changes times": "os.utime('TEACHER/gradebook.db')",
    "reads the solution": "open('TEACHER/source/tiny/tiny.ipynb')",
    "reads it another way": "import readline; readline.read_history_file('TEACHER/source/tiny/tiny.ipynb')",
    "reads it by a program": "subprocess.run(['cat', 'TEACHER/source/tiny/tiny.ipynb'], check=True)",
    "opens the gradebook": "import sqlite3; sqlite3.connect('TEACHER/gradebook.db').execute('select 1')",
    "reads the checkout": "open('CHECKOUT/book/course/source/1_abc/1_abc.ipynb')",
    "reads another's hand-in": "open('HANDINS/honest/tiny/tiny.ipynb')",
    "reads the token": "assert b'TOKEN' in open(f'/proc/{os.getppid()}/environ', 'rb').read()",
    "has the token": "assert [name for name in os.environ if 'TOKEN' in name]",
    "sees other processes": "os.kill(GRADER, 0)",
    "writes outside": "open('/tmp/HERE', 'w')",
    "writes at home": "open('TEACHERSHOME/HERE', 'w')",
    "poisons what is compiled": "open('/cache/x', 'w')",
    "connects": "import socket; socket.create_connection(('127.0.0.1', TCP), 2)",
    "sends": "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout(1); "
    "s.sendto(b'x', ('127.0.0.1', UDP)); s.recv(9)",
    "mounts": "import ctypes; assert ctypes.CDLL(None).mount(b'none', b'/box', b'tmpfs', 0, None) == 0",
    "fills the disk": "open('big', 'wb').write(bytes(300_000_000))",
    "fills it in pieces": "[open(str(n), 'wb').write(bytes(10_000_000)) for n in range(40)]",
}
BREAKING_IN = """
import os, subprocess
try:
    ATTEMPT
except Exception:
    pass
else:
    del double
"""
LATER = (
    DOUBLE
    + """
import subprocess, sys
later = "import time; time.sleep(600); 'HERE'"
subprocess.Popen([sys.executable, "-c", later], start_new_session=True)
"""
)
CROWD = f"""{DOUBLE}
import threading, time
for _ in range(400):
    threading.Thread(target=time.sleep, args=(99,)).start()
time.sleep(99)
"""


@pytest.fixture(scope="module")
def walls():
    if why := sandbox.missing():
        pytest.skip(f"THE SANDBOX IS NOT TESTED: {why}")


def test_break_ins(walls, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "secret")
    library, here = Path(course.himlib.__file__).parent, f"marker-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        names = {
            "LIBRARY": library,
            "PACKAGES": Path(pytest.__file__).parents[1],
            "TEACHERSHOME": Path.home(),
        }
        names |= {"TEACHER": tiny / "teacher", "CHECKOUT": notebooks.ROOT, "HANDINS": tmp_path, "HERE": here}
        names |= {"GRADER": os.getpid(), "TCP": tcp.getsockname()[1], "UDP": udp.getsockname()[1]}
        for student, attempt in BREAK_INS.items():
            for name, value in names.items():
                attempt = attempt.replace(name, str(value))
            hand_in(tmp_path, student, "tiny", fill(tiny, DOUBLE + BREAKING_IN.replace("ATTEMPT", attempt)))
        hand_in(tmp_path, "lives on", "tiny", fill(tiny, LATER.replace("HERE", here)))
        hand_in(tmp_path, "crowd", "tiny", fill(tiny, CROWD))
        hand_in(tmp_path, "honest", "tiny", fill(tiny, DOUBLE))
        (tmp_path / "linked").mkdir()
        (tmp_path / "linked" / "tiny").symlink_to(tmp_path / "honest" / "tiny")
        rows = {row["student"]: row for row in course.grade(tmp_path, tiny / "teacher", feedback=False)}
        udp.setblocking(False)
        with pytest.raises(BlockingIOError):
            udp.recv(9)
    for student in (*BREAK_INS, "lives on", "honest"):
        assert rows[student]["automatic"] == 7, student
        assert rows[student]["remark"] == ""
    assert "processes and threads" in rows["crowd"]["remark"]
    assert "a link" in rows["linked"]["remark"] and "total" not in rows["linked"]
    lines = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    assert not [line for line in lines if here in str(line)]
    assert not [
        path for path in (library / "x.py", tiny / "teacher" / "x", Path("/tmp", here)) if path.exists()
    ]


def test_no_sandbox_no_grading(tiny, tmp_path, monkeypatch):
    hand_in(tmp_path, "honest", "tiny", fill(tiny, DOUBLE))
    monkeypatch.setattr(sandbox, "missing", lambda: "bubblewrap (bwrap) is not installed.")
    with pytest.raises(SystemExit, match=r"(?s)not installed.*--unconfined.*all your files"):
        course.grade(tmp_path, tiny / "teacher")


YES = "class Yes:\n    def __eq__(self, other):\n        return True\n    def __array__(self, *_, **__):\n"
YES += "        return np.array(3)\n\n"
TAMPERING = {
    "library": ("np.allclose = np.isclose = lambda *a, **k: np.True_", "numpy.allclose"),
    "another library": ("class np:\n    allclose = lambda *a: True", "np"),
    "builtins": ("import builtins\nbuiltins.abs = lambda x: 0", "builtins.abs"),
    "equality": (f"{YES}def double(x):\n    return Yes()\nmore = Yes()", "equality"),
}
IN_VAIN = {
    "trees": "import ast\nclass Drop(ast.NodeTransformer):\n"
    "    def visit_Assert(self, node):\n        return ast.Pass()\n"
    "get_ipython().ast_transformers.append(Drop())",
    "lines": "get_ipython().input_transformers_cleanup.append(lambda lines: [])",
    "muted": "get_ipython().showtraceback = lambda *a, **k: None",
    "own handler": "get_ipython().set_custom_exc((Exception,), lambda *a, **k: None)",
}


def test_tampering_is_seen_and_of_no_use(tiny, tmp_path):
    for student, (line, _) in TAMPERING.items():
        hand_in(tmp_path, student, "tiny", fill(tiny, "def double(x):\n    return 0", f"more = 0\n{line}"))
    for student, line in IN_VAIN.items():
        hand_in(tmp_path, student, "tiny", fill(tiny, f"def double(x):\n    return 0\n{line}", "more = 0"))
    rows = {row["student"]: row for row in course.grade(tmp_path, tiny / "teacher", **TRUSTED)}
    for student in (*TAMPERING, *IN_VAIN):
        assert rows[student]["automatic"] == 0, student
    for student, (_, said) in TAMPERING.items():
        assert "LOOK" in rows[student]["remark"] and said in rows[student]["remark"], student


SCRIPT = "<script>PWNED</script><img src=x onerror=PWNED><iframe src='javascript:PWNED'></iframe>"


def test_scripts_of_students_reach_no_browser(tiny, tmp_path):
    shows = "from IPython.display import HTML, Javascript, display\n"
    shows += f"display(HTML({SCRIPT!r}), Javascript('PWNED'))"
    notebook = fill(tiny, f"{DOUBLE}{shows}\nprint({SCRIPT!r})\nraise ValueError({SCRIPT!r})")
    essay = graded(notebook)["essay_why"]
    essay.source = f"Why not? $a<b$ {SCRIPT}\n\n[x](javascript:PWNED) [x](&#106;avascript:PWNED)"
    notebook.cells += [
        new_markdown_cell(SCRIPT),
        new_raw_cell(SCRIPT, metadata={"raw_mimetype": "text/html"}),
    ]
    notebook.cells[-2].attachments = {"x": {"text/html": SCRIPT}}
    hand_in(tmp_path, "scripts", "tiny", notebook)
    essay.cell_type, essay.outputs, essay.execution_count = "code", [], None
    hand_in(tmp_path, "scripts again", "tiny", notebook)
    course.grade(tmp_path, tiny / "teacher", unconfined=True)
    for student in ("scripts", "scripts again"):
        shown = nbformat.read(tiny / "teacher" / "autograded" / student / "tiny" / "tiny.ipynb", as_version=4)
        kinds = {
            kind
            for cell in shown.cells
            for output in cell.get("outputs", [])
            for kind in output.get("data", {})
        }
        assert kinds == {"text/plain"}
        assert {cell.cell_type for cell in shown.cells} == {"code", "markdown"}
        written = "".join(cell.source for cell in shown.cells if cell.cell_type == "markdown")
        exporter = HTMLExporter(template_name="basic")
        for page in (page_of(tiny, student), exporter.from_notebook_node(shown)[0]):
            tags = re.findall(r"<\w[^>]*PWNED|<script[^>]*>PWNED", page)
            assert tags == []
        assert "Why not? $a< b$" in written


def test_accidents_are_graded(tiny, tmp_path):
    def copied(nb, cells):
        first = nbformat.from_dict(cells["double"])
        first.source, first.id = "raise NotImplementedError", "another"
        nb.cells.insert(1, first)

    def split(nb, cells):
        first = nbformat.from_dict(cells["double"])
        first.source, first.id = "import math", "another"
        cells["double"].source = "def double(x):\n    return math.prod([2, x])"
        nb.cells.insert(nb.cells.index(cells["double"]), first)

    def test_copied(nb, cells):
        again = nbformat.from_dict(cells["test_double"])
        again.id, again.source = "again", "pass"
        nb.cells.append(again)

    def no_names(nb, cells):
        for cell in nb.cells:
            cell.metadata.pop("nbgrader", None)

    def no_names_at_all(nb, cells):
        no_names(nb, cells)
        for number, cell in enumerate(nb.cells):
            cell.id = f"new-{number}"

    def empty_name(nb, cells):
        cells["more"].metadata.nbgrader = {}

    def other_names(nb, cells):
        cells["test_double"].metadata.nbgrader.grade_id = "else"
        cells["test_more"].metadata.nbgrader.solution = True
        cells["given"].source = "one = 7"

    def tests_deleted(nb, cells):
        nb.cells = [cell for cell in nb.cells if cell not in (cells["test_double"], cells["test_more"])]

    def own_cells(nb, cells):
        cells["double"].source = "def double(x):\n    return helper(x)"
        nb.cells.insert(1, new_code_cell("def helper(x):\n    return 2 * x"))

    def skipping(nb, cells):
        cells["test_double"].metadata.tags = ["skip-execution"]
        cells["double"].source = "def double(x):\n    return 0"

    accidents = [copied, split, test_copied, no_names, no_names_at_all, empty_name, other_names]
    accidents += [tests_deleted, own_cells, skipping]
    for accident in accidents:
        notebook = fill(tiny, DOUBLE)
        graded(notebook)["essay_why"].source = "Why not?"
        accident(notebook, graded(notebook))
        hand_in(tmp_path, accident.__name__, "tiny", notebook)
    for student in ("o'neil [group 2]", "Ada, Gräfin *"):
        hand_in(tmp_path, student, "tiny", fill(tiny, DOUBLE))
    hand_in(tmp_path, "renames", "tiny", fill(tiny, DOUBLE))
    (tmp_path / "renames" / "tiny" / "tiny.ipynb").rename(tmp_path / "renames" / "tiny" / "tiny (1).ipynb")
    (hand_in(tmp_path, "breaks", "tiny", fill(tiny, "")) / "breaks" / "tiny" / "tiny.ipynb").write_text("{")
    hand_in(tmp_path, "misnames", "small", fill(tiny, ""))
    (tmp_path / "nothing" / "tiny").mkdir(parents=True)
    hand_in(tmp_path, "other", "tiny", new_notebook(cells=[new_code_cell("1")]))
    rows = {row["student"]: row for row in course.grade(tmp_path, tiny / "teacher", unconfined=True)}
    full = {accident.__name__ for accident in accidents} - {"skipping"} | {
        "o'neil [group 2]",
        "Ada, Gräfin *",
    }
    for student in (*full, "renames"):
        assert rows[student]["automatic"] == 7, student
        assert "Score: 7.0" in page_of(tiny, student)
    assert rows["skipping"]["automatic"] == 2 and rows["other"]["automatic"] == 0
    for accident in accidents:
        path = tiny / "teacher" / "autograded" / accident.__name__ / "tiny" / "tiny.ipynb"
        assert graded(nbformat.read(path, as_version=4))["essay_why"].source == "Why not?", path
    for student, said in {
        "no_names": "had lost their names",
        "breaks": "could not be graded: the file is no notebook",
        "misnames": "there is no assignment of this name; there are tiny",
        "nothing": "no notebook in the folder: it is empty",
        "other": "not the notebook that was given out",
    }.items():
        assert said in rows[student]["remark"], student
    table = (tiny / "teacher" / "marks.csv").read_text()
    assert all(student in table for student in ("breaks", "misnames", "nothing", "o'neil [group 2]"))


def test_grading_again(tiny, tmp_path, capsys):
    teacher, source = tiny / "teacher", tmp_path / "source"
    notebook = fill(tiny, DOUBLE)
    graded(notebook)["essay_why"].source = "Why not?"
    hand_ins = hand_in(tmp_path / "hand-ins", "patient", "tiny", notebook)

    def again(**settings):
        capsys.readouterr()
        rows = course.grade(hand_ins, teacher, **TRUSTED, **settings)
        return next(row for row in rows if row["student"] == "patient"), capsys.readouterr().out

    again()
    with Gradebook(f"sqlite:///{teacher / 'gradebook.db'}") as gradebook:
        grade = gradebook.find_grade("essay_why", "tiny", "tiny", "patient")
        assert grade.needs_manual_grade
        grade.manual_score, grade.needs_manual_grade = 2, False
        gradebook.db.commit()
    row, said = again()
    assert "graded before" in said
    assert (row["by hand"], row["total"], row["remark"]) == (2, 9, "")
    assert "graded before" not in again(again="patient")[1]

    # A test that changed, and then one that came, apply to all, and what was marked by hand stays.
    shutil.copytree(tiny.parent / "source", source)
    path = source / "tiny" / "tiny.ipynb"
    notebook = nbformat.read(path, as_version=4)
    graded(notebook)["test_more"].source = "assert np.allclose(more, 3) and double(1) == 3"
    graded(notebook)["more"].source = "def double(x):\n    return 3\n\n\nmore = 3"
    nbformat.write(notebook, path)
    course.build(source, tiny)
    row, said = again()
    assert "CHANGED: 7 -> 5" in said and (row["by hand"], row["total"]) == (2, 7)
    new = nbgrader_cell(new_code_cell, "test_new", "assert True", points=1, grade=True, locked=True)
    notebook.cells.append(new)
    nbformat.write(notebook, path)
    course.build(source, tiny)
    row, said = again()
    assert (row["automatic"], row["by hand"], row["of"]) == (6, 2, 11)
    # A build that fails leaves all as it was.
    path.write_text("{")
    with pytest.raises((Exception, SystemExit)):
        course.build(source, tiny)
    assert (tiny / "students" / "tiny" / "tiny.ipynb").exists() and (tiny / "teacher" / "source").exists()
    course.build(tiny.parent / "source", tiny)
    # One who comes now is graded, and told, beside those whose tests are gone.
    others = hand_in(tmp_path / "others", "next", "tiny", fill(tiny, DOUBLE))
    rows = course.grade(others, teacher, **TRUSTED | {"feedback": True})
    assert next(row for row in rows if row["student"] == "next")["automatic"] == 7
    assert (teacher / "feedback" / "next" / "tiny" / "tiny.html").exists()


def test_dates_lists_and_platforms(tiny, tmp_path, capsys):
    teacher = tiny / "teacher"
    (teacher / "course.toml").write_text(
        "due.tiny = 2027-03-01T12:00:00\nlate = { days = 1, points = 2 }\nextensions.Ada_11 = { tiny = 3 }\n"
    )
    (teacher / "students.csv").write_text("folder,mail\nAda_11,ada@x\nBlaise_12,b@x\nCarl_13,c@x\n")
    notebook = tmp_path / "tiny.ipynb"
    nbformat.write(fill(tiny, DOUBLE), notebook)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name, day in (("Ada_11_assignsubmission_file/tiny.ipynb", 4), ("Blaise_12_99_tiny-1.ipynb", 3)):
            item = zipfile.ZipInfo(f"../{name}", (2027, 3, day, 13, 0, 0))
            archive.writestr(item, notebook.read_bytes())
    course.exchange.unpack(tmp_path / "all.zip", "tiny", tmp_path / "in")
    rows = {row["student"]: row for row in course.grade(tmp_path / "in", teacher, **TRUSTED)}
    assert (rows["Ada_11"]["days late"], rows["Ada_11"]["total"]) == (1, 7)  # of which one is free
    assert (rows["Blaise_12"]["days late"], rows["Blaise_12"]["total"]) == (3, 3)
    assert rows["Carl_13"]["remark"] == "not handed in" and rows["Ada_11"]["mail"] == "ada@x"
    table = tmp_path / "grades.csv"
    table.write_text("Identifier,Mail,tiny\nParticipant 11,,\n,b@x,\nParticipant 14,,\n")
    course.exchange.export("tiny", table, course.marks(teacher), course.students(teacher))
    assert [line.split(",")[2] for line in table.read_text().splitlines()] == ["tiny", "7", "3", ""]
    (teacher / "course.toml").write_text("")
    (teacher / "students.csv").unlink()


@pytest.mark.parametrize(
    ("path", "student", "file"),
    [
        ("Ada Lovelace_11194447_assignsubmission_file_/1_abc.ipynb", "Ada Lovelace_11194447", "1_abc.ipynb"),
        (
            "LOVELACE,ADA-2018_61_assignsubmission_file_/w 1/1_abc.ipynb",
            "LOVELACE,ADA-2018_61",
            "w 1/1_abc.ipynb",
        ),
        ("Lab 2/Group A-Ada (A)_14_assignsubmission_file_/a_1_b.csv", "Group A-Ada (A)_14", "a_1_b.csv"),
        ("Ada Lovelace_11_assignsubmission_file_1_abc.ipynb", "Ada Lovelace_11", "1_abc.ipynb"),
        ("Participant_11_assignsubmission_file_/1_abc.ipynb", "Participant_11", "1_abc.ipynb"),
        ("lovelaceada_340934_208490284_1_abc.ipynb", "lovelaceada_340934", "1_abc.ipynb"),
        ("lovelaceada_LATE_340934_208490284_1_abc-2.ipynb", "lovelaceada_340934", "1_abc.ipynb"),
        ("lovelaceada_340934_208490284_waiting_times-1.csv", "lovelaceada_340934", "waiting_times.csv"),
        ("lovelaceada_340934_208490284_Project 4.4 (1).ipynb", "lovelaceada_340934", "Project 4.4 (1).ipynb"),
        ("submissions/lovelaceada_340934_208490284_part-2.py", "lovelaceada_340934", "part-2.py"),
        ("Ada Lovelace_11_assignsubmission_onlinetext_/onlinetext.html", None, None),
        ("notes.txt", None, None),
    ],
)
def test_names_in_the_zips_of_platforms(tmp_path, path, student, file):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr(path, "1")
    course.exchange.unpack(tmp_path / "all.zip", "1_abc", tmp_path / "in")
    taken = {str(one.relative_to(tmp_path / "in")) for one in (tmp_path / "in").rglob("*") if one.is_file()}
    there = {f"{student}/1_abc/{file}", str(Path(f"{student}/1_abc/{file}").parent / "timestamp.txt")}
    assert taken == (there if student else set())


LONG = """
def double(number):
    total = 0
    for step in range(2):
        total = total + number * 1
    return total
"""


def test_similar_hand_ins_are_listed(tiny, tmp_path):
    hand_in(tmp_path, "writes", "tiny", fill(tiny, LONG))
    hand_in(tmp_path, "renames all", "tiny", fill(tiny, LONG.replace("total", "t").replace("number", "n")))
    hand_in(tmp_path, "other", "tiny", fill(tiny, "double = lambda x: (x + x) if x else 0 * x ** 3 - 1 + 1"))
    course.grade(tmp_path, tiny / "teacher", **TRUSTED)
    pairs = [set(pair[1:]) for pair in course.exchange.similar(tiny / "teacher", "tiny")]
    assert {"writes", "renames all"} in pairs
    assert {"writes", "other"} not in pairs
