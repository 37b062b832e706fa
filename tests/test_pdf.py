"""The book as one document: what is joined, where its links lead, and that a browser prints it."""

import re
import shutil

import pdf
import pytest
from notebooks import BOOK

PAGES = {
    "a": """<html><head></head><article class="bd-article"><section id="top"><h1>A</h1>
        <a href="course/b.html#goal">there</a> <a href="#top">here</a> <a href="api.html#name">names</a>
        <a href="https://example.org/#x">out</a><button>copy</button></section><script>x</script></article></html>""",
    "course/b": """<article class="bd-article"><section id="goal"><h1>B</h1><a href="../a.html">back</a>
        <img alt="dot" src="../dot.svg"><div class="live">drag me</div></section></article>""",
}


def test_links_lead_to_places_in_it():
    page = pdf.single(PAGES, "<head></head>", {})
    assert re.findall('href="(.*?)"', page) == ["#course/b--goal", "#a--top", "https://example.org/#x", "#a"]
    assert "</a> names" in page  # which leads nowhere on paper
    assert re.findall('id="(.*?)"', page) == ["a", "a--top", "course/b", "course/b--goal"]
    assert 'src="dot.svg"' in page and not re.search("drag me|copy|<script", page)


def test_contents_list_by_part_what_is_printed():
    parts = {"Front": ["a"], "Course": ["course/b", "course/c"], "Back": ["api"]}
    listed = pdf.contents(PAGES, parts)
    assert re.findall("<p>(.*?)</p>", listed) == ["Front", "Course"]
    assert re.findall('<a href="(.*?)">(.*?)</a><span data-page="(.*?)">', listed) == [
        ("#a", "A", "a"),
        ("#course/b", "B", "course/b"),
    ]
    assert pdf.contents(PAGES, {}) == ""
    page = pdf.single(PAGES, "<head></head>", parts)
    assert page.index('id="a"') < page.index("Contents") < page.index('id="course/b"')


def test_left_out_are_pages_of_the_book():
    assert all(f"- file: {name}\n" in (BOOK / "_toc.yml").read_text() for name in pdf.LEFT_OUT)


@pytest.mark.skipif(
    not any(map(shutil.which, pdf.BROWSERS)), reason="NOTICE: no Chromium, nothing was printed"
)
def test_prints_what_it_joined(tmp_path, monkeypatch):
    monkeypatch.setattr(pdf, "SITE", tmp_path)
    (tmp_path / "course").mkdir()
    (tmp_path / "dot.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>")
    script = "<script>MathJax = {startup: {promise: Promise.resolve()}}</script></head>"
    for name, html in PAGES.items():
        (tmp_path / f"{name}.html").write_text(html.replace("</head>", script))
    pdf.main(tmp_path / "book.pdf", [*PAGES], {"Course": ["course/b"]})
    printed = (tmp_path / "book.pdf").read_bytes()
    assert printed.startswith(b"%PDF") and printed.count(b"/Type /Page\n") == 3
    assert pdf.numbers(printed, [*PAGES, "c"]) == {"a": 1, "course/b": 3}
    assert b"/URI (file:" not in printed
    assert b"/Outlines" in printed and not (tmp_path / "together.html").exists()
