"""Drift and diffusion against long series, integrals, brute force in float64, and NUTS."""

import itertools
import math
from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.handlers import condition
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import log_density as log_joint
from scipy import stats
from toys import within

from himlib.simulators.drift_diffusion import (
    DriftDiffusion,
    decision_time,
    log_density,
    subject_features,
)

KEY = jax.random.key(0)
quantile, log_f = jax.jit(decision_time), jax.jit(log_density)
SIMULATOR = DriftDiffusion()
SUBJECTS = [(0.0, 1.0, 0.2), (1.0, 1.35, 0.27), (-2.5, 0.8, 0.1), (4.0, 2.5, 0.4)]
NODES, WEIGHTS = np.polynomial.legendre.leggauss(20)


def simulate(simulator, key, beta):
    return jax.jit(simulator.model.simulate_batch)(key, beta)


def series(s, terms=60):
    """The driftless density on (0, 1) from 1/2 at the lower end, by either series at full length."""
    s = np.asarray(s, np.float64)[..., None]
    k, j = np.arange(-terms, terms + 1), np.arange(1, terms + 1)
    images = (0.5 + 2 * k) / np.sqrt(2 * np.pi * s**3) * np.exp(-((0.5 + 2 * k) ** 2) / (2 * s))
    waves = np.pi * j * np.exp(-(j**2) * np.pi**2 * s / 2) * np.sin(j * np.pi / 2)
    return images.sum(-1), waves.sum(-1)


def integrate(function, low, high, panels=60):
    """By Gauss and Legendre, on panels even in log time."""
    edges = np.linspace(np.log(low), np.log(high), panels + 1)
    width = edges[1] - edges[0]
    y = edges[:-1, None] + (NODES + 1) * width / 2
    return np.sum(function(np.exp(y)) * np.exp(y) @ WEIGHTS) * width / 2


@pytest.mark.parametrize("double", [False, True])
def test_density_is_that_of_the_long_series(double):
    s = np.geomspace(0.004, 4, 400)
    images, waves = series(s)
    np.testing.assert_allclose(images[200:300], waves[200:300], rtol=1e-10)  # of the references themselves
    expected = np.log(np.where(s < 0.3, images, waves))
    with jax.enable_x64(double):
        got = jax.jit(log_density)(jnp.asarray(s), 1, 0.0, 1.0, 0.0)
        assert got.dtype == (np.float64 if double else np.float32)
    tolerance = 3e-15 if double else 3e-7
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


def test_one_term_would_not_do():
    """The bound on the error is nearly reached where the two series meet: it is no larger than it must be."""
    s = 1 / (2 * math.pi)
    full = series(s)[0]
    for terms in (1, 2, 3):
        q = j = np.arange(terms)
        part = np.sum((-1) ** j * (2 * j + 1) * np.exp(-j * (j + 1) / 2 / s))
        part *= math.exp(-1 / (8 * s)) / math.sqrt(8 * math.pi * s**3)
        bound = (2 * terms + 1) * math.exp(-math.pi * terms * (terms + 1))
        assert len(q) == terms and abs(part / full - 1) < 1.01 * bound + 1e-15
        assert terms == 3 or abs(part / full - 1) > 0.9 * bound


@pytest.mark.parametrize(("v", "a", "t0"), SUBJECTS)
def test_density_integrates_to_one_and_to_the_probability_of_the_choice(v, a, t0):
    with jax.enable_x64(True):

        def mass(choice, power=0):
            def function(t):
                return t**power * np.exp(log_f(jnp.asarray(t + t0), choice, v, a, t0))

            return integrate(function, 1e-4 * a**2, 20 * a**2)

        upper, lower = mass(1), mass(0)
        assert upper + lower == pytest.approx(1, abs=1e-12)
        assert upper == pytest.approx(1 / (1 + math.exp(-v * a)), abs=1e-12)
        assert v == 0 or lower != pytest.approx(1 / (1 + math.exp(-v * a)), abs=0.1)
        mean = math.tanh(v * a / 2) * a / (2 * v) if v else a**2 / 4
        assert mass(1, 1) + mass(0, 1) == pytest.approx(mean, rel=1e-12)


