"""The posterior from few simulations: against exact answers, by any simulator, after a kill."""

import math
import pickle
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import integrate, stats

from himlib import Data, HierarchicalImplicitModel, Network
from himlib.few_simulations import ExternalModel, RoundsOutcome, fit_rounds
from himlib.few_simulations._centering import none
from himlib.few_simulations._classifiers import AMONG, all_pairs, mix, train
from himlib.few_simulations._coordinates import Coordinates, robust, squash
from himlib.few_simulations._particles import attainable, ess_share, temper
from himlib.few_simulations.external import collect, run_chunk
from himlib.few_simulations.posterior import Seen, Simulated, draw
from himlib.few_simulations.rounds import _code, _variance
from himlib.networks import ratio_network, separable_ratio

SMALL = {"simulations": 1_000, "rounds": 2, "particles": 1_000, "progress": False}


def noisy(noise, beta, covariate):
    return None, beta + 0.5 * noise


NORMAL = HierarchicalImplicitModel(dist.Normal(0, 1), generate=noisy, noise_shape=())


def model_of(prior, generate=noisy, noise_shape=()):
    return HierarchicalImplicitModel(prior, generate=generate, noise_shape=noise_shape)


def moments(run):
    beta = np.asarray(run.beta, np.float64)
    return beta.mean(0), beta.std(0)


ONE = Data(jnp.ones(1))

# --- coordinates --------------------------------------------------------------------------------------------
PRIORS = {
    "uniform": (dist.Uniform(2.0, 12.0), stats.uniform(2, 10)),
    "normal": (dist.Normal(3.0, 2.0), stats.norm(3, 2)),
    "lognormal": (dist.LogNormal(-2.0, 0.5), stats.lognorm(0.5, scale=np.exp(-2))),
    "half Cauchy": (dist.HalfCauchy(3.0), stats.halfcauchy(scale=3)),
    "exponential": (dist.Exponential(4.0), stats.expon(scale=0.25)),
    "tiny": (dist.Uniform(0.0, 1e-12), stats.uniform(0, 1e-12)),
}


@pytest.mark.parametrize("name", PRIORS)
def test_prior_is_standard_normal(name):
    prior, exact = PRIORS[name]
    where = Coordinates(model_of(prior))
    assert where.known.all()
    v = np.linspace(-4, 4, 33, dtype=np.float32)[:, None]
    beta = np.asarray(jax.vmap(where.constrain)(v))
    np.testing.assert_allclose(
        beta, exact.ppf(stats.norm.cdf(np.float64(v[:, 0]))), rtol=3e-4, atol=1e-5 * float(exact.ppf(0.9))
    )
    np.testing.assert_allclose(where.unwind(beta), v, atol=2e-3)
    np.testing.assert_allclose(jax.vmap(where.log_prior)(v), -(v[:, 0] ** 2) / 2, rtol=1e-6)


@pytest.mark.parametrize(
    "prior",
    [
        dist.MultivariateNormal(jnp.zeros(2), jnp.array([[1.0, 0.8], [0.8, 1.0]])),
        dist.Dirichlet(jnp.ones(3)),
        {"a": dist.Uniform(0, 1), "b": dist.Dirichlet(jnp.ones(3))},
        dist.StudentT(4.0, 0.0, 1.0),
    ],
)
def test_log_prior_is_a_density_where_quantiles_are_not_known(prior):
    where = Coordinates(model_of(prior, lambda noise, beta, c: (None, jnp.zeros(2)), (2,)))
    draws = np.asarray(where.draw(jax.random.key(0), 20_000), np.float64)
    density = jax.jit(jax.vmap(where.log_prior))
    # E_p[q / p] = 1 for a q with shorter tails
    q = stats.multivariate_normal(draws.mean(0), np.cov(draws.T) / 2)
    log_p = np.asarray(density(draws.astype(np.float32)), np.float64)
    weights = np.exp(q.logpdf(draws) - log_p)
    error = weights.std() / np.sqrt(len(weights))
    grid = q.rvs(20_000, random_state=0).reshape(20_000, -1).astype(np.float32)
    other = np.exp(np.asarray(density(grid), np.float64) - q.logpdf(grid))
    assert np.isfinite(other).all()
    assert abs(np.log(weights.mean())) < 5 * error + 0.01


def test_beyond_the_knots_it_goes_straight_on():
    where = Coordinates(model_of(dist.LogNormal(-2.0, 0.5)))
    v = np.array([-9.0, -6.5, 6.5, 9.0], np.float32)[:, None]
    beta = jax.vmap(where.constrain)(v)
    np.testing.assert_allclose(np.log(beta), -2 + 0.5 * v[:, 0], rtol=1e-5)
    np.testing.assert_allclose(where.unwind(beta), v, rtol=1e-4)


def test_squash_keeps_the_body_and_the_order():
    z = np.linspace(-50, 50, 1001)
    y = np.asarray(squash(jnp.asarray(z), 0.0, 1.0))
    assert (np.diff(y) > 0).all() and np.allclose(y[np.abs(z) < 3], z[np.abs(z) < 3], atol=1e-6)
    assert np.abs(y).max() < 8
    shift, scale = robust(np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]]))
    assert scale[1] == 1 and shift[1] == 5


