"""The style of the figures."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from himlib.plotting import COLORS, new_figure, use_style


@pytest.fixture(autouse=True)
def restored():
    with mpl.rc_context():
        yield
    plt.close("all")


def test_style_is_applied_and_can_be_applied_twice():
    use_style()
    first = dict(mpl.rcParams)
    use_style()
    assert dict(mpl.rcParams) == first
    assert not mpl.rcParams["axes.spines.right"] and mpl.rcParams["figure.facecolor"] == "white"
    cycle = mpl.rcParams["axes.prop_cycle"].by_key()["color"]
    assert cycle[0] == COLORS["lfvi"] and set(cycle) <= set(COLORS.values())


def test_colors_differ_and_stand_out_from_white():
    def luminance(color):
        linear = np.power(mpl.colors.to_rgb(color), 2.2)
        return linear @ [0.2126, 0.7152, 0.0722]

    assert len(set(COLORS.values())) == len(COLORS)
    assert all(1.05 / (luminance(color) + 0.05) > 1.8 for color in COLORS.values())


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 2), (2, 3)])
def test_figures_are_as_wide_as_the_page(rows, columns):
    figure, axes = new_figure(rows, columns, height=2.0, sharex=True)
    np.testing.assert_allclose(figure.get_size_inches(), [8, 2 * rows])
    assert np.size(axes) == rows * columns
