"""In from a learning platform and back to it, and who handed in what another did."""

import csv
import io
import itertools
import keyword
import re
import tokenize
import zipfile
from pathlib import Path, PurePosixPath

import grading
import nbformat

LARGEST = 50_000_000  # bytes of one file in a zip


MOODLE = re.compile(r"(.+?)_(\d+)_assignsubmission_file_?(.*)")
CANVAS = re.compile(r"([^_]+)_(?:LATE_)?(\d+)_\d+_(.+)")


def whose(parts: list[str], known: set[str]) -> tuple[str, PurePosixPath] | None:
    """Student and file, from the parts of a path in a platform's zip."""
    for place, part in enumerate(parts):
        if match := MOODLE.fullmatch(part):
            rest = [match[3], *parts[place + 1 :]]
            break
    else:
        if not (match := CANVAS.fullmatch(parts[-1])):
            return None
        first = re.sub(r"-\d+(\.\w+)$", r"\1", match[3])  # handed in again, under the same name
        rest = [first if first in known else match[3]]
    student = re.sub(r'[<>&"/\\]', "", f"{match[1]}_{match[2]}").strip()
    return (student, PurePosixPath(*rest)) if any(rest) else None


def unpack(zip: Path, name: str, folder: Path) -> None:
    """Put the files of a platform's zip into FOLDER/STUDENT/NAME.

    Moodle makes a folder for each student, `Ada Lovelace_123_assignsubmission_file_`, with the student's own
    folders in it, or puts this before the file's name where folders were not asked for. Canvas has one file,
    `lovelaceada_123_456_1_abc.ipynb`, or `lovelaceada_LATE_123_456_1_abc-1.ipynb`: late, and the second of
    this name. STUDENT is name and number.
    """
    given = Path(__file__).parent / "source" / name
    known = {f"{name}.ipynb", *(path.name for path in given.glob("*"))}
    with zipfile.ZipFile(zip) as archive:
        for item in archive.infolist():
            parts = [part for part in PurePosixPath(item.filename).parts if part not in ("..", "/")]
            if item.is_dir() or parts[-1].startswith(".") or "__MACOSX" in parts or item.file_size > LARGEST:
                continue
            found = whose(parts, known)
            if not found:
                print(f"{item.filename}: not taken, as it does not say whose it is")
                continue
            student, plain = found
            place = folder / student / name / plain
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(archive.read(item))
            year, month, day, hour, minute, second = item.date_time
            stamp = f"{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}"
            (place.parent / "timestamp.txt").write_text(stamp)
            print(f"{student}: {plain}")


def export(name: str, table: Path, rows: list[dict], listed: dict[str, dict]) -> None:
    """Write the marks of an assignment into a platform's table of grades, in the column of its name.

    A row is a student's if one of its cells is the student's folder, its number, or a cell of students.csv.
    """
    called: dict[str, set[str]] = {}
    for row in rows:
        student = row["student"]
        number = student.rpartition("_")[2]
        marks = {student, student.rpartition("_")[0], number, f"Participant {number}"}
        for mark in (marks | set(listed.get(student, {}).values())) - {""}:
            called.setdefault(mark, set()).add(student)
    with table.open(newline="", encoding="utf-8-sig") as file:
        fields, *lines = list(csv.reader(file))
    column = fields.index(name) if name in fields else len(fields)
    fields[column:] = [name, *fields[column + 1 :]]
    totals = {row["student"]: row["total"] for row in rows if row["assignment"] == name and "total" in row}
    filled = set()
    for line in lines:
        names = [called[cell.strip()] for cell in line if cell.strip() in called]
        who = set.intersection(*names) if names else set()
        line += [""] * (column + 1 - len(line))
        if len(who) == 1 and (student := who.pop()) in totals:
            line[column] = f"{totals[student]:g}"
            filled.add(student)
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([fields, *lines])
    print(f"{len(filled)} marks written to {table}")
    for student in sorted(set(totals) - filled):
        print(f"{student}: no row, or more than one student fits it")


def shingles(sources: list[str], known: set[str], size: int = 8) -> set[tuple]:
    """Runs of tokens of code; a name that a student chose counts as any other."""
    result = set()
    for source in sources:
        words = []
        try:
            for token in tokenize.generate_tokens(io.StringIO(source).readline):
                if (
                    token.type == tokenize.NAME
                    and token.string not in known
                    and not keyword.iskeyword(token.string)
                ):
                    words.append("a name")
                elif token.type in (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING):
                    words.append(token.string)
        except (tokenize.TokenError, SyntaxError):
            words = source.split()
        result |= set(zip(*(words[start:] for start in range(size)), strict=False))
    return result


def similar(teacher: Path, name: str, least: float = 0.5) -> list[tuple[float, str, str]]:
    """List pairs of hand-ins with like code, less what was given out; the model solution is one of them."""

    def code(path):
        cells = nbformat.read(path, as_version=4).cells
        return [cell.source for cell in cells if cell.cell_type == "code" and not grading.is_test(cell)]

    given = code(teacher / "release" / name / f"{name}.ipynb")
    known = set(re.findall(r"\w+", "\n".join(given)))
    pages = {
        path.parent.parent.name: path for path in sorted(teacher.glob(f"autograded/*/{name}/{name}.ipynb"))
    }
    pages["(the model solution)"] = teacher / "source" / name / f"{name}.ipynb"
    common = shingles(given, known)
    own = {student: shingles(code(path), known) - common for student, path in pages.items()}
    pairs = [
        (len(own[one] & own[other]) / max(1, min(len(own[one]), len(own[other]))), one, other)
        for one, other in itertools.combinations(own, 2)
    ]
    pairs = sorted((pair for pair in pairs if pair[0] >= least), reverse=True)
    for share, one, other in pairs:
        print(f"{share:4.0%}  {one}  {other}")
    print(f"{len(pairs)} pairs have half of their own code in common. Short answers are alike by chance.")
    return pairs