# --- classifiers -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("network", [ratio_network(), separable_ratio()])
def test_all_pairs_are_the_pairs(network):
    rng = np.random.default_rng(0)
    s, v = (rng.normal(size=(n, 3)).astype(np.float32) for n in (4, 5))
    params = network.init(jax.random.key(0), s, None, s, None, s)
    r = all_pairs(network, params, s, v)
    one = [[network.apply(params, a, None, b, None, jnp.zeros(3)) for b in v] for a in s]
    np.testing.assert_allclose(r, np.array(one), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("others", "network"), [(8, ratio_network()), (255, separable_ratio())])
def test_classifier_learns_the_log_ratio(others, network):
    """x = beta + noise, both N(0, 1): r is known, up to a function of x."""
    rng = np.random.default_rng(1)
    n, h = 20_000, 2 * AMONG
    v = rng.normal(size=(n, 1)).astype(np.float32)
    s = v + rng.normal(size=(n, 1)).astype(np.float32)
    ok = np.ones(n, bool)
    held = s[:h], v[:h], ok[:h]
    bank = s[h:], v[h:], ok[h:]
    params, best = train(
        jax.random.key(0), bank, np.uint32(n - h), bank[:2], held, np.int32(2), np.int32(1500),
        network=network, others=others, batch=256, rate=5e-3,
    )  # fmt: skip
    x, beta = np.array([[-1.0], [0.0], [1.5]], np.float32), np.linspace(-1.5, 1.5, 7, dtype=np.float32)
    r = np.asarray(all_pairs(network, params, x, beta[:, None]))
    exact = stats.norm(beta, 1).logpdf(x) - stats.norm(0, 2**0.5).logpdf(x)
    r, exact = r - r.mean(1, keepdims=True), exact - exact.mean(1, keepdims=True)
    assert ((r - exact) ** 2).mean() < 0.15**2 and np.abs(r - exact).max() < 0.5
    # the best possible among 128: by the exact ratio
    known = Network(
        lambda key, *batch: jnp.zeros(()),
        lambda p, x, z, b, c, center: p * 0 - 0.5 * (x[0] - b[0]) ** 2,
    )
    weights, loss = mix((params, jnp.zeros(())), held, np.int32(2), networks=(network, known))
    assert best < loss + 0.05 and loss <= best + 1e-5 and 0.8 <= weights.sum() <= 1.2


def test_failures_are_contrasted_with_their_beta():
    """Success has chance 1 / (1 + exp(2 beta)): r of what succeeds learns it, though no failure has an x."""
    rng = np.random.default_rng(2)
    n, h = 20_000, 2 * AMONG
    v = rng.normal(size=(n, 1)).astype(np.float32)
    ok = rng.random(n) < 1 / (1 + np.exp(2 * v[:, 0]))
    s = np.where(ok[:, None], rng.normal(size=(n, 1)), 0).astype(np.float32)  # x itself says nothing
    beta = np.linspace(-1, 1, 5, dtype=np.float32)
    for others, network in ((8, ratio_network()), (255, separable_ratio())):
        params, _ = train(
            jax.random.key(0), (s, v, ok), np.uint32(n), (s, v), (s[:h], v[:h], ok[:h]), np.int32(2),
            np.int32(1000), network=network, others=others, batch=256, rate=5e-3,
        )  # fmt: skip
        r = np.asarray(all_pairs(network, params, np.zeros((1, 1), np.float32), beta[:, None]))[0]
        np.testing.assert_allclose(r - r[2], np.log(2 / (1 + np.exp(2 * beta))), atol=0.25)


# --- particles ----------------------------------------------------------------------------------------------
def test_particles_keep_both_modes_in_their_proportions():
    """A mixture .3 N(-3, .1) + .7 N(2, .2), times a prior N(0, 4): weights by Bayes."""
    weights, means, sds = np.array([0.3, 0.7]), np.array([-3.0, 2.0]), np.array([0.1, 0.2])

    def log_prior(v):
        return dist.Normal(0, 2).log_prob(v[0])

    def log_ratio(v):
        parts = jnp.log(weights) + dist.Normal(means, sds).log_prob(v)
        return jax.scipy.special.logsumexp(parts, axis=1)

    start = 2 * jax.random.normal(jax.random.key(0), (10_000, 1))
    v, r, total, moved = temper(jax.random.key(1), start, jax.vmap(log_prior), log_ratio, 1.0)
    np.testing.assert_allclose(r, log_ratio(v), rtol=1e-5)
    left = np.asarray(v[:, 0]) < 0
    evidence = weights * stats.norm(0, np.sqrt(4 + sds**2)).pdf(means)
    exact = evidence[0] / evidence.sum()
    assert abs(total - np.log(evidence.sum())) < 0.1
    assert abs(left.mean() - exact) < 0.03 and moved > 0.1
    shrunk = 4 / (4 + sds**2)
    np.testing.assert_allclose([v[left].mean(), v[~left].mean()], shrunk * means, atol=0.02)
    np.testing.assert_allclose([v[left].std(), v[~left].std()], np.sqrt(shrunk) * sds, rtol=0.08)


