"""No answer depends on the units of beta, x, z or covariates: nanoamperes, parsecs, and numbers without."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

from himlib import (
    Data,
    HierarchicalImplicitModel,
    ImplicitConditional,
    MeanFieldNormal,
    fit,
    lfvi,
    ratio_network,
)
from himlib.abc import euclidean, mcmc, rejection, smc, standardize
from himlib.diagnostics import posterior_predictive, ranks, region_ranks, replicate, score_test, sum_log_ratio
from himlib.many_data import ScoreOutcome, solve_score, train_ratio
from himlib.models import Frame
from himlib.simulators.linear_regression import LinearRegression

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(0)
QUIET = {"progress": False}
RNG = np.random.default_rng(0)
C = np.float32(RNG.normal(size=12))
X = np.float32(0.8 + 0.5 * C + RNG.normal(size=12))


class Units(NamedTuple):
    """What one unit of each quantity is called in the model's own numbers."""

    beta: float = 1.0
    x: float = 1.0
    covariate: float = 1.0
    z: float = 1.0


ONE = Units()
#: beta and x together, as where x is beta with noise; then each for itself; then all against each other.
TOGETHER = [Units(unit, unit) for unit in (1e-20, 1e-9, 1e9, 1e20)]
ALONE = [Units(**{name: unit}) for name, unit in zip(Units._fields, (1e-20, 1e20, 1e-20, 1e20), strict=True)]
MIXED = [Units(1e20, 1e-20, 1e20, 1e-20), Units(1e-9, 1e20, 1e-20, 1e9)]
EXACT = Units(2.0**-66, 2.0**66, 2.0**60, 2.0**-60)  # hardly any rounding
ALL = [*TOGETHER, *ALONE, *MIXED, EXACT]
SOME = [TOGETHER[0], *MIXED]  # for what compiles for long


def named(units):
    return "-".join(f"{unit:.0e}" for unit in units)


def build(units, local=True):
    """x = beta + c / 2 + noise in units of their own, the noise in two parts, of which z has one."""

    def generate(noise, beta, c):
        z = beta / units.beta + 0.8 * noise[0]
        return units.z * z if local else None, units.x * (z + 0.5 * c / units.covariate + 0.6 * noise[1])

    model = HierarchicalImplicitModel(dist.Normal(0.0, units.beta), generate=generate, noise_shape=(2,))
    return model, Data(np.float32(units.x) * X, np.float32(units.covariate) * C)


def agrees(found, expected, units):
    """To 1e-3, and to rounding for powers of two."""
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.isfinite(other).all()
        if units == EXACT:
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


def memory(function):
    """The answer at unit one, computed once."""
    found = {}

    def expected():
        if not found:
            found["answer"] = function(ONE)
        return found["answer"]

    return function, expected


def variational(units):
    """Moments of q, draws of q(z | x, beta), and sums of r."""
    model, data = build(units)
    algorithm = lfvi(
        model, MeanFieldNormal(), ratio_network(hidden=(8,)), local=ImplicitConditional(hidden=(8,)),
        ratio_optimizer=optax.adam(1e-2), posterior_optimizer=optax.adam(1e-2), ratio_batch=64,
    )  # fmt: skip
    state = fit(KEY, algorithm, data, 30, rounds=2, **QUIET).state
    beta = np.float32(units.beta) * np.linspace(-1, 1, 5, dtype=np.float32)
    z = algorithm.sample_local(KEY, state, beta[4], data)
    moments = algorithm.moments(state) / np.float32(units.beta)
    return moments, z / np.float32(units.z), sum_log_ratio(KEY, algorithm, state, beta, data)


def score(units):
    """Moments of the centered score's answer by an r that was trained, and noise, information, curvature."""
    model, data = build(units, local=False)
    frame = Frame(np.full(1, 0.5 * units.beta), np.full(1, units.beta))
    optimizer = optax.adam(2e-2)
    network = ratio_network(hidden=(8,))
    r, loss = train_ratio(KEY, model, network, data, frame, optimizer, steps=100, batch_size=256)
    fit = solve_score(KEY, model, r, data, frame, pairs=2, **QUIET)
    assert fit.outcome is not ScoreOutcome.NOT_FINITE
    sd = np.sqrt(np.diag(fit.covariance))
    return fit.mean / units.beta, sd / units.beta, fit.noise, fit.curvature * units.beta**2, loss


def exact(units):
    def log_ratio(x, z, beta, c):
        return -0.5 * (x / units.x - beta / units.beta - 0.5 * c / units.covariate) ** 2

    return log_ratio


def scored(units):
    """The score test of an r that is off, per unit of beta."""
    model, data = build(units, local=False)
    beta = jnp.full(200, np.float32(0.3 * units.beta))
    covariate = jnp.resize(data.covariate, 200)
    result = score_test(KEY, lambda x, z, b, c: exact(units)(x, z, 1.5 * b, c), model, beta, covariate)
    per_unit = [np.float64(part) * units.beta for part in (result.mean, result.standard_error)]
    return *per_unit, result.z, result.p_value


