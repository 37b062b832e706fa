"""The book's figures: one style, safe for color-blind readers, on white so that dark pages can frame them."""

import io
from collections.abc import Iterable

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image as Pixels

__all__ = ["COLORS", "moving_picture", "new_figure", "use_style"]

#: Colors by role, from the Okabe-Ito palette. The last three are light, for areas, dots and labeled lines.
COLORS = {
    "exact": "#000000",
    "lfvi": "#0072B2",
    "paper": "#D55E00",
    "mean_field": "#CC79A7",
    "data": "#009E73",
    "prey": "#E69F00",
    "predator": "#56B4E9",
    "prior": "#BBBBBB",
}


def use_style() -> None:
    """Set matplotlib to the book's style.

    Examples
    --------
    >>> use_style()
    >>> mpl.rcParams["axes.spines.top"]
    False
    """
    cycle = [COLORS[role] for role in ("lfvi", "paper", "data", "mean_field", "exact")]
    mpl.rcParams.update(
        {
            "axes.grid": True,
            "axes.prop_cycle": mpl.rcsetup.cycler(color=cycle),
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


def moving_picture(figures: Iterable[Figure], milliseconds: int = 700, colors: int = 48):
    """Make an animated PNG of figures, and close them.

    It begins with the last figure, which holds the result, for whoever prints the page or wants nothing to
    move. On the pages of the book a button stops it and a slider steps through it.

    Parameters
    ----------
    figures
        In their order in time, all of one size. A generator keeps one of them in memory at a time.
    milliseconds
        For each figure; the last is shown for 3,000, the first for 1,500.
    colors
        How many the file may have.

    Examples
    --------
    >>> def growing():
    ...     for size in (1, 2, 3):
    ...         figure, axes = new_figure()
    ...         lines = axes.plot([0, size], [0, 1])
    ...         yield figure
    >>> moving_picture(growing()).format
    'png'
    """
    from IPython.display import Image  # a notebook has it; the library does not need it

    frames = []
    for figure in figures:
        figure.canvas.draw()
        pixels = np.asarray(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]
        frames.append(Pixels.fromarray(pixels[..., :3]))
        figure.clear()  # its parts hold one another, and a closed figure would stay in memory for long
        plt.close(figure)
    some = frames[:: -(-len(frames) // 6)] + frames[-1:]
    palette = Pixels.fromarray(np.concatenate([np.asarray(frame) for frame in some])).quantize(colors)
    *earlier, last = [frame.quantize(palette=palette, dither=Pixels.Dither.NONE) for frame in frames]
    duration = [3_000, 1_500] + [milliseconds] * (len(frames) - 2)
    file = io.BytesIO()
    last.save(
        file, format="png", save_all=True, append_images=earlier, duration=duration[: len(frames)], loop=0
    )
    return Image(file.getvalue(), format="png")
