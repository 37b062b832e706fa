"""Ratios trained on one wide proposal: known coefficients, the value of width, keys and covariates."""

import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from toys import FLAT

from himlib import Data, HierarchicalImplicitModel, Network, Outcome, cosine_adam
from himlib.many_data import train_ratio
from himlib.many_data.ratio import _train
from himlib.models import Frame

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(0)
NOTHING = Data(jnp.zeros(1))


def coefficients(key, *batch):
    return jnp.zeros(3)


def quadratic(params, x, z, beta, covariate, center):
    return params @ jnp.stack([(x - beta) ** 2, (x - center) ** 2, jnp.ones(())])


QUADRATIC = Network(coefficients, quadratic)


def optimum(width):
    """The log ratio of x ~ N(beta, 1) to its predictive distribution under beta ~ N(center, width^2)."""
    return np.array([-0.5, 0.5 / (1 + width**2), 0.5 * np.log(1 + width**2)])


@cache  # one object for all calls, so that they compile once
def optimizer_of(steps):
    return cosine_adam(3e-2, steps)


def trained(width, seed=0, steps=1500, center=1.3, **options):
    frame = Frame(np.full(1, center), np.full(1, width))
    optimizer = optimizer_of(steps)
    options = {"steps": steps, "batch_size": 512, **options}
    log_ratio, loss = train_ratio(jax.random.key(seed), FLAT, QUADRATIC, NOTHING, frame, optimizer, **options)
    params, where = jax.tree.leaves(log_ratio)
    assert float(where) == np.float32(center)
    return np.asarray(params), np.asarray(loss), log_ratio


def test_coefficients_of_the_exact_ratio():
    found = np.array([trained(3.0, seed)[0] for seed in range(5)])
    error = found.std(0, ddof=1) / np.sqrt(5)
    assert np.all(np.abs(found.mean(0) - optimum(3.0)) < 4.5 * error + 0.01)
    assert np.all(np.abs(found - optimum(3.0)) < 0.15)


def test_loss_is_that_of_the_exact_ratio():
    _, loss, _ = trained(3.0)
    assert loss[0] == pytest.approx(2 * np.log(2), rel=1e-6)  # r = 0 tells nothing
    rng = np.random.default_rng(0)
    beta, other = 3 * rng.normal(size=(2, 200_000))

    def exact(x):
        return optimum(3.0) @ np.stack([(x - beta) ** 2, x**2, np.ones_like(x)])

    r_joint, r_product = exact(beta + rng.normal(size=200_000)), exact(other + rng.normal(size=200_000))
    expected = np.mean(np.logaddexp(0, -r_joint)) + np.mean(np.logaddexp(0, r_product))
    assert abs(loss[-300:].mean() - expected) < 0.02
    assert expected < 1.2


def test_a_wide_proposal_teaches_more():
    """Errors of the one coefficient that the score is made of, after the same number of simulations."""
    worst = {width: max(abs(trained(width, seed)[0][0] + 0.5) for seed in range(3)) for width in (0.01, 3.0)}
    assert worst[3.0] < 0.05 < worst[0.01]
    _, loss, _ = trained(0.01)
    assert abs(loss[-300:].mean() - 2 * np.log(2)) < 0.01


