"""The slides of the course: one idea each, minutes of the timetable, figures and numbers of the chapters."""

import re
from itertools import accumulate

import pytest
from _ext.slides import stored
from notebooks import BOOK
from pdf import SLIDES

from .test_words import CHAPTERS, LINK, TEXTS, prose, strangers, targets

DAYS = {day: (BOOK / f"{day}.md").read_text() for day in SLIDES}


def words(chapter) -> str:
    """What a reader of a chapter sees, without its pictures."""
    outputs = [output for cell in chapter.cells for output in cell.get("outputs", [])]
    printed = [output.get("text", "") for output in outputs]
    tables = [output.get("data", {}).get("text/markdown", "") for output in outputs]
    return " ".join(
        [cell.source for cell in chapter.cells if cell.cell_type == "markdown"] + printed + tables
    )


READ = " ".join(words(CHAPTERS[name]) for name in CHAPTERS if name[:2] in ("01", "02", "04", "06", "07"))


def slides(day: str) -> dict[str, str]:
    """The slides of a page by their headings."""
    parts = re.split(r"^## ", day, flags=re.M)[1:]
    found = dict(part.split("\n", 1) for part in parts)
    assert len(found) == len(parts), "two slides have one heading"
    return found


def minutes(slide: str) -> int:
    (found,) = re.findall(r"^:::\{notes\} (\d+)$", slide, re.M)
    return int(found)


def timetable(syllabus: str) -> list[int]:
    """The minutes of each row of the timetable, which both days share."""
    table = syllabus.split("| minutes | first day | second day |\n| --- | --- | --- |\n")[1].split("\n\n")[0]
    return [int(row.split("|")[1]) for row in table.splitlines()]


def numbers(text: str) -> set[str]:
    """Numbers that only a run can tell: with a decimal point, or of three digits and more."""
    return set(re.findall(r"\d+\.\d+|\d{1,3}(?:,\d{3})+|\d{3,}", LINK.sub("", text)))


def problems(name: str, slide: str, known: set[str]) -> list[str]:
    """What is wrong with a slide."""
    shown, notes = re.split(r"^:::\{notes\} \d+$", slide, flags=re.M)
    labels = re.findall(r"^:::\{chapter-figure\} (\S+)$", shown, re.M)
    text = prose(re.sub(r":::.*|\$\$[\s\S]*?\$\$", "", shown))
    task = name.startswith(("Your turn", "Each team"))
    written = numbers(shown.replace("{,}", ",") + notes.replace("{,}", ","))
    checks = {
        "a figure, a formula or a task": labels or "$$" in shown or task,
        "at most one figure": len(labels) <= 1,
        "figures that exist": all(label in known for label in labels),
        "a sentence or two, or a task": len(text.split()) <= 60,
        "a question for the audience": "**Ask" in notes,
        "a heading of one line": len(name) <= 60 and name[-1] not in ".:",
        "links that lead somewhere": all(place.lstrip("/") in known for _, place in LINK.findall(slide)),
        "numbers of the chapters": all(number in READ for number in written),
        "the book's words": strangers({name: prose(slide)}) == [],
    }
    return [f"{name}: expected {what}" for what, good in checks.items() if not good]


@pytest.fixture(scope="module")
def known():
    pages = {path.stem for path in (BOOK / "course").glob("*.md")}
    return targets(TEXTS, CHAPTERS) | {path.stem for path in BOOK.glob("*.ipynb")} | pages


@pytest.mark.parametrize("day", DAYS)
def test_slides(day, known):
    found = slides(DAYS[day])
    assert [what for name, slide in found.items() for what in problems(name, slide, known)] == []
    assert 12 <= sum("Your turn" not in name for name in found) <= 18


@pytest.mark.parametrize("day", DAYS)
def test_minutes_fill_the_timetable(day):
    rows = timetable((BOOK / "course/syllabus.md").read_text())
    ends = list(accumulate(minutes(slide) for slide in slides(DAYS[day]).values()))
    assert set(accumulate(rows)) <= {*ends}, "a row of the timetable ends within a slide"
    assert ends[-1] == sum(rows)
    assert all(minutes(slide) == rows[1] or minutes(slide) == rows[3] for slide in turns(DAYS[day]))


def turns(day: str) -> list[str]:
    return [slide for name, slide in slides(day).items() if name.startswith("Your turn")]


def test_figures_are_those_of_the_notebooks():
    for label in re.findall(r"\{chapter-figure\} (\S+)", "".join(DAYS.values())):
        notebook, picture, alt = stored(label)
        assert notebook.name[:2] == label[4:6] and picture.startswith(b"\x89PNG") and len(alt) > 40
        assert not alt.startswith("Animation"), "what moves is not for paper"
    with pytest.raises(LookupError, match="no chapter has the figure fig-04-no"):
        stored("fig-04-no")


GOOD = """
A sentence.

:::{chapter-figure} fig-04-idea
:::

:::{notes} 9
**Ask.** Which, of 5,000? See {doc}`/04_density_ratios`.
:::
"""


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("", "", None),
        ("fig-04-idea", "fig-04-ideal", "figures that exist"),
        (":::{chapter-figure} fig-04-idea\n:::", "", "a figure, a formula"),
        ("A sentence.", ":::{chapter-figure} fig-04-humps\n:::", "at most one figure"),
        ("A sentence.", "A sentence. " * 40, "a sentence or two"),
        ("**Ask.**", "**Say.**", "a question"),
        ("/04_density_ratios", "/04_ratios", "links"),
        ("5,000", "5,137", "numbers"),
        ("A sentence.", "A datapoint.", "words"),
    ],
)
def test_problems_are_noticed(known, old, new, complaint):
    found = problems("One idea", GOOD.replace(old, new), known)
    assert found == [] if complaint is None else any(complaint in what for what in found), found


def test_two_notes_or_headings_are_noticed():
    with pytest.raises(ValueError, match="too many"):
        minutes(GOOD + GOOD)
    with pytest.raises(AssertionError, match="one heading"):
        slides(f"# Day\n\n## One\n{GOOD}\n## One\n{GOOD}")
