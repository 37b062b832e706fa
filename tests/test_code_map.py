"""The map of the code is that of the imports, and these keep to the order of the house."""

import re

import code_map
import pytest
from notebooks import BOOK

PAGE = (BOOK / "code_map.md").read_text()
FILES = code_map.files()
IMPORTS = code_map.imports(code_map.read(FILES))


def test_map_is_that_of_the_imports():
    assert code_map.MAP.read_text() == code_map.svg(IMPORTS), "run `python book/code_map.py`"
    assert code_map.LIST.read_text() == code_map.listed(FILES), "run `python book/code_map.py`"


def test_map_notices_an_import():
    changed = code_map.svg({**IMPORTS, "losses": {"random"}})
    assert "losses needs random." in changed and changed != code_map.MAP.read_text()


def test_imports_are_found_wherever_they_stand():
    sources = {"a": "", "b.c": "", "b": "from himlib.b import c", "_d": "import himlib.a\nimport jax"}
    sources["e"] = "def f():\n    from himlib import a\n    from himlib.b.c import g\n    from jax import b"
    found = code_map.imports(sources)
    assert found == {"a": set(), "b.c": set(), "b": {"b.c"}, "_d": {"a"}, "e": {"a", "b.c"}}
    assert code_map.units(found) == {"a": [], "b": [], "_d": ["a"], "e": ["a", "b"]}


def test_nothing_goes_in_a_circle():
    assert code_map.circle(IMPORTS) == []
    assert code_map.circle(code_map.units(IMPORTS)) == []
    assert code_map.circle({"a": ["b"], "b": ["c"], "c": ["b"], "d": []}) == ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"without a circle, got one in \['b', 'c'\]"):
        code_map.levels({"b": ["c"], "c": ["b"]})


def test_nobody_goes_past_a_door():
    assert code_map.strays(IMPORTS) == []


@pytest.mark.parametrize(
    ("name", "other", "refused"),
    [
        ("abc.samplers", "abc._run", False),
        ("abc.samplers", "_checks", False),
        ("diagnostics.report", "abc", False),
        ("diagnostics.report", "simulators.curved", False),
        ("abc", "abc.samplers", False),
        ("diagnostics.report", "abc._run", True),
        ("training", "many_data._sums", True),
        ("diagnostics.report", "abc.samplers", True),
        ("abc.samplers", "abc", True),
        ("training", "", True),
        ("diagnostics.report", "book.plotting", True),
        ("simulators.curved", "simulators._newton", False),
        ("training", "simulators._newton", True),
    ],
)
def test_strays_are_noticed(name, other, refused):
    assert bool(code_map.strays({name: {other}})) == refused


def test_files_that_the_page_speaks_of_are_there():
    private = {name for name in FILES if name[0] == "_"}
    assert "`_checks` and three more" in PAGE and len(private) == 4
    way = PAGE.split("## The way of a datum")[1].split("##")[0]
    assert len(re.findall(r"^\d+\. ", way, re.M)) == 10
    functions = {"lfvi", "fit", "init", "sample", "verdict"}
    named = set(re.findall(r"`(_?[a-z_]+)`", way)) - functions
    assert named <= set(FILES) and len(named) >= 9