# --- the whole ----------------------------------------------------------------------------------------------
def test_conjugate_posterior():
    run = fit_rounds(
        jax.random.key(0), NORMAL, Data(jnp.array([1.0])), simulations=2_000, rounds=2, progress=False
    )
    mean, sd = moments(run)
    exact = 0.2**0.5
    assert abs(mean - 0.8) < 0.15 * exact and 0.9 < sd / exact < 1.1
    assert run.outcome is RoundsOutcome.COMPLETED
    assert (run.simulations, run.failed, run.error) == (2_000, 0, None)
    assert run.held_out.shape == (2, 3) and (run.held_out[:, 2] <= run.held_out[:, :2].min(1) + 1e-6).all()
    assert run.sample(jax.random.key(0), 7).shape == (7,)
    beta = jnp.array([0.3, 0.8, 1.3])
    log_posterior = np.asarray(run.log_ratio(beta)) + stats.norm.logpdf(beta)
    np.testing.assert_allclose(np.diff(log_posterior), [0.625, -0.625], atol=0.35)


def test_many_data_and_covariates():
    """Linear regression on 40 data, with its exact posterior."""
    rng = np.random.default_rng(3)
    t = rng.normal(size=40).astype(np.float32)
    x = (0.5 + 1.5 * t + rng.normal(size=40)).astype(np.float32)

    def generate(noise, beta, covariate):
        return None, beta["level"] + beta["slope"] * covariate["t"] + noise

    model = model_of({"level": dist.Normal(0, 2), "slope": dist.Normal(0, 2)}, generate)
    run = fit_rounds(
        jax.random.key(0), model, Data(x, {"t": t}), simulations=30_000, particles=1_000, progress=False
    )
    design = np.stack([np.ones(40), t], 1)
    covariance = np.linalg.inv(design.T @ design + np.eye(2) / 4)
    mean, sd = covariance @ design.T @ x, np.sqrt(np.diag(covariance))
    got = np.stack([run.beta["level"], run.beta["slope"]], 1)
    assert np.abs((got.mean(0) - mean) / sd).max() < 0.4
    assert np.all((got.std(0) / sd > 0.8) & (got.std(0) / sd < 1.25))
    v = run._learned.newest  # many data are seen from three times as far as one
    assert np.all(v.std(0) > 2 * run._draws.v.std(0)) and run._learned.widen == 9


def test_particles_keep_near_what_was_simulated():
    """An r that grows faster than the prior falls, as the sum of many may, would carry them away."""
    grows = Network(lambda key, *batch: jnp.ones(()), lambda p, x, z, b, c, center: p * b[0] ** 2)
    unit = jnp.zeros(1), jnp.ones(1)
    seen = Seen((jnp.ones(()), jnp.ones(())), jnp.array([0.5, 0.5]), *unit, (unit[0], unit[1]), none(1))
    simulated = Simulated(np.zeros((11, 1)), np.float32(np.linspace(-3, 2, 11)[:, None]), np.ones(11, bool))
    np.testing.assert_allclose(simulated.box, [[-4], [3]])
    draws = draw(
        jax.random.key(0), seen, simulated, jnp.zeros((1, 1)), 1.0, Coordinates(NORMAL), (grows, grows), 1_000
    )
    assert -4 <= draws.v.min() < -3.5 and draws.v.max() <= 3
    exact = integrate.quad(lambda v: stats.norm.pdf(v) * np.exp(v**2), -4, 3)[0]
    assert abs(draws.log_total - np.log(exact)) < 0.2  # the box is in it


@pytest.mark.parametrize("last", [1.0, 0.5])
def test_what_the_particles_integrate_to(last):
    """Their way from the prior tells the logarithm of E exp(last r): here of normals."""
    r = lambda v: -0.5 * ((v - 2) ** 2).sum(1) / 0.01  # noqa: E731
    v = jax.random.normal(jax.random.key(0), (2_000, 2))
    way = jax.jit(lambda key: temper(key, v, lambda v: -0.5 * (v**2).sum(1), r, last)[2])
    totals = [float(way(jax.random.key(seed))) for seed in range(8)]
    variance = 0.01 / last
    exact = 2 * (stats.norm(0, (1 + variance) ** 0.5).logpdf(2) + 0.5 * np.log(2 * np.pi * variance))
    error = np.std(totals, ddof=1) / 8**0.5
    assert error < 0.05 and abs(np.mean(totals) - exact) < 4 * error + 0.02


def test_what_simulations_bear():
    """Draws of N(0, 1) for N(0, 1 / (1 + 2 p c)): as steep as leaves a fiftieth of them, or forty."""
    v = jax.random.normal(jax.random.key(0), (2_000,))
    none, ok = jnp.zeros(2_000), jnp.ones(2_000, bool)
    assert attainable(-(v**2), none, ok, 1.0) == 1.0
    steep = float(attainable(-1e4 * v**2, none, ok, 1.0))
    share = [float(ess_share(-power * 1e4 * v**2)) for power in (steep, steep / 0.8)]
    assert share[0] > 0.02 >= share[1]
    many = jax.random.normal(jax.random.key(1), (20_000,))  # of more, forty will do
    steep = float(attainable(-1e6 * many**2, jnp.zeros(20_000), jnp.ones(20_000, bool), 1.0))
    worth = [20_000 * float(ess_share(-power * 1e6 * many**2)) for power in (steep, steep / 0.8)]
    assert worth[0] > 40 >= worth[1]
    proposed = 0.05 * v  # drawn where exp(-200 v^2) sent them
    assert attainable(-1000 * proposed**2, 200 * proposed**2 - proposed**2 / 2, ok, 1.0) > 0.9
    assert attainable(jnp.where(v > 3, jnp.nan, -(v**2)), none, v < 3, 1.0) == 1.0  # what failed


