"""Locals: q(z | x, beta) against exact conditionals, groups of different size, verdicts and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from scipy import stats

from himlib import (
    Data,
    FullRankNormal,
    HierarchicalImplicitModel,
    PointMass,
    SplineFlow,
    fit_rounds,
    ratio_network,
)
from himlib.many_data import LocalOutcome, fit_locals, solve_score, train_ratio
from himlib.models import Frame
from himlib.simulators.conjugate import ConjugateGaussian

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(0)
EXACT = ConjugateGaussian()
MODEL = EXACT.model
DATA = Data(jnp.array([-1.0, 0.5, 3.0]))
FRAME = Frame(np.zeros(1), np.full(1, 0.5))
SMALL = {"hidden": (16,), "steps": 1500, "batch_size": 512}


@pytest.fixture(scope="module")
def conjugate():
    return fit_locals(KEY, MODEL, DATA, FRAME, family=FullRankNormal(), **SMALL)


def test_marginal_forgets_z_and_nothing_else():
    beta = jnp.linspace(-1, 1, 4)
    z, x = MODEL.simulate_batch(KEY, beta)
    nothing, same = MODEL.marginal.simulate_batch(KEY, beta)
    assert z is not None and nothing is None
    np.testing.assert_array_equal(x, same)
    assert MODEL.space.size == MODEL.marginal.space.size
    one = HierarchicalImplicitModel(EXACT.prior, simulate=lambda key, b, c: (b, b + jax.random.normal(key)))
    assert one.marginal is one.marginal and one.marginal.simulate_batch(KEY, beta)[0] is None
    array = HierarchicalImplicitModel(EXACT.prior, simulate=lambda key, b, c: jnp.zeros(2))
    assert array.marginal.simulate(KEY, 0.0, None).shape == (2,)  # no pair: left for the check that says so


def test_draws_and_density_are_those_of_the_exact_conditional(conjugate):
    """At every beta, and not at the frame's center alone."""
    assert conjugate.outcome is LocalOutcome.CALIBRATED
    for beta in (-1.0, 0.0, 0.7):
        exact = EXACT.local_posterior(DATA.x, beta)
        z = conjugate.sample(jax.random.key(1), DATA, jnp.full(4000, beta))
        assert z.shape == (4000, 3)
        assert np.abs((z.mean(0) - exact.mean) / exact.scale).max() < 0.12
        np.testing.assert_allclose(z.std(0) / exact.scale, 1, atol=0.06)
        found = conjugate.log_prob(z, DATA, jnp.full(4000, beta))
        assert found.shape == (4000, 3)
        divergence = (found - exact.log_prob(z)).mean(0)  # KL of q and the exact one
        assert np.abs(divergence).max() < 0.02


def test_joint_draws_are_wider_than_those_at_the_mean(conjugate):
    """beta moves with its z: the variance of z is that within, and that of the mean in beta."""
    beta = 0.5 * jax.random.normal(jax.random.key(3), (6000,))
    z = np.asarray(conjugate.sample(jax.random.key(2), DATA, beta))[:, 0]
    assert abs(z.var() / (0.5 + 0.25 * 0.25) - 1) < 0.1
    assert abs(np.cov(z, beta)[0, 1] / (0.5 * 0.25) - 1) < 0.15


def test_a_datum_has_the_same_draws_in_any_company_before_it(conjugate):
    beta = jnp.linspace(-1, 1, 5)
    whole = conjugate.sample(KEY, DATA, beta)
    first = conjugate.sample(KEY, Data(DATA.x[:2]), beta)
    np.testing.assert_allclose(whole[:, :2], first, rtol=1e-5, atol=1e-5)
    assert np.abs(whole - conjugate.sample(jax.random.key(5), DATA, beta)).min() > 0


def test_a_q_that_has_not_learned_is_told():
    """Blind to x it is calibrated on average; blind to half of what it needs for its width it is not."""
    skewed = HierarchicalImplicitModel(
        dist.Normal(0.0, 1.0),
        generate=lambda e, b, c: (b + jnp.exp(1.5 * e[0]), b + jnp.exp(1.5 * e[0]) + e[1]),
        noise_shape=(2,),
    )
    found = fit_locals(KEY, skewed, DATA, FRAME, family=FullRankNormal(), hidden=(4,), steps=20)
    assert found.outcome is LocalOutcome.MISCALIBRATED
    assert found.off.max() > 0.05 and found.p_value.max() < 1e-3


