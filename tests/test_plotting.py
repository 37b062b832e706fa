"""The style of the figures, and what color-blind readers see of it."""

from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from himlib.book.plotting import COLORS, new_figure, pair_plot, use_style

# What the lack of one kind of cone makes of linear RGB: Machado, Oliveira and Fernandes (2009), table 1.
VISION = {
    "usual": np.eye(3),
    "no red cones": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no green cones": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no blue cones": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
LUMINANCE = [0.2126, 0.7152, 0.0722]
# A thin line needs a contrast of 3 to 1 with white. These have less: for areas, dots and labeled lines.
LIGHT = {"prey", "predator", "prior"}
CSS = Path(__file__).parent.parent / "book" / "_static" / "book.css"
DARK_PAGE = "#121212"  # the theme's


@pytest.fixture(autouse=True)
def restored():
    with mpl.rc_context():
        yield
    plt.close("all")


def linear(color):
    """Undo the gamma of sRGB."""
    value = np.array(mpl.colors.to_rgb(color))
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(color, page):
    """The ratio of the Web Content Accessibility Guidelines, from 1 to 21."""
    low, high = sorted(linear(which) @ LUMINANCE + 0.05 for which in (color, page))
    return high / low


def contrast_with_white(color):
    return contrast(color, "white")


def in_the_dark(color):
    """What book.css makes of a figure's color on a dark page, by the matrices of CSS filters."""
    gray = np.array([0.213, 0.715, 0.072])  # CSS rounds
    turned = 2 * gray - np.eye(3)  # by 180 degrees, about gray
    saturated = 1.5 * np.eye(3) - 0.5 * gray
    inside_out = 1 - np.clip(1.02 * np.array(mpl.colors.to_rgb(color)), 0, 1)
    filtered = np.clip(saturated @ np.clip(turned @ inside_out, 0, 1), 0, 1)
    return 1 - (1 - filtered) * (1 - np.array(mpl.colors.to_rgb(DARK_PAGE)))


def lab(rgb):
    """CIELAB of linear RGB, under daylight (D65)."""
    to_xyz = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
    t = np.array(to_xyz) @ np.clip(rgb, 0, 1) / [0.95047, 1, 1.08883]
    x, y, z = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def difference(first, second):
    """CIEDE2000: about 1 is just noticeable, 10 is seen at a glance."""
    (l1, a1, b1), (l2, a2, b2) = first, second
    chroma = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * np.sqrt(chroma**7 / (chroma**7 + 25**7))
    c1, c2 = np.hypot(stretch * a1, b1), np.hypot(stretch * a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, stretch * a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = (h2 - h1 + 180) % 360 - 180 if c1 * c2 else 0
    hue = (h1 + turn / 2) % 360 if c1 * c2 else h1 + h2
    lightness, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    angles = ((1, -30, -0.17), (2, 0, 0.24), (3, 6, 0.32), (4, -63, -0.20))
    t = 1 + sum(weight * np.cos(np.radians(k * hue + shift)) for k, shift, weight in angles)
    by_lightness = (l2 - l1) / (1 + 0.015 * (lightness - 50) ** 2 / np.sqrt(20 + (lightness - 50) ** 2))
    by_chroma = (c2 - c1) / (1 + 0.045 * chroma)
    by_hue = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2)) / (1 + 0.015 * chroma * t)
    spread = 60 * np.exp(-(((hue - 275) / 25) ** 2))
    cross = -2 * np.sqrt(chroma**7 / (chroma**7 + 25**7)) * np.sin(np.radians(spread))
    return np.sqrt(by_lightness**2 + by_chroma**2 + by_hue**2 + cross * by_chroma * by_hue)


def closest(colors, kind):
    """The smallest difference between two of the colors, seen by eyes of a kind."""
    seen = [lab(np.array(VISION[kind]) @ linear(color)) for color in colors]
    return min(difference(first, second) for first, second in combinations(seen, 2))


