"""The ledger says nothing that no stored result, page or comparison backs."""

import ast
import importlib.util
import re
from collections import Counter
from dataclasses import dataclass
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
R, W, N = "reproduced", "within noise", "not reproduced"
C, X, SAME = "contradicted", "cannot be tested", "identity"
VERDICTS = {R, W, N, C, X, SAME}
# Verdicts that an earlier set of rules got wrong, or did not have.
CORRECTED = {
    **dict.fromkeys(("M3", "M4", "M7", "M12", "P1", "B7", "B10", "D1", "D2"), SAME),  # could not fail
    **dict.fromkeys(("P2", "P8", "P9", "T9", "T10", "T11", "T12"), X),  # not defined, or other data
    **dict.fromkeys(("N3", "N5", "P5", "Q3"), N),  # another algorithm, or more information
    **dict.fromkeys(("B3", "B4", "B6"), W),
    **dict.fromkeys(("N1", "N2", "M14"), R),  # as they are worded
    **{"N8": C, "M15": N},  # what is wrong near them
}
# Of entries that came after these rules: chapters 1, 14 and 16.
LATER = {"D5": SAME, "D6": N, "C1": X, "C2": W, "C3": R, "C4": X}
GROUPS = "MLPNTBFDQCO"


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


@pytest.mark.parametrize("expected", [CORRECTED, LATER], ids=["corrected", "later"])
def test_verdicts(expected):
    found = {name: verdict for name, verdict, _ in rows(shown())}
    assert {name: found[name] for name in expected} == expected


def test_causes_begin_with_those_of_chapter_16():
    """The stored run has the chapter's data sets first, and its page the same numbers in fewer digits."""
    linear = results.load("16_causes")["pieces"]["linear"]
    page = np.array(STORED["pages"]["index"])
    np.testing.assert_allclose(linear["rms"][: len(page)], page[:, 0], atol=0.002)
    np.testing.assert_allclose(linear["sd_ratio"][: len(page)], page[:, 2:4], atol=0.02)
    assert {len(values) for values in linear["precision"].values()} == {10}


def test_the_tally_is_that_of_the_tables():
    """Of both sets of rules; and what could not fail is not counted as a success."""
    (cell,) = (cell for cell in notebook(NAME).cells if "first rules" in cell.source)
    text = "\n".join(
        output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs
    )
    counts = Counter(verdict for _, verdict, _ in rows(shown()))
    for verdict, before in {R: 43, W: 0, N: 27, C: 6, X: 10, SAME: 0}.items():
        assert re.search(rf"^{verdict} +{before} +{counts[verdict]}$", text, re.M)
    assert f"Of {counts[R] + counts[N] + counts[C]} that could fail and be tested, {counts[R]} are" in text


def rules():
    """The functions of the chapter by which verdicts are given."""
    (source,) = (cell.source for cell in notebook(NAME).cells if "def judge(" in cell.source)
    space = {"np": np, "dataclass": dataclass}
    exec(source, space)
    return space["judge"], space["order"]


def test_the_rules_are_those_that_the_chapter_writes_down():
    judge, _ = rules()
    assert (judge(True), judge(False), judge(None)) == (R, N, X)
    assert judge(True, identity=True) == SAME
    assert {judge(holds, lacks="the tolerance") for holds in (True, False, None)} == {X}
    assert {judge(holds, p=0.06) for holds in (True, False)} == {W} and judge(True, p=0.04) == R
    assert judge(True, other="another algorithm") == N
    assert {judge(False, settled=by) for by in ("a proof", "the paper's own numbers", [False])} == {C}
    assert judge(False, settled=[False, True, False]) == N  # a search that found a way out
    assert judge(False, settled="a proof", other="another algorithm") == N
    with pytest.raises(AssertionError, match="there is an error"):
        judge(False, identity=True)
    with pytest.raises(AssertionError):
        judge(False, settled="we are sure")


def test_an_order_of_methods():
    _, order = rules()
    assert order([0.01, 0.04]) == (True, 0.04)
    assert order([0.01, 0.3]) == (True, 0.3)  # within noise, by its p
    assert order([0.01], [0.2]) == (False, 0.2)
    assert order([0.3], [0.01]) == (False, 0.0)  # one pair the other way is enough


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