@pytest.mark.parametrize(("rows", "size"), [(2_000, 2), (6_000, 4), (30_000, 6)])
def test_many_data_are_seen_from_as_far_as_leaves_a_thousand(rows, size):
    variance = _variance(rows, size, 10)
    v = np.random.default_rng(0).normal(size=(200_000, size)) * variance**0.5
    worth = rows * float(ess_share(jnp.asarray((v**2).sum(1) * (1 / variance - 1) / 2, jnp.float32)))
    assert 2 < variance < 9 and abs(worth - 1_000) < 50
    assert _variance(rows, size, 9) == _variance(1_000, size, 10) == 2 and _variance(10**9, size, 10) == 9


def two_moons_apart(noise, beta, covariate):
    return None, jnp.abs(beta) + 0.1 * noise


def test_two_modes_stay_in_all_rounds():
    model = model_of(dist.Uniform(-1, 1), two_moons_apart)
    run = fit_rounds(
        jax.random.key(1), model, Data(jnp.array([0.6])), simulations=2_000, rounds=2, progress=False
    )
    right = np.asarray(run.beta) > 0
    assert 0.42 < right.mean() < 0.58
    assert abs(np.abs(run.beta).mean() - 0.6) < 0.02 and 0.08 < np.abs(run.beta).std() < 0.12


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e15])
def test_units(unit):
    def generate(noise, beta, covariate):
        return None, beta + 0.5 * unit * noise

    model = model_of(dist.Uniform(-2 * unit, 2 * unit), generate)
    run = fit_rounds(jax.random.key(0), model, Data(jnp.array([unit])), **SMALL)
    exact = stats.truncnorm((-2 - 1) / 0.5, (2 - 1) / 0.5, 1, 0.5)
    mean, sd = moments(run)
    assert abs(mean / unit - exact.mean()) < 0.25 * exact.std() and 0.8 < sd / unit / exact.std() < 1.25


def test_a_scale_under_a_wide_prior():
    """sd ~ HalfCauchy(1) with data of sd .01: exact by quadrature."""
    x = 0.01 * stats.norm.rvs(size=30, random_state=4).astype(np.float32)

    def generate(noise, beta, covariate):
        return None, beta * noise

    model = model_of(dist.HalfCauchy(1.0), generate)
    run = fit_rounds(
        jax.random.key(0), model, Data(jnp.asarray(x)), particles=1_000, progress=False,
        features=lambda x, c: jnp.log(jnp.abs(x) + 1e-9)[None],
    )  # fmt: skip

    def density(u):
        sd = np.exp(u)
        return np.exp(stats.norm(0, sd).logpdf(x[:, None]).sum(0) + stats.halfcauchy.logpdf(sd) + u - 90)

    u = np.linspace(-7, -2, 4001)
    weights = density(u) / integrate.trapezoid(density(u), u)
    mean = integrate.trapezoid(u * weights, u)
    sd = np.sqrt(integrate.trapezoid((u - mean) ** 2 * weights, u))
    got = np.log(np.asarray(run.beta))
    assert abs(got.mean() - mean) < 0.6 * sd and 0.75 < got.std() / sd < 1.35


# --- failures -----------------------------------------------------------------------------------------------
def test_not_finite_says_something_of_beta():
    """Success has chance 1 / (1 + e^{2 beta}), and x is pure noise: the posterior is prior x success."""

    def generate(noise, beta, covariate):
        fails = jax.scipy.stats.norm.cdf(noise[1]) > jax.nn.sigmoid(-2 * beta)
        return None, jnp.where(fails, jnp.nan, 0.1 * beta + noise[0])

    run = fit_rounds(
        jax.random.key(0), model_of(dist.Normal(0, 1), generate, (2,)), Data(jnp.zeros(1)),
        simulations=6_000, rounds=2, progress=False,
    )  # fmt: skip
    grid = np.linspace(-5, 5, 2001)
    p = stats.norm.pdf(grid) / (1 + np.exp(2 * grid)) * stats.norm.pdf(0.1 * grid)
    mean = (grid * p).sum() / p.sum()
    assert mean < -0.5  # leaving failures out would give 0
    assert abs(moments(run)[0] - mean) < 0.15
    assert 0.2 < run.failed / run.simulations < 0.6


# --- outcomes -----------------------------------------------------------------------------------------------
def test_outcomes_say_what_is_wrong():
    def blind(noise, beta, covariate):
        return None, 1e-4 * beta + noise

    run = fit_rounds(jax.random.key(0), model_of(dist.Normal(0, 1), blind), Data(jnp.zeros(1)), **SMALL)
    assert run.outcome is RoundsOutcome.BLIND
    assert 0.9 < moments(run)[1] < 1.1

    def sharp(noise, beta, covariate):
        return None, beta + 1e-3 * noise

    run = fit_rounds(
        jax.random.key(0), model_of(dist.Normal(0, 1), sharp), Data(jnp.zeros(1)), **SMALL | {"rounds": 1}
    )
    assert run.outcome is RoundsOutcome.NARROWING

    def fails(noise, beta, covariate):
        return None, jnp.where(noise[1] > -0.5, jnp.nan, beta + noise[0])

    run = fit_rounds(jax.random.key(0), model_of(dist.Normal(0, 1), fails, (2,)), Data(jnp.zeros(1)), **SMALL)
    assert run.outcome is RoundsOutcome.MANY_FAILED


