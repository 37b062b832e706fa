"""The ratio losses: numbers, slopes, extremes, and the optimum and value that each of them states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from himlib import LOSSES, RatioLoss
from himlib.losses import get_loss, log_mean_exp, softmax_losses

pytestmark = pytest.mark.usefixtures("quick_compilation")
SIDES = [(name, side) for name in LOSSES for side in ("on_p", "on_q")]
# A discrete pair of distributions: its log ratios are -1.79, -0.41, 0.69 and 0.58.
P = np.array([0.05, 0.20, 0.35, 0.40])
Q = np.array([0.30, 0.30, 0.175, 0.225])
LOG_RATIO = np.log(P / Q)


def kl(p, q):
    return np.sum(p * np.log(p / q))


# By name: outputs r, the loss on p and on q there, and D at its population optimum.
TABLE = {
    "log": (
        [-2.0, 0.0, 3.0],
        [2.126928011, 0.693147181, 0.048587352],
        [0.126928011, 0.693147181, 3.048587352],
        2 * np.log(2) - kl(P, (P + Q) / 2) - kl(Q, (P + Q) / 2),
    ),
    "exponential": (
        [-2.0, 0.0, 3.0, 62.0],
        [2.718281828, 1.0, 0.223130160, 0.0],
        [0.367879441, 1.0, 4.481689070, 2 * np.exp(30)],
        2 * np.sum(np.sqrt(P * Q)),
    ),
    "kl": (
        [-2.0, 0.0, 3.0, 32.0],
        [2.0, 0.0, -3.0, -32.0],
        [0.135335283, 1.0, 20.08553692, 3 * np.exp(30)],
        1 - kl(P, Q),
    ),
    "donsker_varadhan": ([-2.0, 0.0, 3.0], [2.0, 0.0, -3.0], [-2.0, 0.0, 3.0], -kl(P, Q)),
    "reverse_kl": (
        [-32.0, -2.0, 0.0, 3.0],
        [3 * np.exp(30), 7.389056099, 1.0, 0.049787068],
        [-32.0, -2.0, 0.0, 3.0],
        1 - kl(Q, P),
    ),
    "least_squares": (
        [-2.0, 0.0, 3.0],
        [2.0, 0.0, -3.0],
        [2.0, 0.0, 4.5],
        -np.sum(P**2 / Q) / 2,
    ),
    "hinge": (
        [-2.0, 0.0, 0.4, 3.0],
        [3.0, 1.0, 0.6, 0.0],
        [0.0, 1.0, 1.4, 4.0],
        2 - np.sum(np.abs(P - Q)),
    ),
}
# The points of a sample of 40 from P, and of one from Q, in exact proportion.
DRAWS_P, DRAWS_Q = (np.repeat(np.arange(4), np.rint(40 * shares).astype(int)) for shares in (P, Q))


@pytest.fixture(params=SIDES, ids="-".join)
def side(request):
    name, side = request.param
    return getattr(LOSSES[name], side)


def test_every_loss_is_in_the_table():
    assert set(TABLE) == set(LOSSES)
    np.testing.assert_allclose(np.bincount(DRAWS_P) / 40, P)
    np.testing.assert_allclose(np.bincount(DRAWS_Q) / 40, Q)


@pytest.mark.parametrize("name", LOSSES)
def test_fixed_numbers(name):
    r, on_p, on_q = map(jnp.array, TABLE[name][:3])
    np.testing.assert_allclose(LOSSES[name].on_p(r), on_p, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(LOSSES[name].on_q(r), on_q, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["log", "exponential", "hinge"])
def test_p_and_q_are_mirror_images(name):
    r = jnp.linspace(-5, 5, 21)
    np.testing.assert_allclose(LOSSES[name].on_p(r), LOSSES[name].on_q(-r), rtol=1e-6)


def test_reverse_kl_is_kl_with_p_and_q_exchanged():
    r = jnp.linspace(-5, 5, 21)
    np.testing.assert_allclose(LOSSES["reverse_kl"].on_p(r), LOSSES["kl"].on_q(-r), rtol=1e-6)
    np.testing.assert_allclose(LOSSES["reverse_kl"].on_q(r), LOSSES["kl"].on_p(-r), rtol=1e-6)


def test_gradients_are_finite_differences(side):
    r = np.array([-7.3, -1.7, -0.4, 0.3, 0.8, 2.1, 9.0])
    with jax.enable_x64(True):
        gradient = jax.vmap(jax.grad(side))(jnp.asarray(r))
        differences = (side(jnp.asarray(r + 1e-6)) - side(jnp.asarray(r - 1e-6))) / 2e-6
    np.testing.assert_allclose(gradient, differences, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_of_the_whole_is_a_finite_difference(name):
    with jax.enable_x64(True):
        r = jnp.array([-1.3, 0.4, 2.2, -2.1, 0.3, 0.9, 1.4])
        loss = jax.jit(lambda r: LOSSES[name](r[:3], r[3:]))
        gradient, steps = jax.grad(loss)(r), 1e-6 * np.eye(7)
        differences = [(loss(r + step) - loss(r - step)) / 2e-6 for step in steps]
        np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-9)


def test_stable_far_out(side):
    r = jnp.array([-1e3, -100.0, 100.0, 1e3])
    values, slopes = jax.vmap(jax.value_and_grad(side))(r)
    assert values.dtype == jnp.float32
    assert np.isfinite(values).all() and np.isfinite(slopes).all()


@pytest.mark.parametrize("name", LOSSES)
def test_pulls_back_from_far_out_where_it_is_wrong(name):
    def whole(r):  # one draw of each class on the wrong side, and one at zero
        return LOSSES[name](r[:2], r[2:])

    slopes = jax.jit(jax.grad(whole))(jnp.array([-1e3, 0.0, 1e3, 0.0]))
    assert slopes[0] <= -0.25 and slopes[2] >= 0.25 and np.isfinite(slopes).all()


@pytest.mark.parametrize("name", LOSSES)
def test_minimizer_and_value_are_as_stated(name):
    loss = LOSSES[name]
    with jax.enable_x64(True):
        value_and_slope = jax.jit(jax.value_and_grad(lambda r: loss(r[DRAWS_P], r[DRAWS_Q])))
        best = optimize.minimize(
            lambda r: tuple(map(np.asarray, value_and_slope(jnp.asarray(r)))),
            np.full(4, 0.1),
            jac=True,
            method="L-BFGS-B",
            options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 2000},
        )
        stated = loss.optimum(jnp.asarray(LOG_RATIO))
        assert value_and_slope(stated)[0] == pytest.approx(TABLE[name][3], rel=1e-9)
        assert best.fun == pytest.approx(TABLE[name][3], rel=1e-6)  # the hinge has kinks
        r = jnp.asarray(best.x)
        if name == "donsker_varadhan":  # any constant will do
            r = r - jnp.log(jnp.sum(Q * jnp.exp(r)))
        np.testing.assert_allclose(r, stated, atol=2e-5)
        if loss.is_ratio:
            np.testing.assert_allclose(loss.log_ratio(r), LOG_RATIO, atol=2e-5)
        else:
            assert np.abs(r - LOG_RATIO).max() > 0.3


def test_which_tell_the_log_ratio():
    assert {name for name, loss in LOSSES.items() if not loss.is_ratio} == {"hinge"}
    assert LOSSES["hinge"].log_ratio is None
    assert LOSSES["least_squares"].log_ratio(jnp.float32(-3.0)) == pytest.approx(np.log(1e-4))


def test_a_constant_matters_to_all_but_one():
    def look(r_p, r_q):
        by_name = {name: (loss(r_p, r_q), loss.offset(r_q)) for name, loss in LOSSES.items()}
        return by_name, jnp.exp(r_q - LOSSES["donsker_varadhan"].offset(r_q)).mean()

    r_p, r_q = np.array([-1.3, 0.4, 2.2], "f4"), np.array([-2.1, 0.3, 0.9, 1.4], "f4")
    look = jax.jit(look)
    (here, mean), (there, _) = look(r_p, r_q), look(r_p + 0.7, r_q + 0.7)
    for name, (value, offset) in here.items():
        free = abs(there[name][0] - value) < 1e-5
        assert free == (offset != 0) == (name == "donsker_varadhan")
    assert mean == pytest.approx(1, rel=1e-6)


def test_log_mean_exp():
    r = jnp.array([1000.0, 1001.0, -4.0])
    assert log_mean_exp(r) == pytest.approx(1001 + np.log((np.exp(-1) + 1) / 3), rel=1e-6)
    chosen = log_mean_exp(r, where=jnp.array([True, False, False]))
    assert chosen == pytest.approx(1000.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LOSSES)
def test_same_under_jit_and_vmap_and_keeps_its_type(name, dtype):
    def everything(r_p, r_q):
        return loss.on_p(r_p), loss.on_q(r_q), loss(r_p, r_q)

    with jax.enable_x64(dtype == "float64"):
        loss = LOSSES[name]
        r_p = np.linspace(-2, 3, 8, dtype=dtype).reshape(2, 4)
        r_q = np.linspace(-3, 1, 6, dtype=dtype).reshape(2, 3)
        lifted = jax.jit(jax.vmap(everything))(r_p, r_q)
        for got, expected in zip(lifted, everything(jnp.asarray(r_p[1]), jnp.asarray(r_q[1])), strict=True):
            assert got.dtype == expected.dtype == dtype and got[1].shape == expected.shape
            np.testing.assert_allclose(got[1], expected, rtol=1e-6)


def test_element_wise_for_any_shape(side):
    assert side(jnp.zeros(())).shape == () and side(jnp.zeros((0, 3))).shape == (0, 3)


def test_registry():
    assert all(name == loss.name for name, loss in LOSSES.items())
    assert get_loss("log") is LOSSES["log"]
    mine = RatioLoss("mine", jnp.negative, jnp.exp, lambda log_ratio: log_ratio, lambda r: r)
    assert get_loss(mine) is mine and mine.is_ratio
    assert mine(jnp.zeros(2), jnp.zeros(2)) == 1


def test_unknown_name():
    with pytest.raises(
        ValueError, match=r"loss: expected one of \['donsker_varadhan', .*\] or a RatioLoss, got 'LOG'"
    ):
        get_loss("LOG")


def test_softmax_losses_are_those_of_the_choice():
    r = np.random.default_rng(0).normal(size=(2, 5, 5)).astype(np.float32)
    chances = np.exp(r) / np.exp(r).sum(-1, keepdims=True)
    np.testing.assert_allclose(softmax_losses(r), -np.log(np.stack([np.diag(c) for c in chances])), rtol=1e-5)
    shifted = r + np.arange(5.0, dtype=np.float32)[:, None]  # a function of the row changes nothing
    np.testing.assert_allclose(softmax_losses(shifted), softmax_losses(r), rtol=1e-4)


def test_softmax_has_its_optimum_at_the_ratio_up_to_a_function_of_x():
    """All batches of three, each by its chance: three beta, four x; nothing is better, whatever c(x)."""
    rng = np.random.default_rng(3)
    p_beta, p_x = np.array([0.5, 0.3, 0.2]), rng.dirichlet(np.ones(4), 3)
    beta = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3)
    x = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), -1).reshape(-1, 3)
    chances = p_beta[beta].prod(1)[:, None] * p_x[beta[:, None], x[None]].prod(2)

    def loss(r):
        batches = r[x[None, :, :, None], beta[:, None, None, :]]  # (beta, x, 3, 3)
        return (chances * softmax_losses(batches).mean(-1)).sum()

    ratio = jnp.asarray(np.log(p_x / (p_beta @ p_x)).T)
    moved = ratio + jnp.array([2.0, -1.0, 0.5, 0.0])[:, None]
    np.testing.assert_allclose(loss(moved), loss(ratio), rtol=1e-5)
    assert np.abs(jax.grad(loss)(moved)).max() < 1e-5
    assert all(loss(ratio + 0.3 * rng.normal(size=(4, 3))) > loss(ratio) + 1e-3 for _ in range(10))
