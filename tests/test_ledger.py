"""The ledger says nothing that no stored result, page or comparison backs."""

import ast
import importlib.util
import re
from functools import cache

import notebooks
import numpy as np
import pytest
from docutils.nodes import make_id
from notebooks import BOOK
from scipy.stats import multivariate_normal

from himlib.book import results
from himlib.simulators.lotka_volterra import TRUE_BETA

NAME = "18_reproduction_ledger"
STORED = results.load(NAME)
VERDICTS = {"reproduced", "not reproduced", "contradicted", "cannot be tested"}
GROUPS = "MLPNTBFDQO"


@cache
def script():
    spec = importlib.util.spec_from_file_location("full_18", BOOK / "full" / f"{NAME}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def notebook(name):
    return notebooks.read(BOOK / f"{name}.ipynb")


def python_of(name):
    """The code of a chapter, less the cells that install."""
    cells = notebook(name).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code" and "%pip" not in cell.source)


def shown():
    """All tables and lists of the page, as markdown."""
    outputs = (output for cell in notebook(NAME).cells for output in cell.get("outputs", []))
    return "\n".join(output.get("data", {}).get("text/markdown", "") for output in outputs)


def rows(text):
    """Name, verdict and whole line of each entry."""
    lines = re.findall(r"^\| \*\*([A-Z]\d+)\*\* .+$", text, re.M), re.findall(r"^\| \*\*.+$", text, re.M)
    return [
        (name, re.search(r"\| \S+ ([a-z ]+) \|$", line)[1], line) for name, line in zip(*lines, strict=True)
    ]


@cache
def places(name):
    """What a link to a chapter can name: figures, labels, targets, headings."""
    found = set()
    for cell in notebook(name).cells:
        found.add(cell.metadata.get("mystnb", {}).get("figure", {}).get("name"))
        if cell.cell_type == "markdown":
            found |= set(re.findall(r"^\(([\w-]+)\)=$", cell.source, re.M))
            labels = set(re.findall(r"^:label: ([\w-]+)$", cell.source, re.M))
            found |= {f"equation-{label}" if label.startswith("eq-") else label for label in labels}
            found |= {make_id(heading) for heading in re.findall(r"^#+ (.+)$", cell.source, re.M)}
    return found


def lost(text):
    """Links of a text that lead nowhere."""
    links = re.findall(r"\]\((\d\d_\w+)\.ipynb#([^)]+)\)", text)
    return [f"{name}#{place}" for name, place in links if place not in places(name)]


def typed_verdicts(text):
    """Entries whose comparison is no comparison: a constant other than None."""
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    entries = [call for call in calls if getattr(call.func, "id", "") == "enter"]
    assert entries
    held = [call.args[3] for call in entries]
    return [ast.unparse(node) for node in held if isinstance(node, ast.Constant) and node.value is not None]


def test_the_pages_still_say_what_is_stored():
    """If this fails, a chapter changed: python book/full/18_reproduction_ledger.py, then run the notebook."""
    now = script().pages()
    assert {name: value for name, value in now.items() if value != STORED["pages"].get(name)} == {}
    assert set(STORED["pages"]) == set(now)


def test_every_entry_has_a_verdict():
    entries = rows(shown())
    names = [name for name, *_ in entries]
    assert len(names) == len(set(names)) > 80
    assert {name[0] for name in names} == set(GROUPS)
    assert {verdict for _, verdict, _ in entries} == VERDICTS
    for letter in GROUPS:  # none is missing
        numbers = [int(name[1:]) for name in names if name[0] == letter]
        assert numbers == list(range(1, len(numbers) + 1))


def test_every_entry_links_to_what_made_it():
    assert all(re.search(r"\]\(\d\d_\w+\.ipynb#[^)]+\)", line) for *_, line in rows(shown()))
    assert lost(shown()) == []


def test_no_verdict_is_typed():
    assert typed_verdicts(python_of(NAME)) == []
    assert not re.search(r"(Entry\(.*|verdict ?= ?)[\"'](re|not re|con)", python_of(NAME))


def test_the_list_of_what_is_right_is_that_of_the_tables():
    listed = re.findall(r"^- \*\*([A-Z]\d+)\*\*", shown(), re.M)
    assert listed == [name for name, verdict, _ in rows(shown()) if verdict == "reproduced"]


@pytest.mark.parametrize("number", range(1, 12))
def test_every_erratum_is_demonstrated(number):
    """Its text is followed by a cell that asserts it."""
    cells = notebook(NAME).cells
    (at,) = [i for i, cell in enumerate(cells) if re.search(rf"^\*\*{number}\. ", cell.source, re.M)]
    assert cells[at + 1].cell_type == "code" and "assert" in cells[at + 1].source and cells[at + 1].outputs


def numbers_of_the_paper(name):
    """The dictionaries in a chapter's code that hold them, merged."""
    found = {}
    for node in ast.parse(python_of(name)).body:
        target = (
            node.target if isinstance(node, ast.AugAssign) else (getattr(node, "targets", None) or [None])[0]
        )
        if getattr(target, "id", None) in ("PAPER", "TABLE", "INTERVALS", "MANY", "digitized"):
            found |= ast.literal_eval(node.value)
    return found


def test_the_papers_numbers_are_those_of_the_other_chapters():
    ours = numbers_of_the_paper(NAME)
    table = numbers_of_the_paper("13_bayesian_gans")
    assert len(table) == 4 and all(ours[data] == column for data, column in table.items())
    one = numbers_of_the_paper("09_lotka_volterra")
    for method in ("rejection ABC", "MCMC-ABC", "SMC-ABC", "LFVI, log loss", "LFVI, hinge loss"):
        assert ours[method] == one[f"{method}, paper"]
    many = numbers_of_the_paper("11_lotka_volterra_at_scale")
    for loss in ("log loss", "hinge loss"):
        assert ours[loss] == many[loss, 100_000][1:]


# What these tests would notice.


def test_a_link_to_nowhere_is_found():
    good = "[chapter 11](11_lotka_volterra_at_scale.ipynb#fig-11-paper)"
    assert lost(good + "[here](11_lotka_volterra_at_scale.ipynb#fig-11-papers)") == [
        "11_lotka_volterra_at_scale#fig-11-papers"
    ]
    for place in ("equation-eq-11-centered", "thm-11-centered", "what-it-costs", "ex-11-flat"):
        assert place in places("11_lotka_volterra_at_scale")


def test_a_typed_verdict_is_found():
    assert typed_verdicts("enter('M1', 'claim', 'ours', True, '1#x')") == ["True"]
    assert typed_verdicts("enter('M1', 'claim', 'ours', None, '1#x')") == []
    assert typed_verdicts("enter('M1', 'claim', 'ours', 1 > error, '1#x', settled=True)") == []


def test_a_page_without_the_number_is_found():
    with pytest.raises(ValueError, match=r"11_.*: 0 cells with 'grid of' and lines like 'seventeen #'"):
        script().read("11", "grid of", "seventeen #")


def test_numbers_are_read_as_they_stand():
    assert script().read("11", "grid of", "grid of 5 x 5 nodes # #") == [[0.06, 1.8]]
    assert script().read("03", "accepted, one in", " 6 # ?") == [[14368.0]]


def test_a_summary_of_draws():
    """Minus the log density of the truth under a normal with the draws' own mean and covariance."""
    draws = np.array(TRUE_BETA) + np.random.default_rng(0).normal(size=(200, 4))
    found = script().summarize(draws)
    expected = -multivariate_normal(draws.mean(0), np.cov(draws.T)).logpdf(TRUE_BETA)
    assert found["surprise"] == pytest.approx(expected, abs=1e-3)
    np.testing.assert_allclose(found["sd"], draws.std(0, ddof=1), atol=1e-3)


def test_the_repeated_setting_agrees_with_chapter_9():
    """The same seed, simulator, statistics and tolerance: the same draws."""
    theirs, ours = results.load("09_lotka_volterra")["pieces"], STORED["observation"]
    assert ours["abc 1"]["rejection"]["accepted"] == theirs["observation_abc"]["accepted"]
    np.testing.assert_allclose(
        ours["abc 1"]["rejection"]["mean"], theirs["observation_abc"]["mean"], atol=1e-3
    )
    np.testing.assert_allclose(ours["log 0"]["mean"], theirs["observation_lfvi_0"]["mean"], atol=0.05)