def test_gradients():
    def total(time, v, a, t0):
        return log_density(time, 1, v, a, t0) + log_density(time, 0, v, a, t0)

    slopes = jax.jit(jax.vmap(jax.grad(total, (0, 1, 2, 3))))
    grid = np.meshgrid([0.2001, 0.25, 0.5, 3.0, 60.0], [-8.0, 0.0, 0.5, 8.0], [0.1, 0.5, 1.5, 6.0], [0.2])
    points = [jnp.asarray(np.ravel(values), jnp.float32) for values in grid]
    assert all(np.isfinite(slope).all() for slope in slopes(*points))
    with jax.enable_x64(True):
        for time in (0.33, 0.9):  # of the small and of the large times
            at = np.array([time, 1.0, 1.5, 0.25])
            exact = jax.jit(jax.grad(total, (0, 1, 2, 3)))(*map(jnp.asarray, at))
            for i, slope in enumerate(exact):
                step = 1e-6 * np.eye(4)[i]
                numeric = (total(*(at + step)) - total(*(at - step))) / 2e-6
                assert slope == pytest.approx(float(numeric), rel=1e-6, abs=1e-8)


def test_no_reaction_before_the_non_decision_time():
    value, slope = jax.value_and_grad(log_density, (0, 2, 3, 4))(0.2, 1.0, 1.0, 1.5, 0.2)
    assert value == -jnp.inf and not np.any(slope)


@pytest.mark.parametrize("mu", [0.0, 0.4, 3.0, 30.0, 1000.0])
def test_decision_times_are_the_quantiles_of_the_density(mu):
    scores = np.linspace(-6.5, 6.5, 53)
    with jax.enable_x64(True):
        t = np.asarray(quantile(jnp.asarray(scores), mu, 1.0))

        def exit_density(t):
            lower, upper = (log_f(jnp.asarray(t), choice, mu, 1.0, 0.0) for choice in (0, 1))
            return np.exp(jnp.logaddexp(lower, upper))

        wide = (t[-1] / t[0]) ** 0.25
        bounds = [t[0] / wide, *t, t[-1] * wide]
        masses = np.array([integrate(exit_density, *pair, panels=12) for pair in itertools.pairwise(bounds)])
        slope = jax.jit(jax.vmap(jax.grad(decision_time), (0, None, None)))(jnp.asarray(scores), mu, 1.0)
        slope, density = np.asarray(slope), np.asarray(exit_density(t))
    below, above = masses[:-1].cumsum(), masses[:0:-1].cumsum()[::-1]
    reached = np.where(scores < 0, stats.norm.ppf(below), stats.norm.isf(above))
    error = (reached - scores) * slope / t  # what is wrong in a score, as a share of the time
    assert np.abs(error).max() < 1e-6
    np.testing.assert_allclose(density * slope, stats.norm.pdf(scores), rtol=1e-4)
    single = quantile(scores.astype(np.float32), mu, 1.0)
    np.testing.assert_allclose(single, t, rtol=3e-6)


def test_decision_times_have_gradients_in_drift_and_boundary():
    score = jnp.array([-6.7, -2.0, 0.0, 2.0, 6.7])
    time = jax.vmap(jax.value_and_grad(decision_time, (0, 1, 2)), (0, None, None))
    t, (_, by_v, by_a) = jax.jit(time)(score, 0.0, 1.5)
    assert np.isfinite(by_v).all() and np.abs(by_v).max() < 1e-6  # even in v
    np.testing.assert_allclose(by_a, 2 * t / 1.5, rtol=1e-5)  # of dimension a^2
    up, down = (quantile(score, 1.0 + h, 1.5) for h in (1e-2, -1e-2))
    by_v = jax.jit(time)(score, 1.0, 1.5)[1][1]
    np.testing.assert_allclose(by_v, (up - down) / 2e-2, rtol=2e-3)
    assert quantile(jnp.array(50.0), 1.0, 1.5) == quantile(jnp.array(6.7), 1.0, 1.5)  # clipped


def locals_of(v, a, t0, *more):
    """Globals without spread: every subject has these locals."""
    return jnp.array([v, math.log(a), math.log(t0), -np.inf, -np.inf, -np.inf, *more])


def score_of(time, v, a):
    """The standard normal score of decision times, by interpolation."""
    scores = np.linspace(-6.6, 6.6, 4001)
    return np.interp(np.log(time), np.log(quantile(jnp.asarray(scores), v, a)), scores)