@pytest.mark.parametrize(
    ("first", "second", "expected"),  # from the test data of Sharma, Wu and Dalal (2005)
    [
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((22.7233, 20.0904, -46.694), (23.0331, 14.973, -42.5619), 2.0373),
        ((2.0776, 0.0795, -1.135), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_difference_is_the_published_one(first, second, expected):
    assert difference(first, second) == pytest.approx(expected, abs=1e-4)
    assert difference(second, first) == pytest.approx(expected, abs=1e-4)


def test_vision_keeps_what_it_should():
    for matrix in VISION.values():
        np.testing.assert_allclose(np.sum(matrix, axis=1), 1, atol=1e-5)  # grays stay gray
    red, green = linear("#D62728"), linear("#2CA02C")
    assert difference(lab(red), lab(green)) > 60
    assert contrast_with_white("black") == pytest.approx(21) and contrast_with_white("white") == 1


@pytest.mark.parametrize("kind", VISION)
def test_all_colors_can_be_told_apart(kind):
    """Any two of them, and each from the page."""
    assert closest([*COLORS.values(), "white"], kind) > 10


@pytest.mark.parametrize(
    ("colors", "kind"),
    [
        (("#D62728", "#2CA02C"), "no green cones"),  # matplotlib's own red and green
        (("#2CA02C", "#FF7F0E"), "no red cones"),
        (("#FFFF66", "white"), "no blue cones"),
    ],
)
def test_check_notices_colors_that_look_alike(colors, kind):
    assert closest(colors, "usual") > 10 > closest(colors, kind)


def test_lines_stand_out_from_white():
    assert {role for role, color in COLORS.items() if contrast_with_white(color) < 3} == LIGHT
    use_style()
    cycle = mpl.rcParams["axes.prop_cycle"].by_key()["color"]
    assert all(contrast_with_white(color) >= 3 for color in cycle)
    assert cycle[0] == COLORS["lfvi"] and set(cycle) <= set(COLORS.values())


def test_dark_page_is_the_figures_own():
    """A white ground becomes the page, black becomes white, each color is clearer than on white."""
    assert "filter: brightness(1.02) invert(1) hue-rotate(180deg) saturate(1.5); mix-blend-mode: screen" in (
        CSS.read_text()
    )
    np.testing.assert_allclose(in_the_dark("white"), mpl.colors.to_rgb(DARK_PAGE))
    np.testing.assert_allclose(in_the_dark("black"), 1)
    seen = {role: contrast(in_the_dark(color), DARK_PAGE) for role, color in COLORS.items()}
    assert {role for role, ratio in seen.items() if ratio < 3} == {"prior"}  # for areas
    assert all(seen[role] > min(contrast_with_white(COLORS[role]), 18) for role in COLORS)


@pytest.mark.parametrize("kind", VISION)
def test_colors_can_be_told_apart_in_the_dark(kind):
    dark = [in_the_dark(color) for color in COLORS.values()]
    assert closest([*dark, DARK_PAGE], kind) > 8


def test_hues_stay_in_the_dark():
    """Within a third of the way to the next hue that has a name."""
    for role in ("lfvi", "paper", "data", "prey", "predator"):
        first, second = (
            mpl.colors.rgb_to_hsv(mpl.colors.to_rgb(color))[0]
            for color in (COLORS[role], in_the_dark(COLORS[role]))
        )
        assert abs((first - second + 0.5) % 1 - 0.5) < 20 / 360, role


def test_style_is_applied_and_can_be_applied_twice():
    use_style()
    first = dict(mpl.rcParams)
    use_style()
    assert dict(mpl.rcParams) == first
    assert not mpl.rcParams["axes.spines.right"] and mpl.rcParams["figure.facecolor"] == "white"


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 2), (2, 3)])
def test_figures_are_as_wide_as_the_page(rows, columns):
    figure, axes = new_figure(rows, columns, height=2.0, sharex=True)
    np.testing.assert_allclose(figure.get_size_inches(), [8, 2 * rows])
    assert np.size(axes) == rows * columns


# --- pairs --------------------------------------------------------------------------------------------------
def test_areas_of_a_normal_hold_what_they_say():
    draws = np.random.default_rng(0).multivariate_normal([3, -1], [[1, 0.8], [0.8, 1]], 20_000)
    use_style()
    figure = pair_plot({"a": draws[:, 0], "b": draws[:, 1]}, {"a": draws[:, 0] * 2, "b": draws[:, 1] * 2})
    axes = {(axes.get_xlabel(), axes.get_ylabel()): axes for axes in figure.axes}[("a", "b")]
    outlines = [part for part in axes.collections if not part.get_facecolor().size]
    for paths, share in zip(outlines[-1].get_paths(), (0.9, 0.5), strict=True):
        assert abs(paths.contains_points(draws).mean() - share) < 0.04
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["prior", "posterior"]


def test_pairs_of_trees_have_names():
    draws = {"rate": np.random.default_rng(0).normal(size=(300, 2)), "sd": np.ones(300)}
    figure = pair_plot(draws)
    assert [axes.get_xlabel() for axes in figure.axes[-3:]] == ["rate[0]", "rate[1]", "sd"]
    assert len(pair_plot(np.arange(300.0)).axes) == 1
    with pytest.raises(ValueError, match="draws: expected one number to ten in each, got 11"):
        pair_plot(np.zeros((300, 11)))
