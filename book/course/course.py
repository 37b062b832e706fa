"""Make the course, and grade what students hand in.

python course.py build                        make the students' and the teacher's folder, in _build/course
python course.py grade FOLDER                 grade FOLDER/STUDENT/N_name/*.ipynb, write feedback and marks
python course.py unpack ZIP N_name FOLDER     put a learning platform's zip into such folders
python course.py export N_name TABLE.csv      write marks into a learning platform's table of grades
python course.py similar N_name               list pairs of hand-ins that are alike

Grading again grades what changed (hand-ins, tests, limits, himlib), keeps the marks given by hand, and renews
feedback and marks. `--again STUDENT` grades one student again, `--again` all.
"""

import argparse
import csv
import hashlib
import json
import logging
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import warnings
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import exchange
import grading
import nbformat
import sandbox
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.converters import GenerateAssignment, GenerateFeedback
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import SaveAutoGrades
from nbgrader.utils import is_grade, is_solution
from traitlets.config import PyFileConfigLoader

import himlib

HERE = Path(__file__).resolve().parent
BUILT = HERE.parents[1] / "_build" / "course"
os.environ["PATH"] = (
    f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # nbgrader calls alembic
)
warnings.filterwarnings("ignore", "Object of type <.*> not in session")  # its way with a data base
warnings.filterwarnings("ignore", "Cell is missing an id field")  # and with cells that it adds
MACHINERY = ("course.py", "exchange.py", "grading.py", "nbgrader_config.py", "runner.py", "sandbox.py")
FIELDS = ("assignment", "handed in", "days late", "automatic", "by hand", "penalty", "total", "of", "remark")
log = logging.getLogger("course")
log.addHandler(logging.NullHandler())
log.propagate = False


def gradebook(teacher: Path) -> Gradebook:
    return Gradebook(f"sqlite:///{teacher / 'gradebook.db'}", "lfvi")


def convert(converter, teacher: Path, assignment: str) -> None:
    """Run one step of nbgrader."""
    config = PyFileConfigLoader("nbgrader_config.py", path=str(teacher)).load_config()
    config.CourseDirectory.root = str(teacher)
    folder = CourseDirectory(config=config, log=log, assignment_id=assignment)
    converter(coursedir=folder, config=config, log=log, force=True).start()


def read(folder: Path, name: str):
    return nbformat.read(folder / name / f"{name}.ipynb", as_version=4)


class AllFeedback(GenerateFeedback):
    """Feedback for all who were graded by the tests that there are; those of others have no row any more.

    nbgrader would take brackets in the name of a student for a pattern.
    """

    def init_notebooks(self):
        root, name = Path(self.coursedir.root), self.coursedir.assignment_id
        entries, state = graded(root), tests(root, name)
        pages = root.glob(f"autograded/*/{name}/{name}.ipynb")
        self.assignments = {
            str(page.parent): [str(page)]
            for page in pages
            if entries.get(f"{page.parts[-3]}/{name}", {}).get("tests") == state
        }


# Making it.


def rubrics(notebook) -> str:
    """Write the questions that are marked by hand, with the answers and their marks."""
    parts = []
    for before, cell in zip(notebook.cells, notebook.cells[1:], strict=False):
        if is_grade(cell) and is_solution(cell):
            points = cell.metadata.nbgrader.points
            parts.append(
                f"## {cell.metadata.nbgrader.grade_id}: {points} points\n\n{before.source}\n\n{cell.source}"
            )
    return "\n\n".join(parts)


def generate(teacher: Path, name: str) -> None:
    """Make a release. Where cells came or went, what was marked by hand is carried over."""
    cells = {grading.grade_id(cell) for cell in read(teacher / "source", name).cells} - {None}
    by_hand: dict = {}
    with gradebook(teacher) as book:
        try:
            known = {cell.name for cell in book.find_notebook(name, name).source_cells}
        except MissingEntry:
            known = cells
        if known != cells:
            for entry in book.assignment_submissions(name):
                (notebook,) = entry.notebooks
                marks = {grade.name: grade.manual_score for grade in notebook.grades}
                comments = {comment.name: comment.manual_comment for comment in notebook.comments}
                by_hand[entry.student.id] = marks, comments
            book.remove_assignment(name)
    convert(GenerateAssignment, teacher, name)
    with gradebook(teacher) as book:
        for student, (marks, comments) in by_hand.items():
            (notebook,) = book.update_or_create_submission(name, student).notebooks
            for grade in notebook.grades:
                grade.manual_score = marks.get(grade.name)
            for comment in notebook.comments:
                comment.manual_comment = comments.get(comment.name)
        book.db.commit()


