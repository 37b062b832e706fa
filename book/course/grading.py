"""From a hand-in to a graded notebook: take over answers, run them with the tests, clean what comes out."""

import ast
import base64
import json
import re
import secrets
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from nbgrader.preprocessors import ClearHiddenTests
from nbgrader.utils import is_grade, is_locked, is_solution

HIDDEN = re.compile(r"### BEGIN HIDDEN TESTS.*?### END HIDDEN TESTS\n?", re.S)
PICTURES = ("image/png", "image/jpeg")
CANARIES = ("3 == 4", "np.allclose(0, 1)", "isinstance(3, str)")


def grade_id(cell) -> str | None:
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def is_test(cell) -> bool:
    return cell.cell_type == "code" and is_grade(cell) and not is_solution(cell)


# The hand-in, in the frame of the notebook that was given out.


def plain_text(source: str) -> str:
    """Return Markdown that is no HTML in any browser: a tag has a letter at once after its bracket."""
    source = re.sub(r"<(?=[A-Za-z/!?])|&(?=#|\w+;)", r"\g<0> ", source)
    return re.sub(r"(?i)(java|vb)script:", r"\1 script:", source)


def own(cell):
    """Make a cell of a student anew, of its text alone, with pictures that were pasted in."""
    if cell.cell_type == "code":
        return new_code_cell(cell.source)
    new = new_markdown_cell(plain_text(cell.source))
    attached = {
        name: {kind: data for kind, data in one.items() if kind in PICTURES and picture(data)}
        for name, one in cell.get("attachments", {}).items()
        if re.fullmatch(r"[\w. -]+", name)
    }
    if attached:
        new.attachments = attached
    return new


def rebuild(handed_in, release, source) -> tuple[nbformat.NotebookNode, list[str]]:
    """Put answers and own cells of a student into the notebook that was given out, with its hidden tests.

    Returns the notebook and what was unusual. Of a doubled answer the last counts, and those before it run as
    cells of the student's own. What has lost its name is found again by its text, or by its place.
    """
    names = {cell.id: number for number, cell in enumerate(release.cells)}
    names |= {grade_id(cell): number for number, cell in enumerate(release.cells) if grade_id(cell)}
    texts = {cell.source.strip(): number for number, cell in enumerate(release.cells) if cell.source.strip()}
    answers: dict[int, list] = {n: [] for n, cell in enumerate(release.cells) if is_solution(cell)}
    fixed = {n for n, cell in enumerate(release.cells) if n not in answers and grade_id(cell)}
    others: dict[int, list] = {n: [] for n in range(-1, len(release.cells))}
    replaced, place, unknown = set(), -1, 0
    for cell in handed_in.cells:
        name, text = grade_id(cell), cell.source.strip()
        number = names.get(name, names.get(cell.get("id"), texts.get(text)))
        if number is not None:
            unknown += name is None and grade_id(release.cells[number]) is not None
            place = number
        if cell.cell_type == "raw" or not text or number in fixed:
            continue
        if number is not None and text == release.cells[number].source.strip():
            continue
        if number in answers:
            if answers[number] and cell.cell_type == "code":
                others[number - 1].append(answers[number].pop())
            answers[number].append(own(cell))
        else:
            others[place].append(own(cell))
            if number is not None and cell.cell_type == "code":
                replaced.add(number)
    remarks, cells, empty = [], [], 0
    hidden = {grade_id(cell): cell.source for cell in source.cells if is_test(cell)}
    for number, given in enumerate(release.cells):
        cell = nbformat.from_dict(given)
        if number in answers:
            found = answers[number]
            if not found and cell.cell_type == "markdown":  # an answer beside its cell
                found = [one for one in others[number - 1] if one.cell_type == "markdown"]
                others[number - 1] = [one for one in others[number - 1] if one.cell_type != "markdown"]
            empty += not found
            if found:
                text = "\n\n".join(one.source for one in found)
                cell.source = plain_text(text) if cell.cell_type == "markdown" else text
            elif cell.cell_type == "code" and others[number - 1]:
                cell.source = ""  # what was given out would undo an answer that stands before it
            if found and "attachments" in found[-1]:
                cell.attachments = found[-1].attachments
        elif is_test(cell):
            cell.source = hidden[grade_id(cell)]
        cells += [*([] if number in replaced else [cell]), *others[number]]
    if unknown:
        remarks.append(f"{unknown} cells had lost their names, and were found by their text")
    if answers and empty == len(answers):
        remarks.append("no answer was filled in, or this is not the notebook that was given out")
    notebook = nbformat.from_dict(dict(release) | {"cells": [*others[-1], *cells]})
    for number, cell in enumerate(notebook.cells):
        cell.metadata.pop("tags", None)
        cell.id = grade_id(cell) or f"cell-{number}"
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook, remarks


# Its execution.


def imports(source) -> tuple[list[str], dict[str, str]]:
    """Modules that an assignment imports, and the names that its given cells and tests call them by."""
    modules, aliases = [], {}
    for cell in source.cells:
        if cell.cell_type != "code" or grade_id(cell) == "setup_install":
            continue
        for node in ast.walk(ast.parse(re.sub(r"^\s*[%!].*$", "", cell.source, flags=re.M))):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.append(node.module)
            elif isinstance(node, ast.Import):
                modules += [alias.name for alias in node.names]
                aliases |= {alias.asname: alias.name for alias in node.names if alias.asname}
    return sorted(set(modules)), aliases