def test_a_ridge_is_narrow_along_no_axis():
    def generate(noise, beta, covariate):
        return None, beta[0] + beta[1] + 1e-3 * noise

    model = model_of(dist.Normal(jnp.zeros(2), 1.0).to_event(1), generate)
    run = fit_rounds(jax.random.key(0), model, Data(jnp.zeros(1)), **SMALL)
    total = np.asarray(run.beta, np.float64).sum(1).std()
    assert run.outcome is RoundsOutcome.NARROWING and total > 2e-3
    assert moments(run)[1].min() > 0.5


def test_pairs_that_do_not_reach_the_posterior():
    rng = np.random.default_rng(6)
    beta = rng.normal(-1, 0.2, 3_000).astype(np.float32)
    x = (beta + 0.5 * rng.normal(size=3_000)).astype(np.float32)
    run = fit_rounds(jax.random.key(0), NORMAL, ONE, pairs=(beta, x), **SMALL | {"simulations": 0})
    assert run.outcome is RoundsOutcome.OUTSIDE


def test_twenty_draws_as_one_row_overfit_and_their_statistics_do_not():
    """The log sd of 20 draws: by 20 columns r is weak and said to be; by one statistic it is right."""

    def simulate(key, beta, covariate):
        return None, jnp.exp(beta) * jax.random.normal(key, (20,))

    def log_sd(x, covariate):
        return jnp.log(jnp.mean(x**2))[None] / 2

    model = HierarchicalImplicitModel(dist.Normal(1, 1), simulate=simulate)
    x = 3 * np.random.default_rng(7).standard_normal((1, 20)).astype(np.float32)
    grid = np.linspace(-2, 4, 4_001)
    density = np.exp(
        -((grid - 1) ** 2) / 2 - 20 * (grid - 1) - (x.astype(np.float64) ** 2).sum() / 2 / np.exp(2 * grid)
    )
    density /= density.sum()
    exact = density @ grid, np.sqrt(density @ grid**2 - (density @ grid) ** 2)
    small = SMALL | {"simulations": 2_000}
    row = fit_rounds(jax.random.key(0), model, Data(jnp.asarray(x)), **small)
    assert row.outcome is RoundsOutcome.OVERFITTED and row.weights[-1].sum() < 0.85
    told = fit_rounds(jax.random.key(0), model, Data(jnp.asarray(x)), features=log_sd, **small)
    mean, sd = moments(told)
    assert told.outcome is RoundsOutcome.COMPLETED
    assert abs(mean - exact[0]) < 0.3 * exact[1] and 0.8 < sd / exact[1] < 1.25


def test_weights_are_those_of_a_held_out_temperature():
    """A classifier that is three times too sure counts a third; one that knows, all of it."""
    known = Network(
        lambda key, *batch: jnp.ones(()), lambda sure, x, z, b, c, center: -0.5 * sure * (x[0] - b[0]) ** 2
    )
    rng = np.random.default_rng(8)
    v = rng.normal(size=(16 * AMONG, 1)).astype(np.float32)
    held = v + rng.normal(size=v.shape).astype(np.float32), v, np.ones(len(v), bool)
    for sure, weight in ((1.0, 1.0), (3.0, 1 / 3)):
        params = jnp.asarray(sure), jnp.asarray(sure)
        weights, _ = mix(params, held, np.int32(16), networks=(known, known))
        assert abs(weights.sum() - weight) < 0.15


@pytest.mark.parametrize("external", [False, True])
def test_in_double_precision(external):
    model = ExternalModel(dist.Normal(0, 1), outside) if external else NORMAL
    with jax.enable_x64(True):
        data = Data(np.ones(1) if external else jnp.ones(1))
        mean, sd = moments(fit_rounds(jax.random.key(0), model, data, **SMALL))
    assert abs(mean - 0.8) < 0.15 and 0.8 < sd / 0.2**0.5 < 1.2


# --- simulators outside of JAX ------------------------------------------------------------------------------
def outside(rng, beta, covariate):
    return beta + 0.5 * rng.normal()


def test_external_simulator_gives_the_posterior_whoever_runs_it():
    model = ExternalModel(dist.Normal(0, 1), outside)
    data = Data(np.array([1.0], np.float32))
    here = fit_rounds(jax.random.key(0), model, data, **SMALL)
    with ThreadPoolExecutor(3) as pool:
        there = fit_rounds(jax.random.key(0), model, data, executor=pool, **SMALL)
    np.testing.assert_array_equal(here.beta, there.beta)
    mean, sd = moments(here)
    assert abs(mean - 0.8) < 0.1 and 0.85 < sd / 0.2**0.5 < 1.15


def sometimes(rng, beta, covariate):
    if rng.random() < 0.1:
        raise RuntimeError("the solver gave up")
    return {"y": beta["a"] + rng.normal(size=2), "n": rng.poisson(3.0)}


