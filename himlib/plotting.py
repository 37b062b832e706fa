"""The book's figures: one style, safe for color-blind readers, on white so that dark pages can frame them."""

import matplotlib as mpl
import matplotlib.pyplot as plt

__all__ = ["COLORS", "new_figure", "use_style"]

#: Colors by role, from the Okabe-Ito palette.
COLORS = {
    "exact": "#000000",
    "lfvi": "#0072B2",
    "paper": "#D55E00",
    "mean_field": "#CC79A7",
    "data": "#009E73",
    "prior": "#BBBBBB",
    "prey": "#E69F00",
    "predator": "#56B4E9",
}


def use_style() -> None:
    """Set matplotlib to the book's style.

    Examples
    --------
    >>> use_style()
    >>> mpl.rcParams["axes.spines.top"]
    False
    """
    cycle = [COLORS[role] for role in ("lfvi", "paper", "data", "mean_field", "prey")]
    mpl.rcParams.update(
        {
            "axes.grid": True,
            "axes.prop_cycle": mpl.cycler(color=cycle),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "figure.constrained_layout.use": True,
            "figure.dpi": 110,
            "figure.facecolor": "white",
            "font.size": 10.5,
            "grid.color": "#DDDDDD",
            "grid.linewidth": 0.6,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
        }
    )


def new_figure(rows: int = 1, columns: int = 1, height: float = 3.0, **options):
    """Make a figure as wide as a page's text, with its axes.

    Parameters
    ----------
    rows, columns
        Of the grid of axes.
    height
        Of one row, in inches; the width is always 8.
    options
        Passed on to :func:`matplotlib.pyplot.subplots`.

    Examples
    --------
    >>> figure, axes = new_figure(1, 2)
    >>> len(axes)
    2
    """
    return plt.subplots(rows, columns, figsize=(8, height * rows), **options)