def test_same_key_same_ratio():
    first, again, other = (trained(3.0, seed, steps=20) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert np.abs(first[0] - other[0]).max() > 1e-4


def test_the_ratio_passes_through_jit_and_vmap():
    params, _, log_ratio = trained(3.0, steps=5)
    x, beta = jnp.linspace(-1.0, 2.0, 7), jnp.linspace(0.0, 1.0, 7)
    compiled = jax.jit(lambda r, x, beta: jax.vmap(r, (0, None, 0, None))(x, None, beta, None))
    expected = params @ np.stack([(x - beta) ** 2, (x - 1.3) ** 2, np.ones(7)])
    np.testing.assert_allclose(compiled(log_ratio, x, beta), expected, rtol=1e-4, atol=1e-5)
    eager = [log_ratio(a, None, b, None) for a, b in zip(x, beta, strict=True)]
    np.testing.assert_allclose(eager, expected, rtol=1e-4, atol=1e-5)


# x is the covariate itself, so that what r sees tells which covariates it was trained at.
COPY = HierarchicalImplicitModel(
    {"shift": dist.Normal(0.0, 1.0)},
    generate=lambda noise, beta, c: (None, {"seen": c["place"] + 0 * beta["shift"], "noise": noise}),
    noise_shape=(2,),
)
SUM = Network(
    lambda key, *batch: jnp.zeros(()),
    lambda params, x, z, beta, c, center: (
        params + jax.lax.stop_gradient(x["seen"] - c["place"]) + 0 * beta["shift"]
    ),
)
PLACES = np.float32([5.0, 7.0, 11.0])


@pytest.mark.parametrize("jitter", [None, lambda key, c: {"place": c["place"] + jax.random.normal(key)}])
def test_covariates_of_both_roles_are_the_same(jitter):
    """Joint and reference draws are simulated at one covariate, jittered or not: r sees no difference."""
    data = Data({"seen": PLACES, "noise": np.zeros((3, 2), "float32")}, {"place": PLACES})
    frame = Frame(np.zeros(1), np.ones(1))
    _, loss = train_ratio(KEY, COPY, SUM, data, frame, optax.sgd(0.0), steps=3, batch_size=8, jitter=jitter)
    np.testing.assert_allclose(loss, 2 * np.log(2), rtol=1e-6)


def test_jitter_is_applied():
    data = Data({"seen": PLACES, "noise": np.zeros((3, 2), "float32")}, {"place": PLACES})
    frame = Frame(np.zeros(1), np.ones(1))
    nowhere = {"jitter": lambda key, c: {"place": c["place"] * jnp.nan}, "steps": 1, "batch_size": 8}
    with pytest.raises(FloatingPointError, match="It was step 1: 100 % of the simulated x"):
        train_ratio(KEY, COPY, SUM, data, frame, optax.sgd(0.0), **nowhere)


def rarely_failing(noise, beta, covariate):
    return None, jnp.where(beta > 3.0, jnp.nan, beta + noise)


FAILING = HierarchicalImplicitModel(FLAT.prior, generate=rarely_failing, noise_shape=())


def test_simulated_x_that_is_not_finite():
    frame, steps = Frame(np.zeros(1), np.ones(1)), 50
    options = {"model": FAILING, "ratio": QUADRATIC, "optimizer": optax.sgd(1e-3), "steps": steps}
    with pytest.raises(FloatingPointError) as caught:
        train_ratio(KEY, data=NOTHING, frame=frame, batch_size=64, **options)
    text = re.escape(Outcome.SIMULATOR_NOT_FINITE.value)
    text += r" It was step (\d+): (.*) % of the simulated x, the first at beta = (.*)\."
    step, share, beta = re.fullmatch(text, str(caught.value)).groups()
    *_, loss, finite, _ = _train(KEY, NOTHING, frame, size=64, jitter=None, sharding=None, **options)
    first = int(np.argmin(np.isfinite(loss)))
    assert 0 < first < steps - 1 and not finite
    assert int(step) == first + 1 and float(share) > 1 and float(beta) > 3.0


def test_an_r_that_diverges():
    """The sixth update is not finite, and with it the seventh loss, or no loss where it was the last."""
    optimizer = optax.sgd(lambda step: jnp.where(step == 5, jnp.nan, 1e-3))
    for steps, step in ((50, 7), (6, 6)):
        with pytest.raises(FloatingPointError) as caught:
            train_ratio(
                KEY,
                FLAT,
                QUADRATIC,
                NOTHING,
                Frame(np.zeros(1), np.ones(1)),
                optimizer,
                steps=steps,
                batch_size=8,
            )
        assert str(caught.value) == f"{Outcome.NOT_FINITE.value} It was step {step}."