@pytest.mark.parametrize(("v", "a", "t0"), SUBJECTS)
def test_simulator_draws_from_the_density(v, a, t0):
    simulator = DriftDiffusion(trials=40_000)
    _, x = simulate(simulator, KEY, locals_of(v, a, t0)[None])
    time, choice = np.asarray(x[0], np.float64).T
    assert within(choice, 1 / (1 + math.exp(-v * a)))
    edges = np.geomspace(1e-3, 40, 3001) * a**2
    middle = (edges[1:] + edges[:-1]) / 2

    def cdf(t, a=a):
        density = sum(np.exp(log_f(middle + t0, c, v, a, t0)) for c in (0, 1))
        return np.interp(t, edges + t0, np.append(0, np.cumsum(density * np.diff(edges))))

    assert stats.kstest(time, cdf).pvalue > 1e-3
    assert stats.kstest(time, partial(cdf, a=1.02 * a)).pvalue < 1e-3  # the test can fail
    for side in (0, 1):  # the same times for either choice
        if (choice == side).sum() > 100:
            assert stats.kstest(time[choice == side], cdf).pvalue > 1e-3


def test_locals_and_trials_of_subjects():
    beta = SIMULATOR.prior.mean
    z, x = simulate(SIMULATOR, KEY, jnp.tile(beta, (20_000, 1)))
    assert z.shape == (20_000, 3) and x.shape == (20_000, 30, 2) and x.dtype == jnp.float32
    assert within(z, beta[:3]) and within((z - beta[:3]) ** 2, np.exp(2 * beta[3:]))
    assert np.all(x[..., 0] > np.exp(z[:, None, 2])) and set(np.unique(x[..., 1])) == {0.0, 1.0}
    assert DriftDiffusion() == SIMULATOR and hash(SIMULATOR) == hash(DriftDiffusion())
    median = jax.jit(SIMULATOR.model.generate)(jnp.zeros(63), beta, None)[1]  # noise-free
    v, a, t0 = beta[0], math.exp(beta[1]), math.exp(beta[2])
    np.testing.assert_allclose(median[:, 0], t0 + quantile(jnp.zeros(30), v, a), rtol=1e-6)
    with jax.enable_x64(True):
        double = jax.jit(SIMULATOR.model.generate)(jnp.zeros(63), jnp.asarray(beta, jnp.float64), None)[1]
        assert double.dtype == jnp.float64
    np.testing.assert_allclose(double, median, rtol=2e-6)


def test_steps_agree_with_the_exact_draws_where_nothing_collapses():
    def scores(steps, rate, v=1.0, a=1.35, t0=1e-9):
        simulator = DriftDiffusion(trials=20_000, collapsing=True, steps=steps)
        _, x = simulate(simulator, KEY, locals_of(v, a, t0, rate)[None])
        return score_of(np.asarray(x[0, :, 0]), v, a), x[0, :, 1]

    still, choice = scores(100, -np.inf)
    assert stats.kstest(still, "norm").pvalue > 1e-3
    assert within(choice, 1 / (1 + math.exp(-1.35)))
    quicker, less_sure = scores(100, math.log(0.5))
    assert stats.kstest(quicker, "norm").pvalue < 1e-6 and quicker.mean() < -0.05
    assert not within(less_sure, 1 / (1 + math.exp(-1.35)))  # narrower boundaries: more errors
    assert stats.kstest(scores(12, -np.inf)[0], "norm").pvalue < 1e-3  # too few steps are noticed


def test_every_trial_ends_at_the_horizon():
    simulator = DriftDiffusion(trials=1000, collapsing=True, steps=50, horizon=0.5)
    _, x = simulate(simulator, KEY, locals_of(1.0, 3.0, 0.2, -np.inf)[None])
    late = x[0, :, 0] == x[0, :, 0].max()
    assert x[0, :, 0].max() == pytest.approx(0.7) and 0.5 < late.mean() < 1
    assert within(x[0, late, 1], 0.75, tolerance=0.1)


@pytest.fixture(scope="module")
def subjects():
    """Subjects from the prior: globals, locals, data."""
    beta = SIMULATOR.model.sample_prior(jax.random.key(4), (150,))
    return beta, *simulate(SIMULATOR, jax.random.key(3), beta)


