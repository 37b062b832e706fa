"""The front page: its picture and its map are those of the sources, and every route leads somewhere."""

import hashlib
import re

import chapter_map
import notebooks
import pytest
from notebooks import BOOK
from PIL import Image

PAGE = (BOOK / "intro.md").read_text()


def test_map_is_that_of_the_headers():
    assert chapter_map.TARGET.read_text() == chapter_map.svg(), "run `python book/chapter_map.py`"


def test_map_notices_a_header(monkeypatch):
    header = notebooks.read(BOOK / "07_failures.ipynb")
    header.metadata["himlib"]["prerequisites"] = ["04_density_ratios"]
    monkeypatch.setattr(
        chapter_map,
        "read",
        lambda path: header if path.stem == "07_failures" else notebooks.read(path),
    )
    changed = chapter_map.svg()
    assert "How LFVI fails, and how to tell needs Density-ratio tricks." in changed
    assert changed != chapter_map.TARGET.read_text()


def test_map_links_to_every_chapter():
    names = re.findall(r'href="(\w+)\.html"', chapter_map.svg())
    assert names == list(chapter_map.chapters())
    assert all(map(notebooks.chapter_file, names))
    front = {"ten_minutes", "coming_from"}  # how to begin, which no chapter needs
    assert {path.stem for path in notebooks.notebooks()} <= {*names, *front, "template"}


def test_map_joins_what_is_needed_directly():
    needs = {"a": [], "b": ["a"], "c": ["a", "b"], "d": ["b"], "e": ["a", "d", "c"]}
    assert chapter_map.ancestors(needs, "e") == {"a", "b", "c", "d"}
    assert chapter_map.lines(needs) == [("a", "b"), ("b", "c"), ("b", "d"), ("d", "e"), ("c", "e")]


def test_map_is_for_all_readers():
    drawn = chapter_map.svg()
    assert 'aria-labelledby="map-title map-text"' in drawn
    assert drawn.count(" needs ") == sum(bool(needs) for *_, needs in chapter_map.chapters().values())
    lines = re.findall(r'<t(?:ext|span) x="\d+"[^>]*>([^<]+)<', drawn)
    assert len(lines) >= len(chapter_map.chapters())
    assert chapter_map.TITLES + 6.6 * max(map(len, lines)) < chapter_map.WIDTH


def test_picture_is_that_of_its_script():
    digest = hashlib.sha256((BOOK / "figures" / "front.py").read_bytes()).hexdigest()[:16]
    with Image.open(BOOK / "figures" / "front.png") as picture:
        assert picture.info["Description"] == digest, "run `python book/figures/front.py`"


@pytest.mark.parametrize("card", ["Read", "Run", "Teach"])
def test_routes_are_one_click(card):
    target = re.search(rf"grid-item-card\}} {card}\n:link: (\S+)", PAGE)[1]
    blob = f"{notebooks.addresses(notebooks.repository_url())[1]}/blob/main/"
    path = target.split(blob)[1] if target.startswith("https://colab") else f"book/{target}"
    assert any((notebooks.ROOT / (path + ending)).exists() for ending in ("", ".md", ".ipynb"))
