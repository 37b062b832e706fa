"""The ratio losses: numbers, slopes, extremes, and the optimum that each of them states."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from himlib.losses import LOSSES, RatioLoss, get_loss

SIDES = [(name, side) for name in LOSSES for side in ("on_p", "on_q")]
# A discrete pair of distributions: its log ratios are -1.79, -0.41, 0.69 and 0.58.
P = np.array([0.05, 0.20, 0.35, 0.40])
Q = np.array([0.30, 0.30, 0.175, 0.225])
NUMBERS = {
    "log": (
        [-2.0, 0.0, 3.0],
        [2.126928011, 0.693147181, 0.048587352],
        [0.126928011, 0.693147181, 3.048587352],
    ),
    "hinge": ([-2.0, 0.0, 0.4, 3.0], [3.0, 1.0, 0.6, 0.0], [0.0, 1.0, 1.4, 4.0]),
}


@pytest.fixture(params=SIDES, ids="-".join)
def side(request):
    name, side = request.param
    return getattr(LOSSES[name], side)


@pytest.mark.parametrize("name", LOSSES)
def test_fixed_numbers(name):
    r, on_p, on_q = map(jnp.array, NUMBERS[name])
    np.testing.assert_allclose(LOSSES[name].on_p(r), on_p, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(LOSSES[name].on_q(r), on_q, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", LOSSES)
def test_p_and_q_are_mirror_images(name):
    r = jnp.linspace(-5, 5, 21)
    np.testing.assert_allclose(LOSSES[name].on_p(r), LOSSES[name].on_q(-r), rtol=1e-6)


def test_gradients_are_finite_differences(side):
    r = np.array([-7.3, -1.7, -0.4, 0.3, 0.8, 2.1, 9.0])
    with jax.enable_x64(True):
        gradient = jax.vmap(jax.grad(side))(jnp.asarray(r))
        differences = (side(jnp.asarray(r + 1e-6)) - side(jnp.asarray(r - 1e-6))) / 2e-6
    np.testing.assert_allclose(gradient, differences, rtol=1e-7, atol=1e-9)


def test_stable_far_out(side):
    r = jnp.array([-1e4, -100.0, 100.0, 1e4])
    values, slopes = jax.vmap(jax.value_and_grad(side))(r)
    assert np.isfinite(values).all() and (values >= 0).all()
    np.testing.assert_allclose(np.sort(values), [0, 0, 100, 1e4], atol=1.01)  # the hinge adds its margin of 1
    np.testing.assert_array_equal(np.sort(np.abs(slopes)), [0, 0, 1, 1])


@pytest.mark.parametrize("name", LOSSES)
def test_minimizer_is_the_stated_optimum(name):
    loss, log_ratio = LOSSES[name], np.log(P / Q)
    with jax.enable_x64(True):
        minimizers = [
            optimize.minimize_scalar(
                lambda r, p=p, q=q: float(p * loss.on_p(r) + q * loss.on_q(r)),
                bounds=(-6, 6),
                method="bounded",
                options={"xatol": 1e-9},
            ).x
            for p, q in zip(P, Q, strict=True)
        ]
        np.testing.assert_allclose(minimizers, loss.optimum(log_ratio), atol=1e-5)
    assert loss.is_ratio == np.allclose(minimizers, log_ratio, atol=1e-5)


def test_log_loss_at_its_optimum_is_a_jensen_shannon_divergence():
    r, half = np.log(P / Q), (P + Q) / 2
    value = np.sum(P * LOSSES["log"].on_p(r) + Q * LOSSES["log"].on_q(r))
    divergence = np.sum(P * np.log(P / half) + Q * np.log(Q / half)) / 2
    assert value == pytest.approx(2 * math.log(2) - 2 * divergence, rel=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_under_jit_and_vmap_and_keeps_its_type(side, dtype):
    with jax.enable_x64(dtype == "float64"):
        r = jnp.linspace(-3, 3, 8, dtype=dtype).reshape(2, 4)
        expected = side(r)
        assert expected.shape == r.shape and expected.dtype == r.dtype
        for lifted in (jax.jit(side), jax.vmap(jax.vmap(side))):
            np.testing.assert_allclose(lifted(r), expected, rtol=1e-6)


def test_element_wise_for_any_shape(side):
    assert side(jnp.zeros(())).shape == () and side(jnp.zeros((0, 3))).shape == (0, 3)


def test_registry():
    assert all(name == loss.name for name, loss in LOSSES.items()) and {"log", "hinge"} <= set(LOSSES)
    assert get_loss("log") is LOSSES["log"]
    mine = RatioLoss("mine", jnp.negative, jnp.exp, lambda log_ratio: log_ratio, True)
    assert get_loss(mine) is mine


def test_unknown_name():
    with pytest.raises(
        ValueError, match=r"loss: expected one of \['hinge', 'log'\] or a RatioLoss, got 'LOG'"
    ):
        get_loss("LOG")
