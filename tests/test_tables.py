"""Tables say the same to a reader of the page and to one of the text, and refuse what is no table."""

import re
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from markdown_it import MarkdownIt

from himlib.book.tables import Table, table


def texts(shown):
    """Header and rows, as they stand in the text."""
    head, rule, *rows = repr(shown).splitlines()
    ends = [(dashes.start(), dashes.end()) for dashes in re.finditer("-+", rule)]
    return [[line[start:end].strip() for start, end in ends] for line in (head, *rows)]


def on_the_page(shown):
    """Header and rows, and where the columns are set, by a reader of Markdown."""
    page = MarkdownIt("commonmark").enable("table").render(shown._repr_markdown_())
    rows = [re.findall("<t[hd].*?>(.*?)</t[hd]>", row) for row in re.findall("<tr>(.*?)</tr>", page, re.S)]
    plain = {"&lt;": "<", "&gt;": ">", "&amp;": "&", "\u00a0": " ", "\u2007": " "}
    for code, sign in plain.items():
        rows = [[cell.replace(code, sign) for cell in row] for row in rows]
    return rows, ["right" in cell for cell in re.findall("<th( .*?)?>", page)]


CASES = {
    "rows": ([(1, 0.125), (2, -0.5)], ["seed", "error"]),
    "numpy": (np.arange(6.0).reshape(2, 3) / 7, ["a", "b:+.3f", "c:.0%"]),
    "jax": (jnp.arange(6).reshape(3, 2), ["a", "b"]),
    "dictionary": ({"log": [1_000, 0.5], "kl": [20, np.nan]}, ["loss", "n", "error:.1f"]),
    "pairs as keys": ({("a", 1): 0.5, ("b", 2): jnp.float32(0.25)}, ["name", "seed", "error"]),
    "ranges and lists": ([((-1.0, 1), jnp.array([0.5, -12.0]))], ["range", "numbers"]),
    "text": ([["a|b", "*c*_d_", "[e](f)", "<b>", "$x$ `y`", "\\g &amp;"]], list("uvwxyz")),
    "others": ([[True, None, np.bool_(False), ">100"], [jnp.array(False), 1, "no", 2.5]], list("abcd")),
}


@pytest.mark.parametrize("name", CASES)
def test_page_and_text_say_the_same(name):
    shown = Table(*CASES[name])
    rows, _ = on_the_page(shown)
    assert [[" ".join(cell.split()) for cell in row] for row in texts(shown)] == [
        [" ".join(cell.split()) for cell in row] for row in rows
    ]


@pytest.mark.parametrize(
    ("cell", "form", "text"),
    [
        (1_234, "", "1,234"),
        (np.int32(1_234), "d", "1234"),
        (1_234.5, "", "1,234.50"),
        (jnp.float32(0.005), ".2e", "5.00e-03"),
        (-0.004, "", "-0.00"),
        (float("nan"), ".1f", "nan"),
        (np.inf, "", "inf"),
        (True, ".2f", "yes"),
        (jnp.array(False), "", "no"),
        (None, ".2f", ""),
        (">100", ".2f", ">100"),
        ("two\n lines", "", "two lines"),
        ((0.98, jnp.float32(1.026)), "", "0.98 to 1.03"),
        ([1.0, -10.25], ".1f", "  1.0 -10.2"),
        (jnp.array([2, 3]), "", "2 3"),
    ],
)
def test_cells(cell, form, text):
    assert (
        repr(Table([[cell, "|"]], [f"a:{form}" if form else "a", "b"])).splitlines()[-1]
        == f"{text or ' '}  |"
    )


def test_numbers_are_set_to_the_right():
    shown = Table({"a": [1, ">2", "x", True], "b": [(0, 1), 3.5, "yy", None]}, list("abcde"))
    assert on_the_page(shown)[1] == [False, True, True, False, False]
    assert repr(shown) == (
        "a       b     c  d   e\n-  ------  ----  --  ---\na       1    >2  x   yes\nb  0 to 1  3.50  yy"
    )


def test_numbers_in_a_cell_stay_on_one_line():
    shown = Table([[(0.9, 1.1), [-1.0, 2.0]]], ["sd", "errors:.0f"])
    assert "| 0.90\u00a0to\u00a01.10 | -1\u2007\u20072 |" in shown._repr_markdown_()


def test_columns_may_be_a_dict_of_formats():
    rows = [[1.234, 5]]
    assert repr(Table(rows, {"a": ".1f", "b": ""})) == repr(Table(rows, ["a:.1f", "b:"]))


def test_title_stands_above():
    shown = Table([[1]], ["a"], "error | nats")
    assert repr(shown).startswith("error | nats\na\n")
    assert shown._repr_markdown_().startswith("error \\| nats\n\n| a |\n")


@pytest.mark.parametrize("notebooks", [True, False])
def test_it_is_shown_as_print_shows(notebooks, capsys, monkeypatch):
    if not notebooks:
        monkeypatch.setitem(sys.modules, "IPython.display", None)
    assert table([[0.5]], ["a"]) is None
    assert capsys.readouterr().out == "   a\n----\n0.50\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (([], ["a"]), "rows: expected at least one, got none"),
        (([[1, 2], [1]], ["a", "b"]), r"rows: expected 2 cells, as many as columns, got 1 in row 2\."),
        (({"a": [1, 2]}, ["a", "b"]), "got 3 in row 1"),
        (
            ([[(1, 2, 3)]], ["a"]),
            r"expected a pair \(low, high\), or else a list or an array, got \(1, 2, 3\)",
        ),
        (([[np.zeros((2, 2))]], ["a"]), "expected a number, a pair or list of numbers, text"),
        (([[{1}]], ["a"]), r"true, false or None, got \{1\}"),
        (([[0.5]], ["a:d"]), "columns: the format 'd' of 'a' does not fit"),
    ],
)
def test_wrong_tables(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        table(*arguments)