def test_external_failures_and_trees():
    data = Data({"y": np.zeros((1, 2), np.float32), "n": np.full(1, 3.0, np.float32)})
    run = fit_rounds(jax.random.key(0), ExternalModel({"a": dist.Normal(0, 1)}, sometimes), data, **SMALL)
    assert 50 < run.failed < 200 and str(run.error) == "the solver gave up"
    assert abs(np.std(run.beta["a"]) - 3**-0.5) < 0.1


def many_at_once(rng, beta, covariate):
    """x of many beta, none below -2; a single beta above 2 stops all of them."""
    if beta.max() > 2:
        raise OverflowError("too large")
    return np.where(beta < -2, np.nan, beta + 0.5 * rng.normal(size=len(beta)))


def test_external_simulator_of_many_at_once(tmp_path):
    """Where one beta stops a batch, it alone is lost; any executor gives the same."""
    model = ExternalModel(dist.Normal(0, 1), many_at_once, batch=128)
    data = Data(np.array([1.0], np.float32))
    here = fit_rounds(jax.random.key(0), model, data, **SMALL)
    with ThreadPoolExecutor(2) as pool:
        there = fit_rounds(jax.random.key(0), model, data, executor=pool, bank=tmp_path, **SMALL)
    np.testing.assert_array_equal(here.beta, there.beta)
    first = np.load(next(tmp_path.glob("v_0*")))["v"][:, 0]  # v = beta under this prior
    second = np.load(next(tmp_path.glob("v_1*")))["v"][:, 0]
    lost = sum(((v > 2) | (v < -2)).sum() for v in (first, second))
    assert here.failed == lost > 0 and str(here.error) == "too large"
    mean, sd = moments(here)
    assert abs(mean - 0.8) < 0.1 and 0.85 < sd / 0.2**0.5 < 1.15
    other = ExternalModel(model.prior, many_at_once, batch=100)
    with pytest.raises(ValueError, match="bank: "):
        fit_rounds(jax.random.key(0), other, data, bank=tmp_path, **SMALL)


def always(rng, beta, covariate):
    raise KeyError("rate")


def test_a_simulator_that_always_fails_shows_its_error():
    model = ExternalModel(dist.Normal(0, 1), always)
    with pytest.raises(KeyError, match="rate") as caught:
        fit_rounds(jax.random.key(0), model, Data(np.zeros(1, np.float32)), **SMALL)
    assert "no simulation so far gave an x" in caught.value.__notes__[0]


def first_after_forty(rng, beta, covariate):
    first_after_forty.calls += 1
    if first_after_forty.calls <= 40:
        raise RuntimeError("not yet")
    return beta + 0.5 * rng.normal()


def test_a_simulator_that_fails_at_first_goes_on():
    first_after_forty.calls = 0
    run = fit_rounds(jax.random.key(0), ExternalModel(dist.Normal(0, 1), first_after_forty), ONE, **SMALL)
    assert run.failed == 40 and str(run.error) == "not yet"


def test_a_simulator_that_gives_no_number_is_refused():
    model = ExternalModel(dist.Normal(0, 1), lambda rng, beta, covariate: np.nan)
    with pytest.raises(ValueError, match="none of 500 simulations gave a finite x"):
        fit_rounds(jax.random.key(0), model, ONE, **SMALL)


class SolverError(Exception):
    """Takes two arguments and keeps one: it is pickled, but not read again."""

    def __init__(self, code, where):
        super().__init__(code)


def test_collect_says_what_is_unlike_the_data():
    row = np.zeros(2, np.float32)
    results = run_chunk(lambda rng, beta, covariate: beta, [((i,), np.ones(2), None) for i in range(20)])
    for odd in (np.zeros(3), None, "text", {"x": np.zeros(2)}, np.array(["a", "b"]), 1.0):
        _, ok, error = collect([odd, *results], row)  # some: failures like others
        assert ok.sum() == 20 and not ok[0] and "expected x like a row of data.x" in str(error)
        with pytest.raises(ValueError, match="expected x like a row"):
            collect([odd] * 20, row)  # all of a chunk
    for pair in ((None, np.zeros(2)), (None, 1.0)):
        with pytest.raises(ValueError, match="return x alone"):
            collect([pair] * 20, row)
    with pytest.raises(ValueError, match=r"for one observation data.x\[None\]"):
        collect([np.zeros(2, np.float32)] * 20, row[0])
    assert collect([[1.0, 2.0], (3.0, 4.0)], row)[0].tolist() == [[1, 2], [3, 4]]
    for whole in (np.zeros(2, np.int32), np.zeros(2, np.uint8)):
        with pytest.raises(ValueError, match=r"cannot hold that: see data.x.astype\(float\)"):
            collect([np.array([0.5, 1.5])], whole)
    with pytest.raises(ValueError, match=r"astype\(int\)"):
        collect([np.array([848, 1])], np.zeros(2, np.uint8))
    assert collect([np.array([848, 1])], np.zeros(2, np.int32))[0].tolist() == [[848, 1]]


