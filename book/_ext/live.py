"""A live figure: its question from the page, what moves from a short script, book/live/NAME.js.

The script stands in the page, so that nothing is fetched and the page works from a folder. What it calls is
book/_static/live.js. Without scripts, and on paper, a live figure is not there.
"""

from html import escape
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

SCRIPTS = Path(__file__).parent.parent / "live"


class live(nodes.General, nodes.Element):
    pass


class Live(SphinxDirective):
    """Question, choices as a list, and below it what is shown once the reader has chosen."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar = {
        "answer": directives.positive_int,
        "title": directives.unchanged_required,
    }

    def run(self):
        script = SCRIPTS / f"{self.arguments[0]}.js"
        missing = {"answer", "title"} - {*self.options}
        if missing or not script.exists():
            raise self.error(f"a live figure needs {', '.join(sorted(missing)) or script}")
        self.env.note_dependency(str(script))
        node = live(script=script.read_text(), **self.options)
        self.state.nested_parse(self.content, self.content_offset, node)
        return [node]


def visit(self, node):
    title = escape(node["title"])
    self.body.append(
        f'<div class="live" role="group" aria-label="{title}" data-answer="{node["answer"]}">'
        f'<p class="live-title">{title}</p>'
    )


def depart(self, node):
    self.body.append(f"</div><script>{node['script']}</script>")


def skip(self, node):
    raise nodes.SkipNode


def setup(app):
    others = dict.fromkeys(("latex", "text", "man", "texinfo"), (skip, None))
    app.add_node(live, html=(visit, depart), **others)
    app.add_directive("live", Live)
    return {"parallel_read_safe": True}
