"""The book's tables: set as tables on its pages, as aligned text elsewhere, with the same digits in both."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

__all__ = ["table"]

MARKUP = re.compile(r"([\\`*_\[\]<|$&])")  # what Markdown would take for more than a character


def table(rows: Iterable[Any], columns: Iterable[str], title: str = "") -> None:
    r"""Show rows and columns, as ``print`` shows a line.

    Columns with numbers are set to the right, others to the left. A cell may be

    * a number, of Python, NumPy or JAX;
    * a pair, ``(low, high)``, shown as "low to high";
    * a list or an array of numbers, shown one beside the other;
    * a text, shown as it is, whatever the column's format;
    * true or false, shown as yes or no;
    * None, shown as nothing.

    Parameters
    ----------
    rows
        Sequences of as many cells as there are columns. In a dictionary the key is a row's first cell, or a
        tuple of its first cells, and the value is the others, or the only other.
    columns
        Their names. The format of the numbers below a name follows it after a colon, as in ``"error:+.3f"``,
        or is its value in a dictionary. Without one, thousands are separated, and numbers not whole by
        their type have two decimals.
    title
        What to say above the table.

    Raises
    ------
    ValueError
        If there is no row, a row has more or fewer cells than there are columns, a cell is none of the above,
        or a number does not fit its column's format.

    Examples
    --------
    >>> errors = {"log": np.array([0.08, 12.75]), "kl": (0.09, ">100")}
    >>> table(errors, ["loss", "s = 1", "s = 8"])
    loss  s = 1  s = 8
    ----  -----  -----
    log    0.08  12.75
    kl     0.09   >100

    >>> table([(1_000, 0.041, (0.98, 1.03)), (20, None, (0.9, 1.1))], ["N", "error:.3f", "sd"])
        N  error            sd
    -----  -----  ------------
    1,000  0.041  0.98 to 1.03
       20         0.90 to 1.10
    """
    shown = Table(rows, columns, title)
    try:
        from IPython.display import display  # a notebook has it; the library does not need it
    except ImportError:
        print(shown)
    else:
        display(shown)


class Table:
    """What :func:`table` shows: a notebook asks it for Markdown, a terminal for text."""

    def __init__(self, rows: Iterable[Any], columns: Iterable[str], title: str = ""):
        if isinstance(columns, Mapping):
            columns = [f"{name}:{form}" for name, form in columns.items()]
        names, _, formats = zip(*(column.partition(":") for column in columns), strict=True)
        if isinstance(rows, Mapping):
            grid = [_cells(key) + _cells(value) for key, value in rows.items()]
        else:
            grid = [_cells(row) for row in rows]
        if not grid:
            raise ValueError("rows: expected at least one, got none.")
        for number, row in enumerate(grid, 1):
            if len(row) != len(names):
                raise ValueError(
                    f"rows: expected {len(names)} cells, as many as columns, got {len(row)} in row {number}."
                )
        down = list(zip(*grid, strict=True))
        self.title = title
        self.numeric = [any(not isinstance(cell, str | bool | None) for cell in cells) for cells in down]
        self.columns = [
            [name, *_texts(name, cells, form)] for name, form, cells in zip(names, formats, down, strict=True)
        ]

    def __repr__(self) -> str:
        padded = []
        for column, numeric in zip(self.columns, self.numeric, strict=True):
            width = max(map(len, column))
            side = str.rjust if numeric else str.ljust
            padded.append([side(text, width) for text in (column[0], "-" * width, *column[1:])])
        lines = ["  ".join(cells).rstrip() for cells in zip(*padded, strict=True)]
        return "\n".join([self.title] * bool(self.title) + lines)

    def _repr_markdown_(self) -> str:
        marked = []
        for column, numeric in zip(self.columns, self.numeric, strict=True):
            head, *texts = (MARKUP.sub(r"\\\1", text) for text in column)
            if numeric:  # spaces where no line breaks; the second is as wide as a digit
                texts = [text.replace(" to ", "\u00a0to\u00a0").replace(" ", "\u2007") for text in texts]
            marked.append([head, "---:" if numeric else "---", *texts])
        lines = [f"| {' | '.join(cells)} |" for cells in zip(*marked, strict=True)]
        return "\n".join([MARKUP.sub(r"\\\1", self.title), ""] * bool(self.title) + lines)


def _cells(row: Any) -> list[Any]:
    """The cells of a row, or of a key or value that may be one cell alone."""
    many = isinstance(row, Iterable) and not isinstance(row, str) and getattr(row, "ndim", 1) != 0
    return [_plain(cell) for cell in (row if many else [row])]


def _plain(cell: Any) -> Any:
    """A cell without arrays: true or false, text, None, a number, or a pair or list of numbers."""
    if isinstance(cell, str | None):
        return cell
    if isinstance(cell, tuple):
        if len(cell) != 2:
            raise ValueError(f"rows: expected a pair (low, high), or else a list or an array, got {cell}.")
        return tuple(map(_plain, cell))
    array = np.asarray(cell)
    if array.ndim > 1 or array.dtype.kind not in "biuf":
        raise ValueError(
            f"rows: expected a number, a pair or list of numbers, text, true, false or None, got {cell!r}."
        )
    if array.ndim:
        return list(array)
    return bool(array) if array.dtype.kind == "b" else array[()]


def _texts(name: str, cells: Iterable[Any], form: str) -> list[str]:
    """What a column shows below its name."""

    def text(cell):
        if cell is None or isinstance(cell, str):
            return " ".join((cell or "").split())
        if isinstance(cell, bool):
            return "yes" if cell else "no"
        if isinstance(cell, tuple):
            return " to ".join(map(text, cell))
        if isinstance(cell, list):
            return [text(number) for number in cell]
        try:
            return format(cell, form or ("," if isinstance(cell, np.integer) else ",.2f"))
        except ValueError:
            raise ValueError(f"columns: the format {form!r} of {name!r} does not fit {cell!r}.") from None

    texts = [text(cell) for cell in cells]
    width = max((len(number) for entry in texts if isinstance(entry, list) for number in entry), default=0)
    return [
        " ".join(number.rjust(width) for number in entry) if isinstance(entry, list) else entry
        for entry in texts
    ]