def test_chunks_copy_what_is_used_again_and_pickle_what_is_raised():
    buffer = np.zeros(1)

    def again(rng, beta, covariate):
        buffer[0] = beta
        return buffer

    assert [x.item() for x in run_chunk(again, [((i,), float(i), None) for i in range(3)])] == [0, 1, 2]

    def gives_up(rng, beta, covariate):
        raise SolverError(3, "there")

    (error,) = run_chunk(gives_up, [((0,), 0.0, None)])
    assert "SolverError(3)" in repr(pickle.loads(pickle.dumps(error)))


def scaled(rng, beta, covariate, by):
    return by * outside(rng, beta, covariate)


def test_bank_knows_the_code_and_what_a_partial_gives(tmp_path):
    first = partial(scaled, by=1.0)
    fit_rounds(jax.random.key(0), ExternalModel(dist.Normal(0, 1), first), ONE, bank=tmp_path, **SMALL)
    for other in (partial(scaled, by=2.0), partial(outside), lambda rng, beta, covariate: 2 * beta):
        with pytest.raises(ValueError, match="other model"):
            fit_rounds(
                jax.random.key(0), ExternalModel(dist.Normal(0, 1), other), ONE, bank=tmp_path, **SMALL
            )
    run = fit_rounds(
        jax.random.key(0),
        ExternalModel(dist.Normal(0, 1), partial(scaled, by=1.0)),
        ONE,
        bank=tmp_path,
        **SMALL,
    )
    assert run.simulations == 1_000


KILLED = """
import os, sys
import jax, numpy as np, numpyro.distributions as dist
from himlib import Data
from himlib.few_simulations import ExternalModel, fit_rounds
count, fatal = 0, int(sys.argv[2])
def simulate(rng, beta, covariate):
    global count
    count += 1
    if count == fatal:
        os.kill(os.getpid(), 9)
    return beta + 0.5 * rng.normal()
run = fit_rounds(jax.random.key(0), ExternalModel(dist.Normal(0, 1), simulate), Data(np.ones(1, np.float32)),
    simulations=1_000, rounds=2, particles=1_000, progress=False, bank=sys.argv[1])
np.savez(sys.argv[3], beta=run.beta, calls=count)
"""


def test_a_kill_loses_no_more_than_a_chunk(tmp_path):
    def run(folder, fatal):
        script = tmp_path / "killed.py"
        script.write_text(textwrap.dedent(KILLED))
        out = tmp_path / f"{folder}.npz"
        command = [sys.executable, script, tmp_path / folder, str(fatal), out]
        return subprocess.run(command, check=False).returncode, out

    code, whole = run("whole", 0)
    assert code == 0
    assert [run("killed", fatal)[0] for fatal in (137, 450)] == [-9] * 2
    code, again = run("killed", 0)
    assert code == 0
    whole, again = np.load(whole), np.load(again)
    np.testing.assert_array_equal(whole["beta"], again["beta"])
    assert whole["calls"] == 1_000
    assert again["calls"] <= 1_000 - (136 + 449) + 2 * 20
    left = sorted(path.name for path in (tmp_path / "killed").iterdir())
    assert left == ["run.json", "v_0.npz", "v_1.npz", "x_0.npz", "x_1.npz"]


def test_bank_knows_its_run(tmp_path):
    """And teaches nothing twice: what the first of three rounds taught is in the proposals of the second."""
    small = SMALL | {"rounds": 3}
    first = fit_rounds(jax.random.key(0), NORMAL, Data(jnp.ones(1)), bank=tmp_path / "b", **small)
    again = fit_rounds(jax.random.key(0), NORMAL, Data(jnp.ones(1)), bank=tmp_path / "b", **small)
    for one, other in (
        (first.beta, again.beta),
        (first.held_out, again.held_out),
        (first.weights, again.weights),
    ):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match=r"bank: b is of another run \(other data\); name a new folder"):
        fit_rounds(jax.random.key(0), NORMAL, Data(jnp.zeros(1)), bank=tmp_path / "b", **small)
    other = model_of(dist.Normal(0, 2))
    with pytest.raises(ValueError, match=r"other model\)"):
        fit_rounds(jax.random.key(0), other, Data(jnp.ones(1)), bank=tmp_path / "b", **small)
    louder = model_of(dist.Normal(0, 1), lambda noise, beta, covariate: (None, beta + 0.6 * noise))
    with pytest.raises(ValueError, match=r"other model\)"):
        fit_rounds(jax.random.key(0), louder, Data(jnp.ones(1)), bank=tmp_path / "b", **small)
    with pytest.raises(ValueError, match="other key"):
        fit_rounds(jax.random.key(1), NORMAL, Data(jnp.ones(1)), bank=tmp_path / "b", **small)


# --- pairs that were simulated before -----------------------------------------------------------------------
def test_pairs_alone_and_pairs_first():
    rng = np.random.default_rng(5)
    beta = rng.uniform(-4, 4, 4_000).astype(np.float32)  # not from the prior
    x = (beta + 0.5 * rng.normal(size=4_000)).astype(np.float32)
    data = Data(jnp.ones(1))
    for simulations, rounds in ((0, 1), (1_000, 1)):
        run = fit_rounds(
            jax.random.key(0), NORMAL, data, pairs=(beta, x), simulations=simulations, rounds=rounds,
            progress=False,
        )  # fmt: skip
        mean, sd = moments(run)
        assert run.simulations == 4_000 + simulations
        assert abs(mean - 0.8) < 0.1 and 0.88 < sd / 0.2**0.5 < 1.12