# A group has one to eight members: padded with zeros, counted by a covariate.
UNEVEN = HierarchicalImplicitModel(
    {"mean": dist.Normal(0.0, 1.0), "spread": dist.LogNormal(0.0, 0.5)},
    generate=lambda e, b, size: (
        {"level": b["mean"] + b["spread"] * e[:1]},
        jnp.where(jnp.arange(8) < size, b["mean"] + b["spread"] * e[0] + e[1:], 0.0),
    ),
    noise_shape=(9,),
)


def seen(x, beta, size):
    return jnp.stack([x.sum() / size, 1 / size, beta["mean"], jnp.log(beta["spread"])])


def test_groups_of_different_size():
    sizes = jnp.tile(jnp.arange(1.0, 9.0), 25)
    beta = {"mean": jnp.full(200, 0.3), "spread": jnp.full(200, 1.2)}
    _, x = UNEVEN.simulate_batch(jax.random.key(4), beta, sizes)
    frame = Frame(np.array([0.3, np.log(1.2)]), np.full(2, 0.1))
    found = fit_locals(KEY, UNEVEN, Data(x, sizes), frame, family=FullRankNormal(), features=seen, **SMALL)
    draws = found.sample(KEY, Data(x, sizes), jax.tree.map(lambda leaf: leaf[:1].repeat(1000), beta))
    assert draws["level"].shape == (1000, 200, 1)
    weight = 1.44 / (1.44 + 1 / sizes)
    exact = stats.norm(0.3 + weight * (x.sum(1) / sizes - 0.3), np.sqrt(weight / sizes))
    error = (draws["level"][..., 0].mean(0) - exact.mean()) / exact.std()
    assert np.sqrt((error**2).mean()) < 0.1
    np.testing.assert_allclose(
        (draws["level"][..., 0].std(0) / exact.std()).reshape(25, 8).mean(0), 1, atol=0.1
    )
    assert found.log_prob(draws, Data(x, sizes), jax.tree.map(lambda v: v[:1].repeat(1000), beta)).shape == (
        1000, 200,
    )  # fmt: skip


def test_twelve_covariates():
    """y = x.b + c z + noise: an adversary made q a hundredth as wide as it is (with lfvi, settings aside)."""
    width = 0.5  # of z given its markers

    def generate(e, beta, c):
        z = c["m"] + width * e[0]
        return z, c["x"] @ beta["b"] + beta["c"] * z + 0.6 * e[1]

    prior = {"b": dist.Normal(jnp.zeros(12), 0.3), "c": dist.LogNormal(0.0, 0.5)}
    model = HierarchicalImplicitModel(prior, generate=generate, noise_shape=(2,))
    rng = np.random.default_rng(0)
    c = {"x": np.float32(2 * rng.normal(size=(300, 12))), "m": np.float32(rng.normal(size=300))}
    beta = {"b": np.float32(0.3 * rng.normal(size=12)), "c": np.float32(1.1)}
    y = model.simulate_batch(KEY, jax.tree.map(lambda v: jnp.broadcast_to(v, (300, *v.shape)), beta), c)[1]
    where = model.space.unconstrain(beta)
    found = fit_locals(KEY, model, Data(y, c), Frame(where, np.full(13, 0.06)))
    assert found.outcome is LocalOutcome.CALIBRATED
    near = jax.vmap(model.space.constrain)(where + 0.02 * np.float32(rng.normal(size=(6, 13))))
    z = found.sample(KEY, Data(y, c), jax.tree.map(lambda v: jnp.repeat(v, 300, 0), near))
    z = np.asarray(z).reshape(6, 300, 300)
    precision = width**-2 + np.asarray(near["c"])[:, None] ** 2 / 0.36
    residual = np.asarray(near["c"])[:, None] * (y - np.asarray(near["b"]) @ c["x"].T) / 0.36
    mean = (c["m"] / width**2 + residual) / precision
    error = (z.mean(1) - mean) * precision**0.5
    assert np.sqrt(max((error**2).mean() - 1 / 300, 0)) < 0.1
    np.testing.assert_allclose((z.std(1) * precision**0.5).mean(0), 1, atol=0.1)


