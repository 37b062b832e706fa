"""What the theme leaves to do on the finished pages.

Each page gets a description for search engines and link previews; the site gets its front page at its own
address, and a page for those who followed a broken link; the icons are loaded once; a picture that is too
small for a phone opens by itself; one whose caption speaks of light and dark stays as drawn on a dark page; a
comma stays on the line of its formula.
"""

import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from docutils import nodes

LENGTH = 200
LOST = """<h1>There is no such page</h1>
<p>The address may be mistyped, or the page has moved. The <a href="intro.html">front page</a> says what the
book holds, and the <a href="search.html">search</a> looks through all of it.</p>"""
# The theme loads its icons as fonts, which it needs, and once more as a script of 1.5 MB.
ICONS = r'\s*<script src="[^"]*fontawesome[^"]*"></script>|\s*<link rel="preload" as="font"[^>]*>'

# A moving picture has its own controls.
PICTURE = r'(<figure[^>]*>\s*)(<img (?!alt="Animation)[^>]*src="([^"]*)"[^>]*>)'
SHADES = r"\b(bright|brighter|dark|darker|darkest|light|lighter|pale|paler|white)\b"
FORMULA = r'[(\[]*<span class="math notranslate nohighlight">[^<]*</span>[.,;:?!)\]]*'


def description(doctree) -> str:
    """Take the first sentences of running text without a formula, as many as a preview shows."""
    text = ""
    for paragraph in doctree.findall(nodes.paragraph):
        if not isinstance(paragraph.parent, nodes.section):
            continue
        paragraph = paragraph.deepcopy()
        for formula in list(paragraph.findall(nodes.math)):
            formula.replace_self(nodes.Text("\ufffc"))
        plain = re.sub(r"\s*\[[^]]*\d{4}\w?\]", "", paragraph.astext())  # a citation
        for sentence in re.split(r"(?<=[.?!])\s+", " ".join(plain.split())):
            if text and len(text) + len(sentence) > LENGTH:
                return text
            if "\ufffc" not in sentence and sentence.endswith((".", "?", "!")):
                text = f"{text} {sentence}".strip()
    return text


def describe(app, name, template, context, doctree):
    if doctree and (text := description(doctree)):
        context["meta"] = {**(context["meta"] or {}), "og:description": text}
        context["metatags"] += f'<meta name="description" content="{text.replace(chr(34), "&quot;")}" />\n'


def shade(app, doctree):
    """A dark page turns figures inside out, but not those whose captions would then be wrong."""
    for figure in doctree.findall(nodes.figure):
        for image in figure.findall(nodes.image):
            if re.search(SHADES, f"{figure.astext()} {image.get('alt')}", re.I):
                image["classes"].append("as-drawn")


def polish(app, name, template, context, doctree):
    if doctree:
        body = re.sub(PICTURE, r'\1<a href="\3">\2</a>', context["body"])
        context["body"] = re.sub(FORMULA, r'<span class="whole">\g<0></span>', body)


def lost(app):
    yield "404", {"title": "There is no such page", "body": LOST}, "page.html"


def finish(app, exception):
    if exception or app.builder.format != "html":
        return
    out = Path(app.outdir)
    for page in out.rglob("*.html"):
        page.write_text(re.sub(ICONS, "", page.read_text()))
    # GitHub Pages shows this page at whatever address was asked for, so its links must not depend on that.
    home = urlsplit(app.config.html_baseurl).path
    relative = r'(?<=\s)(href|src|action|data-content_root)="(?![#/]|\w+:)(?:\./)?'
    (out / "404.html").write_text(re.sub(relative, rf'\1="{home}', (out / "404.html").read_text()))
    shutil.copy(out / f"{app.config.root_doc}.html", out / "index.html")


def setup(app):
    app.connect("doctree-read", shade)
    app.connect("html-page-context", describe, priority=400)  # before the preview tags are written
    app.connect("html-page-context", polish)
    app.connect("html-collect-pages", lost)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