def brute_force(x, beta, size=50):
    """Moments and evidence on a plain grid of v, log a and t0, in float64 and other coordinates."""
    x, beta = np.asarray(x, np.float64), np.asarray(beta, np.float64)
    quickest, spread = x[:, 0].min(), np.exp(beta[3:])
    v = beta[0] + spread[0] * np.linspace(-6, 6, size)
    log_a = beta[1] + spread[1] * np.linspace(-6, 6, size)
    t0 = quickest * (np.arange(2 * size) + 0.5) / (2 * size)
    v, log_a, t0 = np.meshgrid(v, log_a, t0, indexing="ij")
    log_p = stats.norm.logpdf(v, beta[0], spread[0]) + stats.norm.logpdf(log_a, beta[1], spread[1])
    log_p += stats.norm.logpdf(np.log(t0), beta[2], spread[2]) - np.log(t0)
    for time, choice in x:
        s = (time - t0) / np.exp(2 * log_a)
        log_p += (choice - 0.5) * v * np.exp(log_a) - v**2 * (time - t0) / 2 - 2 * log_a
        small = (
            -0.5 * np.log(8 * np.pi * s**3) - 1 / (8 * s) + np.log1p(5 * np.exp(-3 / s) - 3 * np.exp(-1 / s))
        )
        w = np.exp(-4 * np.pi**2 * s)
        large = np.log(np.pi) - np.pi**2 * s / 2 + np.log1p(5 * w**3 - 3 * w)
        log_p += np.where(s < 0.16, small, large)
    weight = np.exp(log_p - log_p.max())
    cell = (12 / (size - 1)) ** 2 * spread[0] * spread[1] * quickest / (2 * size)
    evidence = math.log(weight.sum() * cell) + log_p.max()
    z = np.stack([v, log_a, np.log(t0)]).reshape(3, -1)
    weight = weight.ravel() / weight.sum()
    mean = z @ weight
    return mean, np.sqrt((z - mean[:, None]) ** 2 @ weight), evidence


@pytest.mark.parametrize("number", [0, 1])
def test_locals_agree_with_brute_force(subjects, number):
    beta, _, x = (rows[number] for rows in subjects)
    with np.errstate(all="ignore"):
        mean, sd, evidence = brute_force(x, beta)
    posterior = SIMULATOR.exact_local(x, beta, size=17)
    assert np.abs((posterior.mean - mean) / sd).max() < 3e-3
    np.testing.assert_allclose(jnp.diagonal(posterior.covariance) ** 0.5, sd, rtol=3e-3)
    assert posterior.log_evidence == pytest.approx(evidence, abs=3e-3)


def test_locals_are_calibrated(subjects):
    """The distribution functions at the true locals are uniform over draws from the joint distribution."""

    @jax.jit
    def level(row):
        beta, z, x = row
        posterior = SIMULATOR.exact_local(x, beta, size=17)
        return posterior.cdf(z), posterior.cdf(z + jnp.array([0.2, 0.1, 0.1])), posterior.edge

    right, wrong, edges = jax.lax.map(level, subjects, batch_size=25)
    assert edges.max() < 1e-4
    assert all(stats.kstest(np.asarray(column), "uniform").pvalue > 1e-3 for column in right.T)
    assert all(stats.kstest(np.asarray(column), "uniform").pvalue < 1e-3 for column in wrong.T)


def test_draws_and_distribution_functions_of_locals(subjects):
    beta, _, x = (rows[5] for rows in subjects)
    posterior = SIMULATOR.exact_local(x, beta, size=17)
    draws = posterior.sample(KEY, 20_000)
    assert within(draws, posterior.mean) and within(
        (draws - posterior.mean) ** 2, posterior.covariance.diagonal()
    )
    levels = jax.jit(jax.vmap(posterior.cdf))(draws[:1000])
    assert all(stats.kstest(np.asarray(column), "uniform").pvalue > 1e-3 for column in levels.T)
    ends = posterior.cdf(jnp.array([-50.0, -50.0, -50.0])), posterior.cdf(jnp.array([50.0, 50.0, 50.0]))
    np.testing.assert_allclose(ends, [[0, 0, 0], [1, 1, 1]], atol=1e-4)
    with jax.enable_x64(True):
        double = SIMULATOR.exact_local(jnp.asarray(x, jnp.float64), jnp.asarray(beta, jnp.float64), size=17)
        mean = np.asarray(double.mean)
        assert mean.dtype == np.float64
    np.testing.assert_allclose(double.log_evidence, posterior.log_evidence, atol=2e-4)
    np.testing.assert_allclose(mean, posterior.mean, atol=2e-3)


def test_locals_agree_with_nuts():
    beta = SIMULATOR.prior.mean + 0.3
    _, x = simulate(SIMULATOR, jax.random.key(5), jnp.stack([beta, beta]))
    known = condition(SIMULATOR.hierarchy, {"beta": beta})
    chain = MCMC(NUTS(known), num_warmup=200, num_samples=600, progress_bar=False)
    chain.run(KEY, x)
    draws = chain.get_samples()["z"][::2]
    posteriors = [SIMULATOR.exact_local(subject, beta, size=17) for subject in x]
    same, other = (
        [
            min(stats.kstest(np.asarray(c), "uniform").pvalue for c in jax.vmap(p.cdf)(draws[:, n]).T)
            for n, p in enumerate(order)
        ]
        for order in (posteriors, posteriors[::-1])
    )
    assert min(same) > 1e-3 and max(other) < 1e-6


