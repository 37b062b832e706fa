"""Keep off the API page the fields of named tuples, which their class lists, and what is not himlib's.

A flax module takes what its __init__ takes, and not the (*args, **kwargs) of flax's metaclass.
"""

from sphinx.ext import autodoc


def skip(app, what, name, member, skipped, options):
    home = getattr(member, "__module__", None) or "himlib"  # of a number or a prior, its class's
    foreign = what != "module" and not home.startswith("himlib")
    return True if foreign or type(member).__name__ == "_tuplegetter" else None


def setup(app):
    app.connect("autodoc-skip-member", skip)
    autodoc._METACLASS_CALL_BLACKLIST.append("flax.nnx.pytreelib.PytreeMeta.__call__")
    return {"parallel_read_safe": True}
