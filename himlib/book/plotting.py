"""The book's figures: one style, safe for color-blind readers, on white so that dark pages can frame them."""

import io
from collections.abc import Iterable
from typing import Any

import jax
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image as Pixels

__all__ = ["COLORS", "moving_picture", "new_figure", "pair_plot", "use_style"]

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


def pair_plot(draws: Any, beside: Any = None, labels: tuple[str, str] = ("posterior", "prior")) -> Figure:
    """Show draws of some parameters: each by itself, and each with each as the areas of 50 % and 90 %.

    Parameters
    ----------
    draws
        Draws with a leading axis, a tree such as a dict of arrays; at most ten numbers each.
    beside
        Others like them, such as the prior's or exact ones, as gray areas; or None.
    labels
        What the two are.

    Returns
    -------
    matplotlib.figure.Figure
        As wide as a page's text.

    Raises
    ------
    ValueError
        If there are no or too many numbers in a draw.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> figure = pair_plot({"mean": rng.normal(size=500), "sd": rng.gamma(2.0, size=500)})
    >>> [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()]
    ['mean', 'sd']
    """
    names, columns = _columns(draws)
    others = None if beside is None else _columns(beside)[1]
    size = len(names)
    if not 1 <= size <= 10:
        raise ValueError(f"draws: expected one number to ten in each, got {size}.")
    figure, grid = new_figure(size, size, height=8 / size, squeeze=False)
    for i, row in enumerate(grid):
        for j, axes in enumerate(row):
            if j > i:
                axes.remove()
                continue
            for values, color, label in ((others, "prior", labels[1]), (columns, "lfvi", labels[0])):
                if values is None:
                    continue
                if i == j:
                    axes.hist(values[i], 40, density=True, color=COLORS[color], alpha=0.7, label=label)
                else:
                    _areas(axes, values[j], values[i], COLORS[color])
            axes.set_xlabel(names[j] if i == size - 1 else "")
            axes.set_ylabel("density" if i == j else names[i] if j == 0 else "")
            if i == j:
                axes.set_yticks([])
    if others is not None:
        grid[0, 0].legend()
    return figure


def _columns(draws: Any) -> tuple[list[str], list[np.ndarray]]:
    """Name each number of a draw, and give its values."""
    names, columns = [], []
    for path, leaf in jax.tree.leaves_with_path(draws):
        name = jax.tree_util.keystr(path, simple=True, separator=".") or "beta"
        values = np.asarray(leaf, np.float64)
        for index in np.ndindex(values.shape[1:]):
            names.append(f"{name}{list(index)}" if index else name)
            columns.append(values[:, *index])
    return names, columns


def _areas(axes: Any, x: np.ndarray, y: np.ndarray, color: str) -> None:
    """Fill the smallest areas with 90 % and 50 % of the draws."""
    counts, *edges = np.histogram2d(x, y, 60)
    counts = np.pad(counts, 6)
    reach = np.hypot(*np.meshgrid(*[(np.arange(72) + 36) % 72 - 36] * 2))  # around the ends
    kernel = np.exp(-0.5 * (reach / 1.5) ** 2)
    smooth = np.maximum(np.fft.irfft2(np.fft.rfft2(counts) * np.fft.rfft2(kernel), counts.shape), 0)
    middles = [edge[0] + (np.arange(72) - 5.5) * (edge[1] - edge[0]) for edge in edges]
    cells = [np.searchsorted(edge[1:-1], values) + 6 for edge, values in zip(edges, (x, y), strict=True)]
    levels = np.quantile(smooth[*cells], [0.1, 0.5])  # above which are nine draws of ten, and half of them
    if levels[0] < levels[1] < smooth.max():
        axes.contourf(*middles, smooth.T, [*levels, smooth.max()], colors=[color] * 2, alpha=0.45)
        axes.contour(*middles, smooth.T, levels, colors=[color], linewidths=1)


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