def test_hierarchy_is_the_joint_density(subjects):
    """At points of the grid it is prior times evidence times the local posterior, by another way."""
    beta, _, x = (rows[7] for rows in subjects)
    posterior = SIMULATOR.exact_local(x, beta, size=17)
    order = np.argsort(-posterior.probability)[:500:100]
    cell = 12**1.5 * abs(np.linalg.det(np.asarray(posterior.jitter, np.float64)))
    for i in order:
        u, share = posterior.points[i], jax.nn.sigmoid(posterior.points[i, 2])
        noise = (u[:2] - beta[:2]) / jnp.exp(beta[3:5])
        sites = {"beta": beta, "noise": noise[None], "share": share[None]}
        got, _ = log_joint(SIMULATOR.hierarchy, (x[None],), {}, sites)
        local = math.log(posterior.probability[i] / cell) + beta[3] + beta[4] - jnp.log(share * (1 - share))
        expected = SIMULATOR.prior.log_prob(beta) + posterior.log_evidence + local
        assert got == pytest.approx(float(expected), abs=5e-3)


def test_features_of_a_subject():
    time, choice = np.exp([0.0, 1.0, 2.0, 3.0]), np.array([1.0, 0.0, 1.0, 1.0])
    values = jax.jit(subject_features)(jnp.stack([time, choice], 1))
    middle = np.quantile([0, 1, 2, 3], [0, 0.1, 0.3, 0.5, 0.7, 0.9])
    expected = [math.log(3.5 / 1.5), 1.5, math.log(1.25), 5 / 3.5 - 1 / 1.5, *middle]
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    same = jax.vmap(subject_features)(jnp.ones((2, 5, 2)))  # of equal times and choices
    assert same.shape == (2, 10) and np.isfinite(same).all()


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_lowers_for_accelerators(platform):
    jax.export.export(jax.jit(decision_time), platforms=[platform])(jnp.zeros(3), 1.0, 1.0)


MEAN, X = SIMULATOR.prior.mean, jnp.full((30, 2), 0.5)
COLLAPSING = DriftDiffusion(collapsing=True)
CALLS = {
    "no trials": (lambda: DriftDiffusion(trials=0), "trials: expected a positive integer, got 0"),
    "half a step": (lambda: DriftDiffusion(steps=0.5), "steps: expected a positive integer, got 0.5"),
    "no end": (lambda: DriftDiffusion(horizon=math.inf), "horizon: expected a positive number, got inf"),
    "a prior of numbers": (
        lambda: DriftDiffusion(prior=dist.Normal(MEAN, 1.0)),
        r"prior: expected event shape \(6,\), got \(\); see to_event",
    ),
    "no rate of collapse": (
        lambda: DriftDiffusion(collapsing=True, prior=SIMULATOR.prior),
        r"prior: expected event shape \(7,\), got \(6,\)",
    ),
    "a collapse in beta alone": (
        lambda: SIMULATOR.model.simulate_batch(KEY, jnp.zeros((2, 7))),
        r"beta: expected shape \(6,\), got \(7,\)",
    ),
    "density of a collapse": (
        lambda: COLLAPSING.log_likelihood(X, jnp.zeros(3)),
        "collapsing: without a density",
    ),
    "locals of a collapse": (lambda: COLLAPSING.exact_local(X, MEAN), "collapsing: without a density"),
    "hierarchy of a collapse": (lambda: COLLAPSING.hierarchy(X[None]), "collapsing: without a density"),
    "x of other trials": (
        lambda: SIMULATOR.exact_local(X[:5], MEAN),
        r"x: expected shape \(30, 2\), got \(5, 2\)",
    ),
    "many z": (
        lambda: SIMULATOR.log_likelihood(X, jnp.zeros((4, 3))),
        r"z: expected shape \(3,\), got \(4, 3\)",
    ),
    "times of zero": (
        lambda: SIMULATOR.exact_local(0 * X, MEAN, size=17),
        "x: .* of the probability lies at the grid",
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_wrong_calls(call):
    function, message = CALLS[call]
    with pytest.raises(ValueError, match=message):
        function()
