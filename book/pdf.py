"""Print the built site as one PDF, with an installed Chromium: `make pdf`, and `make slides`.

The pages become one, in the order of the book, whose links lead from place to place in it.
A browser sets the formulas, prints by the site's rules for paper, and makes bookmarks of the
headings.
"""

import re
import shutil
import sys
from pathlib import Path
from posixpath import dirname, join, normpath

from bs4 import BeautifulSoup
from notebooks import BOOK, ROOT
from playwright.sync_api import sync_playwright

SITE = ROOT / "_build" / "html"
SLIDES = ("course/first_day", "course/second_day")
LEFT_OUT = ("genindex", "api", *SLIDES)  # for looking up, and the chapters' figures again
PAPER = """
@page { margin: 18mm 16mm; }
.page ~ .page { break-before: page; }
html { font-size: 13px; }
"""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
READY = """MathJax.startup.promise.then(() => {
  for (const image of document.images) image.loading = "eager";
  return Promise.allSettled([...document.images].map(image => image.decode()));
}).then(() => null)"""


def moved(link: str, name: str, pages) -> str:
    """Say where a link of a page leads in the single one; links to elsewhere stay."""
    found = re.fullmatch(r"([^:#]*)(?:#(.*))?", link)
    if not found:
        return link
    address, place = found.groups()
    address = normpath(join(dirname(name), address)) if address else f"{name}.html"
    other = address.removesuffix(".html")
    if other not in pages:
        return f"{address}#{place}" if place else address
    return f"#{other}--{place}" if place else f"#{other}"


def single(pages: dict[str, str], head: str) -> str:
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
            node["href"] = moved(node["href"], name, pages)
        bodies.append(f'<div class="page" id="{name}">{article.decode_contents()}</div>')
    main = f'<main><article class="bd-article">{"".join(bodies)}</article></main>'
    start = '<!DOCTYPE html><html lang="en" data-theme="light">'
    return f'{start}{head}<body><div class="bd-content">{main}</div></body></html>'


def main(target: Path, names: list[str]) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("make pdf needs Chromium, which was not found.")
    pages = {name: (SITE / f"{name}.html").read_text() for name in names}
    head = re.search(r"<head>.*?</head>", pages[names[0]], re.S)[0]
    head = re.sub(r'(src|href)="(?:\.\./)+', r'\1="', head)  # of a page in a folder
    head = head.replace("</head>", f"<style>{PAPER}</style></head>")
    together = SITE / "together.html"
    together.write_text(single(pages, head))
    try:
        with sync_playwright() as playwright:
            page = playwright.chromium.launch(executable_path=browser).new_page()
            page.set_default_timeout(600_000)
            page.goto(together.as_uri())
            page.evaluate(READY)
            page.pdf(
                path=target, format="A4", prefer_css_page_size=True, outline=True, tagged=True
            )
    finally:
        together.unlink()
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    listed = re.findall(r"(?:file|root): ([\w/]+)", (BOOK / "_toc.yml").read_text())
    if sys.argv[1:] == ["slides"]:
        main(ROOT / "_build" / "slides.pdf", [*SLIDES])
    else:
        chosen = sys.argv[1:] or [name for name in listed if name not in LEFT_OUT]
        main(ROOT / "_build" / "himlib.pdf", chosen)