def predicted(units):
    """What a posterior predictive check shows, and the ranks of a method that is calibrated in any units."""
    model, data = build(units, local=False)
    beta = np.float32(units.beta) * np.linspace(0, 1, 30, dtype=np.float32)
    check = posterior_predictive(KEY, model, beta, data)

    def posterior(key, data):
        mean = jnp.sum(data.x / units.x - 0.5 * data.covariate / units.covariate) / 13
        return units.beta * (mean + 13**-0.5 * jax.random.normal(key, (19,)))

    runs = replicate(KEY, model, posterior, 20, covariate=data.covariate, vectorize=True)
    found = [ranks(KEY, runs.truth, runs.draws)]
    found += [region_ranks(KEY, runs.truth, runs.draws, region) for region in ("ellipse", "random")]
    return check.simulated / np.float32(units.x), check.p_value, np.stack(found)


QUICK, LONG = [memory(kind) for kind in (scored, predicted)], [memory(kind) for kind in (variational, score)]
CASES = [(answer, units) for answer in QUICK for units in ALL]
CASES += [(answer, units) for answer in LONG for units in (*SOME, TOGETHER[-1], EXACT)]


@pytest.mark.parametrize(
    "answer, units", CASES, ids=[f"{answer[0].__name__}-{named(units)}" for answer, units in CASES]
)
def test_answers_are_the_same_in_all_units(answer, units):
    function, expected = answer
    agrees(function(units), expected(), units)


def summary(data):
    return jnp.stack([data.x.mean(), jnp.ptp(data.x)])


def approximate(units):
    """Mean and sd of each method's draws."""
    model, data = build(units, local=False)
    problem = {"model": model, "data": data, **QUIET}
    scaled = standardize(KEY, model, data, summary=summary, simulations=300)
    runs = [rejection(KEY, **problem, summary=scaled, simulations=2000, quantile=0.05)]
    first = {"summary": lambda data: data.x.mean()}
    runs.append(rejection(KEY, **problem, **first, simulations=2000, tolerance=0.3 * units.x))
    tolerances = [units.x, 0.5 * units.x]
    runs.append(smc(KEY, **problem, **first, simulations=4000, tolerance=tolerances, particles=200))
    step = {"step": 0.5 * units.beta, "tolerance": 0.5 * units.x, "chains": 20}
    runs.append(mcmc(KEY, **problem, **first, simulations=2000, **step))
    draws = [np.float64(run.beta) / units.beta for run in runs]
    means = [np.average(part, weights=run.weights) for part, run in zip(draws, runs, strict=True)]
    return means, [part.std() for part in draws], [run.ess for run in runs]


APPROXIMATE = memory(approximate)


@pytest.mark.parametrize("units", SOME, ids=named)
def test_approximate_computation_is_the_same_in_all_units(units):
    agrees(approximate(units), APPROXIMATE[1](), units)


# Two quantities whose units differ by 1e20: what adds or compares them must ask for their own scales.
SCALES = np.float32([1e-20, 1.0])
PLANE = HierarchicalImplicitModel(
    dist.Normal(jnp.zeros(2), SCALES).to_event(1),
    generate=lambda noise, beta, c: (None, beta + SCALES * noise),
    noise_shape=(2,),
)


@pytest.mark.parametrize("unit", [1e-20, 1.0, 1e20])
def test_euclidean_distance(unit):
    difference = np.float32([3 * unit, 0.0, -4 * unit])
    assert float(euclidean(difference, jnp.zeros(3))) == pytest.approx(5 * unit, rel=1e-6, abs=0)
    assert float(euclidean(difference, difference)) == 0
    assert not np.isfinite(euclidean(difference, jnp.full(3, jnp.inf)))


def test_population_moves_in_the_scale_of_each_coordinate():
    """Jitter in the scale of one coordinate would be a kernel of 1e15 sds for the other."""
    data = Data(SCALES * np.ones((4, 2), np.float32))
    scaled = {"summary": lambda data: data.x.mean(0) / SCALES, "tolerance": [2.0, 1.0]}
    run = smc(KEY, PLANE, data, **scaled, simulations=4000, particles=300, **QUIET)
    both = run.beta / SCALES
    assert run.history.acceptance[1] > 0.1
    assert np.all(np.abs(np.average(both, axis=0, weights=run.weights) - 0.8) < 0.3)
    assert 0.5 < both[:, 0].std() / both[:, 1].std() < 2


@pytest.mark.parametrize("region", ["ellipse", "random"])
def test_regions_weigh_each_coordinate_in_its_scale(region):
    rng = np.random.default_rng(1)
    truth, draws = rng.normal(size=(30, 2)), rng.normal(size=(30, 19, 2))
    plain = region_ranks(KEY, np.float32(truth), np.float32(draws), region)
    scaled = region_ranks(KEY, np.float32(SCALES * truth), np.float32(SCALES * draws), region)
    np.testing.assert_array_equal(plain, scaled)


@pytest.mark.parametrize("unit", [1e-20, 1e20])
def test_exact_posterior_of_a_regression(unit):
    c = RNG.normal(size=(12, 2)).astype(np.float32)
    one, other = (
        LinearRegression(2, 2.0 * scale, 0.7 * scale).posterior(np.float32(scale) * X, c)
        for scale in (1.0, unit)
    )
    np.testing.assert_allclose(other.mean / unit, one.mean, rtol=1e-5)
    np.testing.assert_allclose(other.scale_tril / unit, one.scale_tril, rtol=1e-5)
