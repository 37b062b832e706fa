"""The book's style: set once, and told apart by color-blind readers."""

import matplotlib as mpl
import numpy as np
import pytest

from himlib.plotting import COLORS, new_figure, use_style

# Machado, Oliveira and Fernandes (2009), severity 1: what is left of linear RGB.
BLINDNESS = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


def seen(color, blindness):
    srgb = np.array(mpl.colors.to_rgb(color))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(BLINDNESS[blindness]) @ linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_colors_stay_apart(blindness):
    colors = [seen(color, blindness) for color in COLORS.values()]
    distances = [np.linalg.norm(a - b) for i, a in enumerate(colors) for b in colors[:i]]
    assert min(distances) > 0.15


def test_the_measure_of_apartness_can_fail():
    assert np.linalg.norm(seen("#b35900", "deuteranopia") - seen("#738000", "deuteranopia")) < 0.1


def test_figures_have_the_width_of_a_page():
    use_style()
    figure, axes = new_figure(2, 2, height=2.0)
    assert tuple(figure.get_size_inches()) == (8, 4)
    assert axes.shape == (2, 2)
    assert not axes[0, 0].spines["top"].get_visible()
    mpl.pyplot.close(figure)
