"""Slides: a page whose sections are one slide each, with a figure of a chapter and notes for the speaker.

The figure is named by its label. It is the picture that the chapter's notebook holds, under the name that it
has on the chapter's page, so that the site has it once. Whether a slide is read on the page, fills the window
or is printed is decided in book/_static, by slides.css and slides.js.
"""

import hashlib
import json
from base64 import b64decode
from os.path import relpath
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from myst_nb.sphinx_ext import OUTPUT_FOLDER
from sphinx.util.docutils import SphinxDirective

BOOK = Path(__file__).parent.parent


def stored(label: str) -> tuple[Path, bytes, str]:
    """Find a figure by its label, as in fig-04-idea: the notebook, the picture and its alternative text."""
    for notebook in BOOK.glob(f"{label[4:6]}_*.ipynb"):
        for cell in json.loads(notebook.read_text())["cells"]:
            about = cell["metadata"].get("mystnb", {})
            if about.get("figure", {}).get("name") == label:
                (picture,) = (
                    output["data"]["image/png"]
                    for output in cell["outputs"]
                    if "image/png" in output.get("data", {})
                )
                return notebook, b64decode(picture), about["image"]["alt"]
    raise LookupError(f"no chapter has the figure {label}")


class ChapterFigure(SphinxDirective):
    """The figure of a chapter, and below it where it is from."""

    required_arguments = 1

    def run(self):
        (label,) = self.arguments
        try:
            notebook, picture, alt = stored(label)
        except LookupError as missing:
            raise self.error(str(missing)) from None
        self.env.note_dependency(str(notebook))
        file = Path(self.env.app.outdir).parent / OUTPUT_FOLDER / f"{hashlib.sha256(picture).hexdigest()}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture)
        place = "/" + Path(relpath(file, self.env.srcdir)).as_posix()
        source = nodes.container(classes=["source"])
        text = f"{{numref}}`{label}` of {{doc}}`/{notebook.stem}`"
        self.state.nested_parse(StringList([text]), self.content_offset, source)
        return [nodes.figure("", nodes.image(uri=place, alt=alt)), source]


class notes(nodes.General, nodes.Element):
    pass


class Notes(SphinxDirective):
    """What the speaker does on this slide, and for how many minutes."""

    required_arguments = 1
    has_content = True

    def run(self):
        node = notes(minutes=int(self.arguments[0]))
        self.state.nested_parse(self.content, self.content_offset, node)
        return [node]


def visit(self, node):
    self.body.append(f'<details class="notes"><summary>Notes: {node["minutes"]} minutes</summary>')


def depart(self, node):
    self.body.append("</details>")


def skip(self, node):
    raise nodes.SkipNode


def mark(app, doctree):
    for node in doctree.findall(notes):
        node.parent["classes"].append("slide")


def setup(app):
    others = dict.fromkeys(("latex", "text", "man", "texinfo"), (skip, None))
    app.add_node(notes, html=(visit, depart), **others)
    app.add_directive("chapter-figure", ChapterFigure)
    app.add_directive("notes", Notes)
    app.connect("doctree-read", mark)
    return {"parallel_read_safe": True}