def test_pairs_at_the_ends_of_a_support():
    rng = np.random.default_rng(9)
    beta = np.linspace(0, 1, 3_001).astype(np.float32)
    x = (beta + 0.2 * rng.normal(size=3_001)).astype(np.float32)
    run = fit_rounds(
        jax.random.key(0), model_of(dist.Uniform(0, 1)), Data(jnp.full(1, 0.5)), pairs=(beta, x),
        **SMALL | {"simulations": 0},
    )  # fmt: skip
    exact = stats.truncnorm(-2.5, 2.5, 0.5, 0.2)
    mean, sd = moments(run)
    assert run.outcome is RoundsOutcome.COMPLETED
    assert abs(mean - 0.5) < 0.3 * exact.std() and 0.8 < sd / exact.std() < 1.25


# --- wrong calls --------------------------------------------------------------------------------------------
PAIR = np.zeros(600, np.float32), np.zeros(600, np.float32)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"simulations": 100}, ValueError, "simulations: expected an integer of at least 500"),
        ({"simulations": 1e4}, ValueError, "simulations: expected an integer"),
        ({"rounds": 0}, ValueError, "rounds"),
        ({"particles": -1}, ValueError, "particles"),
        ({"widen": 0.5}, ValueError, "widen: expected a number of at least 1"),
        ({"key": 0}, TypeError, "key: expected jax.random.key"),
        ({"model": None}, TypeError, "model: expected a HierarchicalImplicitModel"),
        ({"data": Data(jnp.zeros((1, 2)))}, ValueError, "shape"),
        ({"pairs": PAIR[0]}, TypeError, r"pairs: expected \(beta, x\)"),
        ({"pairs": (PAIR[0], PAIR[1][:5])}, ValueError, "leading axes of one length"),
        ({"pairs": (PAIR[0], np.zeros((600, 2)))}, ValueError, "rows like those of data.x"),
        ({"pairs": (*PAIR, PAIR[0])}, ValueError, "covariates where the data have some"),
        ({"pairs": (PAIR[0][:, None], PAIR[1])}, ValueError, "beta with rows like the prior's draws"),
        ({"pairs": ({"b": PAIR[0]}, PAIR[1])}, ValueError, "beta with rows like the prior's draws"),
        ({"pairs": (PAIR[0] * np.nan, PAIR[1])}, ValueError, "600 beta of 600 are not finite"),
        ({"pairs": PAIR, "simulations": 3, "rounds": 5}, ValueError, "at least 20 for each of 5 rounds"),
        ({"particles": 10}, ValueError, "particles: expected an integer of at least 100"),
        ({"widen": "2"}, ValueError, "widen: expected a number"),
        ({"widen": float("inf")}, ValueError, "widen: expected a number"),
        ({"executor": 4}, TypeError, "executor: expected one of concurrent.futures, got int"),
        ({"classifiers": (None, None)}, TypeError, "classifiers: expected two Networks"),
        ({"classifiers": (ratio_network(),)}, TypeError, "classifiers: expected two Networks"),
        ({"features": 3}, TypeError, "features: expected a function"),
        ({"features": lambda x, c: x[None] * jnp.nan}, ValueError, "features: expected a vector of finite"),
        ({"start": NORMAL}, TypeError, "start: expected what fit_rounds returns, got Hierarchical"),
        ({"model": ExternalModel(dist.Delta(1.0), np.sin)}, ValueError, "has no width"),
    ],
)
def test_wrong_calls(change, error, match):
    call = {"key": jax.random.key(0), "model": NORMAL, "data": ONE} | SMALL | change
    with pytest.raises(error, match=match):
        fit_rounds(call.pop("key"), call.pop("model"), call.pop("data"), **call)


def test_wrong_external_models():
    with pytest.raises(TypeError, match="simulate: expected a function"):
        ExternalModel(dist.Normal(0, 1), None)
    with pytest.raises(TypeError, match="prior: expected a numpyro distribution"):
        ExternalModel(None, outside)
    wrong = ExternalModel(dist.Normal(0, 1), lambda rng, beta, covariate: np.zeros(2))
    with pytest.raises(ValueError, match="simulate: expected x like a row of data"):
        fit_rounds(jax.random.key(0), wrong, ONE, **SMALL)
    with pytest.raises(ValueError, match="batch: expected a positive integer, got 0"):
        ExternalModel(dist.Normal(0, 1), outside, batch=0)
    one = ExternalModel(dist.Normal(0, 1), lambda rng, beta, covariate: beta.mean(), batch=50)
    with pytest.raises(
        ValueError, match=r"simulate: expected x with a leading axis of 50, got shapes \[\(\)"
    ):
        fit_rounds(jax.random.key(0), one, ONE, **SMALL)


def test_an_external_model_is_not_simulated_in_jax():
    with pytest.raises(TypeError, match="an ExternalModel is simulated outside of JAX, by fit_rounds"):
        ExternalModel(dist.Normal(0, 1), outside).inner.simulate(jax.random.key(0), 0.0, None)


def test_what_has_no_code_of_its_own_is_known_by_name():
    assert _code(math.sqrt) == ["sqrt"] != _code(math.cos)