def checkout() -> str:
    """The commit of the checkout that grades, or main where there is none."""
    command = ["git", "-C", str(Path(himlib.__file__).parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        found = ""
    return found or "main"


BESIDE = """from pathlib import Path

for name, text in {files}.items():
    if not Path(name).exists():  # as on Colab, where the notebook comes alone
        Path(name).write_text(text)"""


def stand_alone(folder: Path, name: str, revision: str) -> None:
    """Let a notebook install the himlib that grades it, and bring its files along."""
    notebook = read(folder, name)
    for place, cell in enumerate(notebook.cells):
        if grading.grade_id(cell) != "setup_install":
            continue
        cell.source = cell.source.replace("@main", f"@{revision}")
        beside = {path.name: path.read_text() for path in files(folder / name) if path.suffix != ".ipynb"}
        if beside:
            about = cell.metadata.nbgrader | {"grade_id": "setup_data"}
            code = BESIDE.format(files=json.dumps(beside, indent=4))
            new = nbformat.v4.new_code_cell(code, id="setup_data", metadata={"nbgrader": about})
            notebook.cells.insert(place + 1, new)
        break
    nbformat.write(notebook, folder / name / f"{name}.ipynb")


def build(source: Path = HERE / "source", target: Path = BUILT) -> None:
    """Make everything beside what is there, and then put it in its place."""
    teacher = target / "teacher"
    teacher.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        new = Path(scratch, "teacher")
        shutil.copytree(source, new / "source", ignore=shutil.ignore_patterns(".*"))
        for name in MACHINERY:
            shutil.copy(HERE / name, new)
        if (teacher / "gradebook.db").exists():
            shutil.copy(teacher / "gradebook.db", new)
        names, pages = sorted(path.name for path in (new / "source").iterdir()), ["# Rubrics"]
        revision = settings(teacher).get("himlib") or checkout()
        for name in names:
            stand_alone(new / "source", name, revision)
            generate(new, name)
            pages.append(f"# {name}\n\n{rubrics(read(new / 'source', name))}")
        (new / "rubrics.md").write_text("\n\n".join(pages) + "\n")
        if not (teacher / "course.toml").exists():
            shutil.copy(HERE / "course.toml", new)
        shutil.copytree(new / "release", Path(scratch, "students"))
        for made in [*new.iterdir(), Path(scratch, "students")]:
            place = (target if made.name == "students" else teacher) / made.name
            if place.is_dir():
                shutil.rmtree(place)
            os.replace(made, place)
    print(f"{len(names)} assignments: {', '.join(names)}\n")
    print(f"For students: {target / 'students'}")
    print("  Give out one folder at a time. It is complete: a notebook, and its data if it has any.")
    print(f"  Where himlib is missing, it installs it at {revision}.")
    print(f"For you: {teacher}")
    print("  Solutions (source), rubrics.md, and all that grading needs. Keep it to yourself.")
    print("To grade: put hand-ins into FOLDER/STUDENT/ASSIGNMENT/ASSIGNMENT.ipynb, and then")
    print(f"  {sys.executable} {teacher / 'course.py'} grade FOLDER")
    now = {name: tests(teacher, name) for name in names}
    stale = [
        key for key, entry in graded(teacher).items() if entry["tests"] != now.get(key.rpartition("/")[2])
    ]
    if stale:
        print(f"Tests changed for {len(stale)} hand-ins: grade again, and it says whose marks change.")


# Hand-ins, and what they were graded with.


def digest(paths, *others) -> str:
    total = hashlib.sha256(json.dumps(others, sort_keys=True).encode())
    for path in sorted(paths):
        total.update(path.name.encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


def files(folder: Path) -> list[Path]:
    """All files of a folder, less what is hidden, or is a link to who knows where."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "." and not Path(place, name).is_symlink()]
        paths = [Path(place, name) for name in names if name[0] != "."]
        found += [path for path in paths if path.is_file() and not path.is_symlink()]
    return sorted(found)


def copy(source: Path, target: Path, wanted=lambda path: True) -> None:
    for path in filter(wanted, files(source)):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)


def tests(teacher: Path, name: str) -> str:
    """What marks depend on beside the hand-in: tests, limits, versions."""
    versions = [sys.version, *map(version, ("jax", "jaxlib", "numpy", "scipy", "optax"))]
    library = sorted(Path(himlib.__file__).parent.rglob("*.py"))
    machinery = [HERE / "grading.py", HERE / "runner.py"]
    own = files(teacher / "source" / name) if (teacher / "source" / name).is_dir() else []
    return digest([*own, *library, *machinery], versions, settings(teacher)["limits"])


def settings(teacher: Path) -> dict:
    path = teacher / "course.toml"
    return {"limits": {}, "due": {}, "late": {}, "extensions": {}} | (
        tomllib.loads(path.read_text()) if path.exists() else {}
    )


def graded(teacher: Path) -> dict[str, dict]:
    """What was graded, by STUDENT/ASSIGNMENT: of which inputs, when handed in, with what remark."""
    path = teacher / "graded.json"
    return json.loads(path.read_text()) if path.exists() else {}


def write(path: Path, text: str) -> None:
    """Write a file at once, so that nothing is lost by an end in between."""
    path.with_suffix(".new").write_text(text)
    os.replace(path.with_suffix(".new"), path)


def find(folder: Path, name: str, known: set[str]) -> Path:
    """The notebook in a folder that was handed in, by whatever name, or a reason in plain words."""
    if folder.is_symlink() or folder.parent.is_symlink():
        raise ValueError("the folder is a link to another one")
    if name not in known:
        raise ValueError(f"there is no assignment of this name; there are {', '.join(sorted(known))}")
    if set('<>&"') & set(folder.parent.name) or folder.parent.name != folder.parent.name.strip():
        raise ValueError('the name of the folder has one of < > & ", or a space at an end')
    notebooks = [path for path in files(folder) if path.suffix == ".ipynb"]
    for chosen in (notebooks, [path for path in notebooks if path.name == f"{name}.ipynb"]):
        if len(chosen) == 1:
            return chosen[0]
    found = ", ".join(str(path.relative_to(folder)) for path in notebooks or files(folder))
    what = "more than one notebook" if notebooks else "no notebook"
    raise ValueError(f"{what} in the folder: {found or 'it is empty'}")


def time_of(path: Path) -> datetime:
    """When it was handed in: what nbgrader's collecting wrote down, or the time of the file."""
    stamp = path.parent / "timestamp.txt"
    if stamp.is_file():
        return datetime.fromisoformat(stamp.read_text().strip().removesuffix(" UTC")).replace(tzinfo=None)
    return datetime.fromtimestamp(path.stat().st_mtime).replace(microsecond=0)


# Marks.


def students(teacher: Path) -> dict[str, dict]:
    """The rows of students.csv, by their first column: what a student's folder is called."""
    path = teacher / "students.csv"
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        return {next(iter(row.values())): row for row in csv.DictReader(file)}


def lateness(entries: dict[str, dict], rules: dict) -> dict[str, tuple[int, float]]:
    """Days late and points off for each hand-in; free days are used in the order of the due dates."""
    result, left = {}, {}
    for key in sorted(entries, key=lambda key: str(rules["due"].get(key.rpartition("/")[2], ""))):
        student, _, name = key.rpartition("/")
        if name not in rules["due"] or "handed in" not in entries[key]:
            continue
        extension = timedelta(days=rules["extensions"].get(student, {}).get(name, 0))
        over = datetime.fromisoformat(entries[key]["handed in"]) - rules["due"][name] - extension
        days = max(0, math.ceil(over / timedelta(days=1)))
        free = min(days, left.get(student, rules["late"].get("days", 0)))
        left[student] = left.get(student, rules["late"].get("days", 0)) - free
        result[key] = days, (days - free) * rules["late"].get("points", 0)
    return result


def marks(teacher: Path) -> list[dict]:
    """A row for each hand-in, and for each assignment that a listed student did not hand in."""
    entries, listed, rules, rows = graded(teacher), students(teacher), settings(teacher), []
    late = lateness(entries, rules)
    with gradebook(teacher) as book:
        for key, entry in entries.items():
            student, _, name = key.rpartition("/")
            row = {"student": student} | listed.get(student, {}) | {"assignment": name}
            row |= {field: entry[field] for field in ("handed in",) if field in entry}
            remarks = list(entry["remarks"])
            if entry["done"]:
                notebook = book.find_submission_notebook(name, name, student)
                days, penalty = late.get(key, (0, 0))
                penalty = min(penalty, notebook.score)
                if (notebook.late_submission_penalty or 0) != penalty:
                    notebook.late_submission_penalty = penalty or None
                row |= {"days late": days, "penalty": penalty, "automatic": notebook.code_score}
                row |= {"by hand": notebook.written_score, "total": notebook.score - penalty}
                row["of"] = notebook.max_score
                if notebook.score > notebook.max_score:
                    remarks.append("LOOK: more points than there are")
                if notebook.needs_manual_grade:
                    remarks.append("questions to be marked by hand")
            rows.append(row | {"remark": "; ".join(remarks)})
        book.db.commit()
    for student, person in listed.items():
        for name in sorted({key.rpartition("/")[2] for key in entries}):
            if f"{student}/{name}" not in entries:
                rows.append({"student": student} | person | {"assignment": name, "remark": "not handed in"})
    rows.sort(key=lambda row: (row["student"], row["assignment"]))
    columns = list(dict.fromkeys(["student", *(field for one in listed.values() for field in one), *FIELDS]))
    with (teacher / "marks.new").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    os.replace(teacher / "marks.new", teacher / "marks.csv")
    return rows


# Grading.


def save(teacher: Path, student: str, name: str, notebook) -> None:
    """Put a graded notebook where nbgrader looks for it, and its marks into the gradebook."""
    place = teacher / "autograded" / student / name
    place.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, place / f"{name}.ipynb")
    with gradebook(teacher) as book:
        book.update_or_create_student(student)
        book.update_or_create_submission(name, student)
    about = {"student": student, "assignment": name, "notebook": name}
    about["db_url"] = f"sqlite:///{teacher / 'gradebook.db'}"
    SaveAutoGrades(log=log).preprocess(notebook, {"nbgrader": about})


class Grader:
    """Runs hand-ins, in several threads at a time."""

    def __init__(self, teacher: Path, limits: dict, unconfined: bool, fills_cache: bool):
        self.teacher, self.limits, self.unconfined, self.fills_cache = (
            teacher,
            limits,
            unconfined,
            fills_cache,
        )
        self.own, self.opened = threading.local(), []

    def box(self, name: str, source, fills_cache: bool):
        """A sandbox for a thread; where there are no walls, one for all notebooks of an assignment."""
        boxes = self.own.__dict__.setdefault("boxes", {})
        if (name, fills_cache) not in boxes:
            settings = self.limits, grading.imports(source)[0], self.teacher / "compiled"
            boxes[name, fills_cache] = sandbox.Sandbox(*settings, self.unconfined, fills_cache)
            self.opened.append(boxes[name, fills_cache])
        return boxes[name, fills_cache]

    def run(self, name: str, handed_in, own: Path | None, fills_cache=False):
        """Run a notebook beside the assignment's files and the student's, and return it and remarks."""
        source, release = read(self.teacher / "source", name), read(self.teacher / "release", name)
        notebook, remarks = grading.rebuild(handed_in, release, source)
        with tempfile.TemporaryDirectory() as folder:
            for root in filter(None, (own, self.teacher / "release" / name)):
                copy(
                    root, Path(folder), lambda path: path.suffix != ".ipynb" and path.name != "timestamp.txt"
                )
            with self.box(name, source, fills_cache or self.fills_cache).notebook(Path(folder)) as box:
                remarks += grading.execute(notebook, source, box)
        return notebook, remarks

    def check(self, name: str) -> None:
        """The model solution gets full marks here, and what JAX compiles for it serves all hand-ins."""
        source = read(self.teacher / "source", name)
        notebook, remarks = self.run(name, source, None, fills_cache=True)
        wrong = [
            grading.grade_id(cell)
            for cell in notebook.cells
            if grading.is_test(cell) and any(output.output_type == "error" for output in cell.outputs)
        ]
        if wrong or remarks:
            raise SystemExit(f"The model solution of {name} fails here: {', '.join([*wrong, *remarks])}")

    def close(self):
        for box in self.opened:
            box.close()


def gather(hand_ins: Path, entries: dict[str, dict], state: dict[str, str], again) -> list[tuple]:
    """Find what is to be graded. What cannot be gets an entry that says why."""
    todo = []
    for folder in sorted(path for path in hand_ins.glob("*/*") if path.is_dir() and path.name[0] != "."):
        student, name = folder.parent.name, folder.name
        key, entry = f"{student}/{name}", {"done": False, "tests": state.get(name, ""), "remarks": []}
        try:
            path = find(folder, name, set(state))
            entry |= {"handed in": time_of(path).isoformat(), "files": digest(files(folder))}
            old = entries.get(key, {})
            same = old.get("done") and all(old.get(field) == entry[field] for field in ("files", "tests"))
            if same and again not in (True, student):
                print(f"{key}: graded before")
            else:
                todo.append((key, path, grading.read(path), entry))
        except ValueError as reason:
            entries[key] = entry | {"remarks": [f"could not be graded: {reason}"]}
            print(f"{key}: {entries[key]['remarks'][0]}")
    return todo


def grade(
    hand_ins: Path,
    teacher: Path,
    again=None,
    unconfined=False,
    jobs=None,
    feedback=True,
    check=True,
    **limits,
):
    """Grade the hand-ins that are new or changed, or whose tests did, and return all marks.

    Without `check` the model solutions are not tried before, and the hand-ins themselves fill the cache of
    what JAX compiles, into which strangers must not write.
    """
    if not unconfined and (why := sandbox.missing()):
        raise SystemExit(sandbox.UNCONFINED.format(why=why))
    jobs = jobs or os.cpu_count() or 1
    log.addHandler(handler := logging.FileHandler(teacher / "grading.log"))
    log.setLevel(logging.INFO)
    checked, entries = teacher / "checked.json", graded(teacher)
    limits = settings(teacher)["limits"] | limits
    state = {path.name: tests(teacher, path.name) for path in (teacher / "source").iterdir()}
    grader = Grader(teacher, limits, unconfined, fills_cache=not check)
    pool = ThreadPoolExecutor(jobs)
    try:
        todo = gather(hand_ins, entries, state, again)
        solved = json.loads(checked.read_text()) if checked.exists() else {}
        for name in sorted({key.rpartition("/")[2] for key, *_ in todo}):
            if check and solved.get(name) != state[name]:
                print(f"{name}: trying the model solution", flush=True)
                grader.check(name)
                solved[name] = state[name]
                write(checked, json.dumps(solved))
        write(teacher / "graded.json", json.dumps(entries, indent=1))
        before = {f"{row['student']}/{row['assignment']}": row.get("automatic") for row in marks(teacher)}

        def work(key, path, notebook, entry):
            began, folder, name = time.monotonic(), path.parent, key.rpartition("/")[2]
            try:
                notebook, entry["remarks"] = grader.run(name, notebook, folder)
                entry["done"] = True
            except Exception as error:  # whatever a notebook may hold: the next one is graded
                log.exception(key)
                entry["remarks"] = [f"could not be graded: {type(error).__name__}, see grading.log"]
            return key, folder, notebook, entry, time.monotonic() - began

        waiting = [pool.submit(work, *one) for one in todo]
        for number, done in enumerate(as_completed(waiting), 1):
            key, folder, notebook, entry, seconds = done.result()
            student, _, name = key.rpartition("/")
            submitted = teacher / "submitted" / student / name
            if submitted.resolve() != folder.resolve():
                shutil.rmtree(submitted, ignore_errors=True)
                copy(folder, submitted)
            if entry["done"]:
                save(teacher, student, name, notebook)
            entries[key] = entry
            write(teacher / "graded.json", json.dumps(entries, indent=1))
            row = next(r for r in marks(teacher) if f"{r['student']}/{r['assignment']}" == key)
            got = f"{row['automatic']:g} points by tests" if entry["done"] else row["remark"]
            print(f"[{number}/{len(todo)}] {key}: {got}, {seconds:.0f} s", flush=True)
            if entry["done"] and before.get(key) not in (None, row["automatic"]):
                print(f"  CHANGED: {before[key]:g} -> {row['automatic']:g} points by tests")
        rows = marks(teacher)
        if feedback:
            for name in sorted({key.rpartition("/")[2] for key, entry in entries.items() if entry["done"]}):
                convert(AllFeedback, teacher, name)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        grader.close()
        log.removeHandler(handler)
        handler.close()
    print(
        f"Marks: {teacher / 'marks.csv'}\nFeedback: {teacher / 'feedback'}/STUDENT/ASSIGNMENT/ASSIGNMENT.html"
    )
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    commands.add_parser("build")
    command = commands.add_parser("grade")
    command.add_argument("folder", type=Path)
    command.add_argument(
        "--again", nargs="?", const=True, metavar="STUDENT", help="also what was graded before"
    )
    command.add_argument(
        "--unconfined", action="store_true", help="without a sandbox: read grading.md before"
    )
    command.add_argument("--jobs", type=int, help="how many at a time; one for each core, if not said")
    for name, arguments in {
        "unpack": ("zip", "name", "folder"),
        "export": ("name", "table"),
        "similar": ("name",),
    }.items():
        command = commands.add_parser(name)
        for argument in arguments:
            command.add_argument(argument, type=str if argument == "name" else Path)
    arguments = vars(parser.parse_args())
    teacher = HERE if (HERE / "gradebook.db").exists() else BUILT / "teacher"
    match arguments.pop("command"):
        case "build":
            build()
        case "grade":
            grade(arguments.pop("folder"), teacher, **arguments)
        case "unpack":
            exchange.unpack(**arguments)
        case "export":
            exchange.export(rows=marks(teacher), listed=students(teacher), **arguments)
        case "similar":
            exchange.similar(teacher, **arguments)


if __name__ == "__main__":
    main()