def test_any_family_with_a_density():
    family = SplineFlow(layers=1, hidden=(4,), bins=4)
    found = fit_locals(KEY, MODEL, DATA, FRAME, family=family, hidden=(8,), steps=100, batch_size=128)
    assert np.isfinite(found.loss).all() and found.loss[-20:].mean() < found.loss[:5].mean()


def test_same_key_same_q():
    first, again, other = (
        fit_locals(jax.random.key(k), MODEL, DATA, FRAME, family=FullRankNormal(), hidden=(4,), steps=5)
        for k in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.loss, again.loss)
    assert np.abs(first.loss - other.loss).max() > 1e-4


def fitting(**options):
    given = {"key": KEY, "model": MODEL, "data": DATA, "frame": FRAME, "steps": 2, "family": FullRankNormal()}
    return fit_locals(**{**given, **options})


INTEGER = HierarchicalImplicitModel(
    EXACT.prior, generate=lambda e, b, c: (jnp.int32(e[0] > 0), b + e[1]), noise_shape=(2,)
)
CALLS = {
    "old key": (lambda: fitting(key=jax.random.PRNGKey(0)), TypeError, "old-style"),
    "no model": (lambda: fitting(model=None), TypeError, "expected a HierarchicalImplicitModel"),
    "no z": (lambda: fitting(model=MODEL.marginal), ValueError, "model: gives no z"),
    "integers": (lambda: fitting(model=INTEGER), ValueError, "z that are not real numbers"),
    "point": (lambda: fitting(family=PointMass()), TypeError, "a Family with a density, got PointMass"),
    "no features": (lambda: fitting(features=3), TypeError, "features: expected a function"),
    "scalar": (lambda: fitting(features=lambda x, b, c: x), ValueError, "features: expected a vector"),
    "frame": (lambda: fitting(frame=Frame(np.zeros(2), np.ones(2))), ValueError, "of shape \\(1,\\)"),
    "steps": (lambda: fitting(steps=0), ValueError, "steps: expected a positive integer"),
    "hidden": (lambda: fitting(hidden=3), TypeError, "hidden: expected a sequence"),
    "rate": (lambda: fitting(rate=0.0), ValueError, "rate: expected a positive number"),
    "data": (lambda: fitting(data=Data(jnp.zeros((3, 2)))), ValueError, "simulator: gives x of shape"),
}


@pytest.mark.parametrize("call", CALLS)
def test_wrong_calls(call):
    function, error, message = CALLS[call]
    with pytest.raises(error, match=message):
        function()


ASKED = {
    "beta too far": (lambda q: q.sample(KEY, DATA, jnp.full(3, 2.5)), "a row lies 5 scales"),
    "one beta": (lambda q: q.sample(KEY, DATA, jnp.zeros(())), "with a leading axis"),
    "a dict": (lambda q: q.sample(KEY, DATA, {"b": jnp.zeros(3)}), "a tree like the prior"),
    "shape of x": (lambda q: q.sample(KEY, Data(jnp.zeros((3, 2))), jnp.zeros(3)), "simulator: gives x of"),
    "shape of z": (
        lambda q: q.log_prob(jnp.zeros((3, 2)), DATA, jnp.zeros(2)),
        r"z: expected leading axes \(2, 3",
    ),
}


@pytest.mark.parametrize("call", ASKED)
def test_wrong_questions(conjugate, call):
    function, message = ASKED[call]
    with pytest.raises(ValueError, match=message):
        function(conjugate)


def test_nothing_is_forgotten_in_silence():
    with pytest.raises(ValueError, match=r"model.marginal is the same model that forgets it"):
        solve_score(KEY, MODEL, lambda x, z, b, c: -((x - b) ** 2), DATA, FRAME, progress=False)
    with pytest.raises(ValueError, match=r"model.marginal is the same model that forgets it"):
        train_ratio(KEY, MODEL, ratio_network(), DATA, FRAME, optax.sgd(0.1), steps=1)
    with pytest.raises(ValueError, match=r"model.marginal is the same model that forgets it"):
        fit_rounds(KEY, MODEL, DATA, simulations=1000, rounds=2, progress=False)


def test_a_rate_that_explodes_is_told():
    wild = fit_locals(KEY, MODEL, DATA, FRAME, family=FullRankNormal(), rate=1e30, **SMALL)
    assert wild.outcome is LocalOutcome.NOT_FINITE
