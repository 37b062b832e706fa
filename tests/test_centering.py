"""The score of a log ratio has mean zero: what r has beside that is fitted and taken away."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from himlib import Data, HierarchicalImplicitModel, fit_rounds
from himlib.few_simulations._centering import MOST, REACH, fit_potential, none, potential_at, within
from himlib.few_simulations.posterior import sum_of_ratios

ROWS, N = 8_000, 50
SLOPE, CURVE = np.array([0.3, -0.2], np.float32), np.array([[0.4, 0.1], [0.1, -0.3]], np.float32)
MIX = np.array([[1.0, 0.6], [0.0, 0.5]], np.float32)


def exact(v, s):
    """x ~ N(beta, I), both in the plane."""
    return -0.5 * jnp.sum((s - v) ** 2, axis=-1)


def biased(v, s, given):
    """What has another mean score by a quadratic of beta, given in units of 1 and -2."""
    u = (v - jnp.array([1.0, -2.0])) * given
    return exact(v, s) + u @ SLOPE + jnp.sum((u @ CURVE) * u, axis=-1) / 2


def simulations(seed=0, rows=ROWS):
    rng = np.random.default_rng(seed)
    v = np.float32(rng.normal(size=(rows, 2)) @ MIX + [1, -2])
    return v, np.float32(v + rng.normal(size=v.shape)), np.ones(rows, bool)


def test_a_quadratic_is_found():
    """The centered score at a place is that of the exact density, within its error, four seeds in a row."""
    place = np.array([1.5, -1.8], np.float32)
    bias = jax.grad(lambda v: biased(v[None], place[None], 1.0)[0])(place)
    fitted = [fit_potential(*simulations(seed), N, 1.0, biased) for seed in range(4)]
    found = np.array([jax.grad(lambda v: potential_at(v[None], p)[0])(place) for p in fitted])  # noqa: B023
    error = found - np.asarray(bias)
    assert np.abs(bias).max() > 0.3
    assert np.all(np.abs(error) < 4 * np.array([1, 2]) * np.sqrt(6 / ROWS))  # the second axis is half as wide
    assert np.all(np.abs(error.mean(0)) < 4 * np.array([1, 2]) * np.sqrt(6 / ROWS / 4))


def test_units_do_not_matter():
    v, s, ok = simulations()
    place = np.array([[1.5, -1.8], [0.0, -2.5]], np.float32)
    one = potential_at(place, fit_potential(v, s, ok, N, 1.0, biased))
    large = lambda v, s, given: biased(v / 1000, s, given)  # noqa: E731
    thousand = potential_at(1000 * place, fit_potential(1000 * v, s, ok, N, 1.0, large))
    np.testing.assert_allclose(one, thousand, rtol=1e-3)


def test_a_right_ratio_stays():
    """The posterior of N data moves by less than the root of N times coefficients over rows, in sds."""
    v, s, ok = simulations()
    right = lambda v, s, given: exact(v, s)  # noqa: E731
    potential = fit_potential(v, s, ok, N, None, right)
    moved = jax.grad(lambda v: potential_at(v[None], potential)[0])(jnp.array([1.0, -2.0]))
    assert 0 < np.linalg.norm(N * moved) / np.sqrt(N) < 3 * np.sqrt(N * 5 / ROWS) * 2


def test_it_ends_where_nothing_was_simulated():
    v, s, ok = simulations()
    potential = fit_potential(v, s, ok, N, 1.0, biased)
    far = np.array([[1e3, 0.0], [1e6, 0.0]], np.float32)
    near, further = potential_at(far, potential)
    assert abs(near - further) < 0.01 * abs(near)
    v[0] = 1e4  # one that strayed
    strayed = fit_potential(v, s, ok, N, 1.0, biased)
    np.testing.assert_allclose(strayed.units, potential.units, rtol=0.2, atol=0.05)
    assert not within(v)[0] and within(v)[1:].mean() > 0.9 and REACH == 2


@pytest.mark.parametrize("case", ["few rows", "failures", "few data"])
def test_it_is_left_where_it_would_cost_more(case):
    number = {"few rows": int(MOST * ROWS / 5) + 1, "failures": N, "few data": 9}[case]
    v, s, ok = simulations()
    if case == "failures":
        ok[: ROWS // 500] = False  # each has a score: 50 data would be off by a tenth
    assert not np.any(fit_potential(v, s, ok, number, 1.0, biased).slope)
    ok[:] = True
    assert np.all(fit_potential(v, s, ok, N, 1.0, biased).slope)


def test_none_is_nothing():
    assert not np.any(potential_at(np.ones((3, 2), np.float32), none(2)))


def test_rounds_take_away_what_the_score_of_r_has():
    """Where the last round simulated, the score has the mean zero, but not where the data are too many."""
    model = HierarchicalImplicitModel(
        dist.Normal(jnp.zeros(2), 1.0).to_event(1),
        generate=lambda noise, beta, covariate: (None, beta + noise),
        noise_shape=(2,),
    )
    data = Data(jnp.full((10, 2), 0.5))
    small = {"simulations": 1_000, "rounds": 2, "particles": 500, "progress": False}
    run = fit_rounds(jax.random.key(0), model, data, **small)
    of = run._learned
    s, v, _ = (part[-500:] for part in of.simulated)

    def scores(seen):
        def one(v, s):
            return sum_of_ratios(v[None], seen, s[None], where=of.where, classifiers=of.classifiers)[0]

        return jax.vmap(jax.grad(one))(v, s)[within(v)]

    left, before = (abs(scores(seen).mean(0)) for seen in (of.seen, of.seen._replace(potential=none(2))))
    assert left.max() < 0.01 and np.linalg.norm(left) < np.linalg.norm(before)
    many = fit_rounds(jax.random.key(0), model, Data(jnp.full((40, 2), 0.5)), **small)
    assert not np.any(many._learned.seen.potential.slope)