def execute(notebook, source, sandbox) -> list[str]:
    """Run all cells, put their outputs into them, and return what a teacher should know."""
    modules, seen, remarks = imports(source)[1], set(), []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        kind = "test" if is_test(cell) else "given" if is_locked(cell) else "answer"
        if kind == "test":
            seen |= canaries(sandbox, modules)
        reply = sandbox.ask(source=cell.source, kind=kind, modules=modules)
        seen.update(reply["changed"])
        cell.outputs = [clean(output) for output in reply["outputs"]]
        if any("compares by rules of its own" in output.get("evalue", "") for output in cell.outputs):
            seen.add("equality")
    errors = [output for cell in notebook.cells for output in cell.get("outputs", []) if "ename" in output]
    remarks += [error.evalue for error in errors if error.ename == "Stopped"][:1]
    if seen:
        names = ", ".join(sorted(seen)[:8])
        remarks.append(f"LOOK: the tests may have been tampered with ({names})")
    return remarks


def canaries(sandbox, modules) -> set[str]:
    """Send tests that must fail; return what was changed, and the tests that passed all the same."""
    seen = set()
    for test in CANARIES:
        if test.startswith("np.") and "np" not in modules:
            continue
        token = secrets.token_hex(8)
        reply = sandbox.ask(source=f"assert {test}, {token!r}", kind="test", modules=modules)
        seen.update(reply["changed"])
        if sandbox.verdict is None and [output.get("value") for output in reply["outputs"]] != [token]:
            seen.add(f"passed: assert {test}")
    return seen


# What comes out of it.


def picture(data) -> bool:
    try:
        return bool(base64.b64decode(re.sub(r"\s", "", data), validate=True))
    except (ValueError, TypeError):
        return False


def clean(output: dict):
    """Make an output of text and pictures alone: no HTML, and nothing that runs."""
    if output.get("kind") == "stream":
        return new_output("stream", name="stdout", text=str(output["text"]))
    if output.get("kind") == "display":
        data = {key: data for key, data in output["data"].items() if key in PICTURES and picture(data)}
        data["text/plain"] = str(output["data"].get("text/plain", ""))
        return new_output("display_data", data=data)
    name, value = str(output.get("name", "Error")), str(output.get("value", ""))
    return new_output("error", ename=name, evalue=value, traceback=str(output.get("text", "")).split("\n"))


def messages(test: str) -> list[str]:
    """Patterns of what the assertions of a test say; a value in it may have forty characters."""
    patterns = []
    for node in ast.walk(ast.parse(test)):
        if isinstance(node, ast.Assert) and node.msg is not None:
            parts = node.msg.values if isinstance(node.msg, ast.JoinedStr) else [node.msg]
            literal = [part.value if isinstance(part, ast.Constant) else None for part in parts]
            patterns.append("".join(".{,40}" if one is None else re.escape(str(one)) for one in literal))
    return patterns


class Feedback(ClearHiddenTests):
    """Leave of a notebook what a student may see: of a hidden test what it says, and not how it is done.

    Outputs of other cells are the student's own, who has them; only errors are of use here, and hidden tests
    could be printed there.
    """

    def preprocess(self, nb, resources):
        hidden = [HIDDEN.findall(cell.source) for cell in nb.cells if is_test(cell)]
        lines = {line.strip() for blocks in hidden for block in blocks for line in block.split("\n")}
        self.secret = [re.sub(r"\s", "", line) for line in lines if len(line) > 20 and line[0] != "#"]
        return super().preprocess(nb, resources)

    def preprocess_cell(self, cell, resources, index):
        if cell.cell_type != "code":
            return cell, resources
        shown = []
        for output in cell.outputs:
            if output.output_type == "error":
                name = output.ename if re.fullmatch(r"\w{1,40}", output.ename) else "Error"
                said = self.said(cell, name, output.evalue)
                shown.append(new_output("error", ename=name, evalue=said, traceback=[f"{name}: {said}"]))
        cell.outputs = shown
        return super().preprocess_cell(cell, resources, index)

    def said(self, cell, name: str, value: str) -> str:
        squeezed = re.sub(r"\s", "", value)
        if is_test(cell) and name != "Stopped":
            if any(re.fullmatch(pattern, value) for pattern in messages(cell.source)):
                return value
            return "" if name == "AssertionError" else "in your code, or in what the test did with its result"
        return value[:200] if not any(line in squeezed for line in self.secret) else "(withheld)"


def read(path: Path):
    """Read a notebook that a student handed in, or say in plain words why not."""
    try:
        notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
    except (ValueError, json.JSONDecodeError, nbformat.reader.NotJSONError, UnicodeDecodeError):
        raise ValueError("the file is no notebook: it is cut off, or was changed by hand") from None
    if not isinstance(notebook.get("cells"), list):
        raise ValueError("the file is no notebook of today's format")
    return notebook
