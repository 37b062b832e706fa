"""Let a link lead to any labeled place of another page: [text](09_lotka_volterra.ipynb#fig-09-series).

In Jupyter such a link opens the chapter, on the site it goes to the place. MyST by itself knows
headings only; a link to a place that does not exist stays a warning, hence an error.
"""

from docutils import nodes


def collect(app, doctree):
    places = app.env.metadata[app.env.docname].setdefault("myst_slugs", {})
    for node in doctree.findall(nodes.Element):
        for name in node["ids"]:
            places.setdefault(name, (node.line, name, ""))


def setup(app):
    app.connect("doctree-read", collect)
    return {"parallel_read_safe": True}
