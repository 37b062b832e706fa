"""Draw the map of the code, figures/code_map.svg, from himlib's imports, and list its files.

python book/code_map.py
"""

import ast
import re
from pathlib import Path

from chapter_map import draw
from notebooks import BOOK, ROOT

MAP, LIST = BOOK / "figures" / "code_map.svg", BOOK / "figures" / "code_files.md"
SHELVES = ("simulators", "book")  # without a door: their files are imported one by one
# As in himlib.book.plotting.
COLORS = {"core": "#0072B2", "room": "#009E73", "private": "#777777"}


def files(root: Path = ROOT / "himlib") -> dict[str, Path]:
    """Return the files by their modules' names, less ``himlib.``, and less its own door."""
    names = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        names[".".join(part for part in parts if part != "__init__")] = path
    return {name: path for name, path in names.items() if name}


def imports(sources: dict[str, str]) -> dict[str, set[str]]:
    """Return what each module imports of the others, wherever in its text."""
    found = {name: set() for name in sources}
    for name, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if (
                isinstance(node, ast.ImportFrom)
                and (node.module or "").split(".")[0] == "himlib"
            ):
                module = node.module.removeprefix("himlib").removeprefix(".")
                for alias in node.names:
                    inner = f"{module}.{alias.name}".removeprefix(".")
                    found[name].add(inner if inner in sources else module)
            elif isinstance(node, ast.Import):
                names = [
                    alias.name for alias in node.names if alias.name.startswith("himlib")
                ]
                found[name] |= {
                    each.removeprefix("himlib").removeprefix(".") for each in names
                }
    return found


def unit(name: str) -> str:
    """A file of the core, or a room."""
    return name.split(".")[0]


def units(found: dict[str, set[str]]) -> dict[str, list[str]]:
    needs = {unit(name): set() for name in found}
    for name, others in found.items():
        needs[unit(name)] |= {unit(other) for other in others} - {unit(name)}
    return {name: sorted(others) for name, others in needs.items()}


def circle(needs: dict[str, list[str] | set[str]]) -> list[str]:
    """Return names that import each other in a circle, or nothing."""
    left = {name: set(others) - {name} for name, others in needs.items()}
    while free := [name for name, others in left.items() if not others & left.keys()]:
        left = {name: others for name, others in left.items() if name not in free}
    return sorted(left)


def strays(found: dict[str, set[str]]) -> list[str]:
    """Say which import goes past a door, or against the order of the house.

    A private file of the core is for all of himlib, one of a room for that room. Other rooms
    are entered by the door; a file of a room does not go through its own. Nothing needs the
    book's room, or the names at the top.
    """
    wrong = []
    for name, others in found.items():
        for other in sorted(others):
            room, inside = unit(other), unit(other) == unit(name)
            private = "._" in f".{other}" and "." in other
            if (
                (private and not inside)
                or (not inside and "." in other and room not in SHELVES)
                or (inside and other == room and "." in name)
                or (room == "book" and not inside)
                or not other
            ):
                wrong.append(f"{name} imports {other or 'himlib'}")
    return wrong


def levels(needs: dict[str, list[str]]) -> dict[str, int]:
    """Put each unit one level below the lowest that it needs."""
    if stuck := circle(needs):
        raise ValueError(f"himlib: expected imports without a circle, got one in {stuck}.")
    found = {}
    while len(found) < len(needs):
        for name, others in needs.items():
            if name not in found and all(other in found for other in others):
                found[name] = 1 + max((found[other] for other in others), default=-1)
    return found


def says(source: str) -> str:
    """The first sentence of a docstring, as Markdown."""
    text = " ".join(ast.get_docstring(ast.parse(source)).split("\n\n")[0].split())
    text = re.sub(r":math:`([^`]*)`", r"$\1$", text)
    return re.sub(r":\w+:`~?(?:himlib\.(?:\w+\.)*)?(\w+)`", r"`\1`", text)


def svg(found: dict[str, set[str]]) -> str:
    needs = units(found)
    level = levels(needs)
    rows = {}
    for name in sorted(needs, key=lambda name: (level[name], name)):
        room = any(other.startswith(f"{name}.") for other in found)
        kind = "private" if name[0] == "_" else "room" if room else "core"
        address = f"api.html#module-himlib.{name}"
        rows[name] = (
            f"Level {level[name]}",
            [f"{name}/" if room else f"{name}.py"],
            COLORS[kind],
            None if kind == "private" or name in SHELVES else address,
            name,
        )
    text = " ".join(
        f"{name} needs {' and '.join(needs[name]) or 'nothing'}." for name in rows
    )
    return draw(rows, {name: needs[name] for name in rows}, "What of himlib needs what", text)


def listed(paths: dict[str, Path]) -> str:
    """A table of all files, level by level."""
    level = levels(units(imports(read(paths))))
    rows = ["| file | what it holds |", "| --- | --- |"]
    for name in sorted(paths, key=lambda name: (level[unit(name)], unit(name), name)):
        folder = paths[name].name == "__init__.py"
        path = name.replace(".", "/") + ("/" if folder else ".py")
        rows.append(
            f"| `{path}` | " + says(paths[name].read_text()).replace("|", r"\|") + " |"
        )
    return "\n".join(rows) + "\n"


def read(paths: dict[str, Path]) -> dict[str, str]:
    return {name: path.read_text() for name, path in paths.items()}


if __name__ == "__main__":
    MAP.write_text(svg(imports(read(files()))))
    LIST.write_text(listed(files()))
