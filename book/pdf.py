"""Print the built site as one PDF, with an installed Chromium: `make pdf`, and `make slides`.

The pages become one, in the order of the book, whose links lead from place to place in it.
A browser sets the formulas, prints by the site's rules for paper, and makes bookmarks of the
headings. The book's contents come after its first page, with the numbers that a first
printing gave the pages.
"""

import re
import shutil
import sys
from pathlib import Path
from posixpath import dirname, join, normpath

import yaml
from bs4 import BeautifulSoup
from notebooks import BOOK, ROOT
from playwright.sync_api import sync_playwright

SITE = ROOT / "_build" / "html"
SLIDES = ("course/first_day", "course/second_day")
LEFT_OUT = ("genindex", "api", *SLIDES)  # for looking up, and the chapters' figures again
PAPER = """
@page { margin: 18mm 16mm; }
.page:not(:last-child) { break-after: page; }
html { font-size: 13px; }
.page { padding-top: 1px; }  /* a heading at the very edge is bookmarked twice */
"""
NUMBERED = """
@page { @bottom-center { content: counter(page); font: 9pt sans-serif; } }
.contents p { font-weight: bold; margin: 1.2em 0 0.3em; }
.contents ul { list-style: none; margin: 0; padding: 0; }
.contents li { align-items: baseline; display: flex; gap: 1em; margin: 0; }
.contents a { border-bottom: 1px dotted; flex: 1; text-decoration: none !important; }
"""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
READY = """MathJax.startup.promise.then(() => {
  for (const image of document.images) image.loading = "eager";
  return Promise.allSettled([...document.images].map(image => image.decode()));
}).then(() => null)"""

FILL = """numbers => {
  for (const node of document.querySelectorAll("[data-page]"))
    node.textContent = numbers[node.dataset.page];
}"""


def moved(link: str, name: str, pages) -> str | None:
    """Say where a link of a page leads in the single one; None if to none of them."""
    if re.match(r"[a-z]+:", link):
        return link
    address, _, place = link.partition("#")
    address = normpath(join(dirname(name), address)) if address else f"{name}.html"
    other = address.removesuffix(".html")
    if other not in pages:  # or it would lead into a folder of whoever printed the book
        return None
    return f"#{other}--{place}" if place else f"#{other}"


def contents(pages: dict[str, str], parts: dict[str, list[str]]) -> str:
    """List the pages after the first by part; the place for a number has its page's name."""
    listed = []
    for part, names in parts.items():
        rows = []
        for name in filter(pages.__contains__, names):
            title = BeautifulSoup(pages[name], "html.parser").select_one("article h1")
            for mark in title.select(".headerlink"):
                mark.decompose()
            rows.append(
                f'<li><a href="#{name}">{title.get_text()}</a>'
                f'<span data-page="{name}"></span></li>'
            )
        if rows:
            listed.append(f"<p>{part}</p><ul>{''.join(rows)}</ul>")
    return (
        f'<div class="page contents"><h1>Contents</h1>{"".join(listed)}</div>'
        if listed
        else ""
    )


def single(pages: dict[str, str], head: str, parts: dict[str, list[str]]) -> str:
    """Make one page of many, whose links lead to places in it; `head` is that of any."""
    bodies = []
    for name, html in pages.items():
        article = BeautifulSoup(html, "html.parser").select_one("article.bd-article")
        for gone in article.select("script, .live, .headerlink, button"):
            gone.decompose()
        for node in article.find_all(id=True):
            node["id"] = f"{name}--{node['id']}"
        for node in article.find_all("img", src=True):
            node["src"] = normpath(join(dirname(name), node["src"]))
        for node in article.find_all("a", href=True):
            if (link := moved(node["href"], name, pages)) is None:
                node.unwrap()
            else:
                node["href"] = link
        bodies.append(f'<div class="page" id="{name}">{article.decode_contents()}</div>')
    bodies.insert(1, contents(pages, parts))
    main = f'<main><article class="bd-article">{"".join(bodies)}</article></main>'
    start = '<!DOCTYPE html><html lang="en" data-theme="light">'
    return f'{start}{head}<body><div class="bd-content">{main}</div></body></html>'


def numbers(printed: bytes, names) -> dict[str, int]:
    """Read on which sheet of a PDF each page of the site begins."""
    sheets = re.findall(rb"^(\d+) 0 obj\s*<</Type /Page\b", printed, re.M)
    places = dict(re.findall(rb"/(\S+) \[(\d+) 0 R /XYZ", printed))
    found = {name: places.get(name.replace("/", "#2F").encode()) for name in names}
    return {name: sheets.index(place) + 1 for name, place in found.items() if place}


def main(target: Path, names: list[str], parts: dict[str, list[str]]) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("make pdf needs Chromium, which was not found.")
    pages = {name: (SITE / f"{name}.html").read_text() for name in names}
    head = re.search(r"<head>.*?</head>", pages[names[0]], re.S)[0]
    head = re.sub(r'(src|href)="(?:\.\./)+', r'\1="', head)  # of a page in a folder
    paper = PAPER + NUMBERED if parts else PAPER
    head = head.replace("</head>", f"<style>{paper}</style></head>")
    together = SITE / "together.html"
    together.write_text(single(pages, head, parts))
    try:
        with sync_playwright() as playwright:
            page = playwright.chromium.launch(executable_path=browser).new_page()
            page.set_default_timeout(600_000)
            page.goto(together.as_uri())
            page.evaluate(READY)
            paper = {"prefer_css_page_size": True, "outline": True, "tagged": True}
            printed = page.pdf(path=target, format="A4", **paper)
            if parts:
                page.evaluate(FILL, numbers(printed, names))
                page.pdf(path=target, format="A4", **paper)
    finally:
        together.unlink()
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text())
    parts = {
        part["caption"]: [page["file"] for page in part["chapters"]] for part in toc["parts"]
    }
    if sys.argv[1:] == ["slides"]:
        main(ROOT / "_build" / "slides.pdf", [*SLIDES], {})
    else:
        listed = [toc["root"], *(name for names in parts.values() for name in names)]
        chosen = sys.argv[1:] or [name for name in listed if name not in LEFT_OUT]
        main(ROOT / "_build" / "himlib.pdf", chosen, parts)
