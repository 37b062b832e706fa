"""Code in solutions of Part I runs, after what it needs of its chapter, and its assertions hold."""

import ast
import contextlib
import io
import re
import symtable

import matplotlib.pyplot as plt
import notebooks
import pytest

plt.switch_backend("agg")
# The solutions of the experiments, from chapter 9 on, train for minutes each and are not run here.
CHAPTERS = {path.stem: notebooks.read(path) for path in notebooks.notebooks() if path.stem < "09"}
SOLUTION = re.compile(r"^(:{3,})\{solution\} (\S+)\n([\s\S]*?)^\1$", re.M)
CODE = re.compile(r"^```python\n([\s\S]*?)^```$", re.M)
CHANGES = {"append", "extend", "add", "update", "setdefault", "insert", "pop", "sort"}
# Solutions that train for minutes: a script in book/full stores their numbers, and a test compares them.
LONG = {"ex-06-five", "ex-06-width"}


def solutions(chapter) -> dict[str, str]:
    """The code of each solution that has some."""
    text = "\n\n".join(cell.source for cell in chapter.cells if cell.cell_type == "markdown")
    found = {name: "\n".join(CODE.findall(body)) for _, name, body in SOLUTION.findall(text)}
    return {name: code for name, code in found.items() if code}


def reads(node: ast.stmt) -> set[str]:
    """The names of the chapter that a statement reads, inside of functions too."""
    tables, found = [symtable.symtable(ast.unparse(node), "chapter", "exec")], set()
    for table in tables:
        outer = table is tables[0]
        found |= {
            symbol.get_name()
            for symbol in table.get_symbols()
            if symbol.is_referenced() and (outer or symbol.is_global())
        }
        tables += table.get_children()
    return found


def makes(node: ast.stmt) -> set[str]:
    """The names that a statement binds, or whose value it changes."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    made = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            made.add(part.id)
        elif isinstance(part, ast.alias):
            made.add((part.asname or part.name).partition(".")[0])
        elif isinstance(part, ast.FunctionDef | ast.ClassDef):
            made.add(part.name)
        elif isinstance(part, ast.Subscript | ast.Attribute) and (
            isinstance(part.ctx, ast.Store) or getattr(part, "attr", None) in CHANGES
        ):
            base = part.value
            while isinstance(base, ast.Subscript | ast.Attribute):
                base = base.value
            if isinstance(base, ast.Name):
                made.add(base.id)
    return made


def binds(node: ast.stmt) -> set[str]:
    """The names that a statement gives a new value, whatever they were."""
    if isinstance(node, ast.Assign):
        return {
            part.id
            for target in node.targets
            for part in ast.walk(target)
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
        }
    return makes(node) if isinstance(node, ast.FunctionDef | ast.Import | ast.ImportFrom) else set()


def wanted_before(node: ast.stmt, wanted: set[str]) -> set[str]:
    """The names that are read from here on, in a statement or after it."""
    if isinstance(node, ast.For | ast.With):
        inside = set()
        for part in reversed(node.body):
            inside = wanted_before(part, inside)
        heads = [node.iter] if isinstance(node, ast.For) else [item.context_expr for item in node.items]
        target = [node.target] if isinstance(node, ast.For) else []
        bound = {part.id for one in target for part in ast.walk(one) if isinstance(part, ast.Name)}
        return wanted | (inside - bound) | set().union(*(reads(ast.Expr(head)) for head in heads))
    return (wanted - binds(node)) | reads(node)


def needed(code: str, before: str) -> str:
    """The statements of a chapter that the code of a solution rests on, in order."""
    statements, own = ast.parse(before).body, ast.parse(code).body
    functions = {node.name: reads(node) for node in statements if isinstance(node, ast.FunctionDef)}
    wanted, kept = set(), []
    for number, node in enumerate(reversed([*statements, *own])):
        if number >= len(own):
            if isinstance(node, ast.Assert) or not makes(node) & wanted:
                continue
            kept.append(node)
        wanted = wanted_before(node, wanted)
        while called := set().union(*(functions.get(name, set()) for name in wanted)) - wanted:
            wanted |= called
    return "\n".join(ast.unparse(node) for node in reversed(kept))


def chapter_code(chapter) -> str:
    code = "\n".join(cell.source for cell in notebooks.code_cells(chapter)[1:])
    return re.sub(r"^( *)%.*$", r"\1pass", code, flags=re.M)


CASES = [(stem, name) for stem, chapter in CHAPTERS.items() for name in solutions(chapter)]


@pytest.mark.parametrize(("stem", "name"), [case for case in CASES if case[1] not in LONG])
def test_solution_runs(stem, name):
    code = solutions(CHAPTERS[stem])[name]
    space = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(needed(code, chapter_code(CHAPTERS[stem])), stem, "exec"), space)
    exec(compile(code, name, "exec"), space)
    plt.close("all")


def test_what_a_solution_needs_is_found():
    before = (
        "import math\na = 1\nb = []\nfor i in range(3):\n    b.append(a + i)\nc = 5\ndef f():\n    return b\n"
    )
    assert needed("print(f())", before) == (
        "a = 1\nb = []\nfor i in range(3):\n    b.append(a + i)\ndef f():\n    return b"
    )


def test_a_solution_without_code_is_no_case():
    assert "ex-01-square" not in solutions(CHAPTERS["01_implicit_models"])
    assert {"ex-04-bound", "ex-07-mixed"} <= {name for _, name in CASES}
