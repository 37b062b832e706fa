"""Make the course, and grade what students hand in.

python course.py build           make the students' and the teacher's folder, in _build/course
python course.py grade FOLDER    grade FOLDER/STUDENT/N_name/N_name.ipynb, write feedback and marks

Grading again grades only what changed, keeps the marks given by hand, and renews feedback and marks.
"""

import argparse
import csv
import filecmp
import logging
import os
import shutil
import sys
import time
import warnings
from pathlib import Path

import nbformat
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde, GenerateAssignment, GenerateFeedback
from nbgrader.converters.base import NbGraderException
from nbgrader.coursedir import CourseDirectory
from nbgrader.utils import is_grade, is_solution
from traitlets.config import PyFileConfigLoader

HERE = Path(__file__).resolve().parent
BUILT = HERE.parents[1] / "_build" / "course"
FAILED = "could not be graded: is it the notebook that was given out?"
os.environ["PATH"] = (
    f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # nbgrader calls alembic
)
warnings.filterwarnings("ignore", "Object of type <.*> not in session")  # its way with a data base
warnings.filterwarnings("ignore", "Cell is missing an id field")  # and with cells that it adds
MACHINERY = ("course.py", "grading.py", "nbgrader_config.py")


def convert(converter, teacher: Path, assignment: str, student: str = "*", **settings):
    """Run one step of nbgrader, with its log in a file."""
    config = PyFileConfigLoader("nbgrader_config.py", path=str(teacher)).load_config()
    for name, value in settings.items():
        config.ConfinedExecute[name] = value
    log = logging.getLogger("course")
    folder = CourseDirectory(config=config, log=log, assignment_id=assignment, student_id=student)
    converter(coursedir=folder, config=config, log=log, force=True).start()


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


def build(source: Path = HERE / "source", target: Path = BUILT) -> None:
    teacher, students = target / "teacher", target / "students"
    for folder in (teacher / "source", teacher / "release", students):
        shutil.rmtree(folder, ignore_errors=True)  # the gradebook and the hand-ins stay
    shutil.copytree(source, teacher / "source", ignore=shutil.ignore_patterns(".*"))
    for name in MACHINERY:
        shutil.copy(HERE / name, teacher)
    names, pages = sorted(path.name for path in (teacher / "source").iterdir()), ["# Rubrics"]
    for name in names:
        convert(GenerateAssignment, teacher, name)
        notebook = nbformat.read(teacher / "source" / name / f"{name}.ipynb", as_version=4)
        pages.append(f"# {name}\n\n{rubrics(notebook)}")
    (teacher / "rubrics.md").write_text("\n\n".join(pages) + "\n")
    shutil.copytree(teacher / "release", students)
    print(f"{len(names)} assignments: {', '.join(names)}\n")
    print(f"For students: {students}")
    print("  Give out one folder at a time. It is complete: a notebook, and its data if it has any.")
    print(f"For you: {teacher}")
    print("  Solutions (source), rubrics.md, and all that grading needs. Keep it to yourself.")
    print("To grade: put hand-ins into FOLDER/STUDENT/ASSIGNMENT/ASSIGNMENT.ipynb, and then")
    print(f"  {sys.executable} {teacher / 'course.py'} grade FOLDER")


def same(one: Path, other: Path) -> bool:
    """Compare two folders, less what is hidden."""
    files = [{p.relative_to(f) for p in f.rglob("[!.]*") if p.is_file()} for f in (one, other)]
    return files[0] == files[1] and not any(filecmp.cmpfiles(one, other, files[0], shallow=False)[1:])


def unwanted(folder: str, names: list[str]) -> list[str]:
    """Name what is hidden, or a link to who knows where."""
    return [name for name in names if name.startswith(".") or Path(folder, name).is_symlink()]


def stops(notebook) -> list[str]:
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    return [output.evalue for output in outputs if output.get("ename") == "Stopped"]


def marks(teacher: Path) -> list[dict]:
    """Read the gradebook; what could not be graded has no marks."""
    rows = []
    with Gradebook(f"sqlite:///{teacher / 'gradebook.db'}") as gradebook:
        for assignment in gradebook.assignments:
            for entry in gradebook.assignment_submissions(assignment.name):
                student, name = entry.student.id, assignment.name
                row = {"student": student, "assignment": name}
                page = teacher / "autograded" / student / name / f"{name}.ipynb"
                if not page.exists():
                    rows.append(row | {"remark": FAILED})
                    continue
                remark = stops(nbformat.read(page, as_version=4))[:1]
                if entry.needs_manual_grade:
                    remark.append("questions to be marked by hand")
                rows.append(
                    row
                    | {"automatic": entry.code_score, "by hand": entry.written_score, "total": entry.score}
                    | {"of": entry.max_score, "remark": "; ".join(remark)}
                )
    return sorted(rows, key=lambda row: (row["student"], row["assignment"]))


def grade(hand_ins: Path, teacher: Path, **limits) -> list[dict]:
    """Grade the hand-ins that are new, and return all marks."""
    log = logging.getLogger("course")
    log.addHandler(handler := logging.FileHandler(teacher / "grading.log"))
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        folders = sorted(path for path in hand_ins.glob("*/*") if path.is_dir())
        for number, folder in enumerate(folders, 1):
            student, name, began = folder.parent.name, folder.name, time.monotonic()
            line = f"[{number}/{len(folders)}] {student} {name}: "
            if not (teacher / "source" / name).is_dir() or not (folder / f"{name}.ipynb").is_file():
                print(f"{line}skipped, expected STUDENT/ASSIGNMENT/ASSIGNMENT.ipynb")
                continue
            submitted = teacher / "submitted" / student / name
            done = teacher / "autograded" / student / name
            if done.exists() and same(folder, submitted):
                what = "graded before"
            else:
                shutil.rmtree(submitted, ignore_errors=True)
                shutil.copytree(folder, submitted, ignore=unwanted)
                closed = [str(teacher), str(hand_ins.resolve())]
                what = "graded"
                try:
                    convert(Autograde, teacher, name, student, closed=closed, **limits)
                except (NbGraderException, SystemExit):
                    what = FAILED
            if done.exists():
                convert(GenerateFeedback, teacher, name, student)
            print(f"{line}{what}, {time.monotonic() - began:.0f} s")
    finally:
        log.removeHandler(handler)
        handler.close()
    rows = marks(teacher)
    with (teacher / "marks.csv").open("w", newline="") as file:
        fields = ["student", "assignment", "automatic", "by hand", "total", "of", "remark"]
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(rows)
    print(
        f"Marks: {teacher / 'marks.csv'}\nFeedback: {teacher / 'feedback'}/STUDENT/ASSIGNMENT/ASSIGNMENT.html"
    )
    print(f"Details: {teacher / 'grading.log'}")
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    commands.add_parser("build")
    commands.add_parser("grade").add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "build":
        build()
    else:
        grade(arguments.folder, HERE if (HERE / "gradebook.db").exists() else BUILT / "teacher")
