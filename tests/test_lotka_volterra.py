"""The Lotka-Volterra simulator against its own density, theory and a plain NumPy twin."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from himlib.datasets import hare_lynx
from himlib.simulators import lotka_volterra
from himlib.simulators.lotka_volterra import INITIAL, TRUE_BETA, LotkaVolterra, transitions

KEY = jax.random.key(7)
BETA = jnp.array(TRUE_BETA)
START = jnp.array(INITIAL)
SIMULATORS = {
    "additive": (LotkaVolterra(), BETA),
    "multiplicative": (LotkaVolterra(noise="multiplicative", noise_variance=0.3), BETA),
    "additive, noise inferred": (LotkaVolterra(infer_noise=True), jnp.append(BETA, 0.5 * math.log(10.0))),
    "multiplicative, noise inferred": (
        LotkaVolterra(noise="multiplicative", infer_noise=True),
        jnp.append(BETA, 0.5 * math.log(0.3)),
    ),
}
TWO = ["additive", "multiplicative, noise inferred"]


@pytest.fixture(params=TWO)
def simulator_and_beta(request):
    return SIMULATORS[request.param]


def one_step(x, rates, h, noise, sd, kind):
    """The scheme in NumPy and float64, one record with one inner step."""
    prey = x[..., 0] * np.exp(h * (rates[0] - rates[1] * x[..., 1]))
    predators = x[..., 1] * np.exp(h * (rates[3] * prey - rates[2]))
    m = np.stack([prey, predators], -1)
    return np.abs(m + sd * noise) if kind == "additive" else m * np.exp(sd * noise)


def agree(left, right, sigmas=4.5):
    """Whether two samples (size, ...) agree in mean and variance, in standard errors."""
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    for transform in (lambda x, _: x, lambda x, center: (x - center) ** 2):
        a, b = transform(left, left.mean(0)), transform(right, left.mean(0))
        error = np.sqrt(a.var(0) / len(a) + b.var(0) / len(b))
        assert np.all(np.abs(a.mean(0) - b.mean(0)) < sigmas * error)


def coarsen(noise, steps):
    """Standard normals of ``steps`` inner steps along the Brownian path of more of them."""
    return noise.reshape(steps, -1, 2).sum(1) / math.sqrt(len(noise) / steps)


@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize("name", TWO)
def test_generate_is_the_scheme(name, inner_steps):
    simulator, beta = SIMULATORS[name]
    simulator = LotkaVolterra(
        inner_steps=inner_steps,
        noise=simulator.noise,
        noise_variance=simulator.noise_variance,
        infer_noise=simulator.infer_noise,
    )
    noise = np.random.default_rng(0).normal(size=(inner_steps, 2))
    sd = math.sqrt((10.0 if simulator.noise == "additive" else 0.3) * 0.2 / inner_steps)
    x, mean = np.array(INITIAL), np.array(INITIAL)
    for row in noise:
        x = one_step(x, np.exp(TRUE_BETA), 0.2 / inner_steps, row, sd, simulator.noise)
        mean = one_step(mean, np.exp(TRUE_BETA), 0.2 / inner_steps, 0.0, 0.0, "additive")
    z, generated = simulator.model.generate(jnp.asarray(noise, jnp.float32), beta, START)
    assert z is None and simulator.model.noise_shape == (inner_steps, 2)
    np.testing.assert_allclose(generated, x, rtol=1e-5)
    np.testing.assert_allclose(simulator.mean(START, beta), mean, rtol=1e-5)


def test_reflection_caps_and_clipped_exponents():
    simulator = LotkaVolterra()
    _, x = simulator.model.generate(jnp.full((1, 2), -10.0), BETA, jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(x, 10 * math.sqrt(2) - simulator.mean(jnp.array([1.0, 2.0]), BETA), rtol=1e-5)
    highest, lowest = lotka_volterra.HIGHEST, lotka_volterra.LOWEST
    assert simulator.mean(jnp.array([9.9e3, 1.0]), BETA)[0] == highest
    assert simulator.mean(jnp.array([0.0, 0.0]), BETA).tolist() == pytest.approx([lowest, lowest])
    # 10,000 predators would divide the prey by exp(20) in one step: the exponent stops at 5.
    assert simulator.mean(jnp.array([100.0, 1e4]), BETA)[0] == pytest.approx(100 * math.exp(-5), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "start"), zip(SIMULATORS, [(3.0, 2.0), (3.0, 2.0), INITIAL, INITIAL], strict=True)
)
def test_density_integrates_to_one_and_is_the_simulators(name, start):
    simulator, beta = SIMULATORS[name]
    start, size = jnp.array(start), 100_000
    _, x = simulator.model.simulate_batch(KEY, jnp.tile(beta, (size, 1)), jnp.tile(start, (size, 1)))
    low, high = 0.999 * np.asarray(x.min(0)), 1.001 * np.asarray(x.max(0))
    low = np.zeros(2) if simulator.noise == "additive" else 0.5 * low
    axes = [np.linspace(a, b + (b - a) / 4, 1601) for a, b in zip(low, high, strict=True)]
    middles = [(axis[1:] + axis[:-1]) / 2 for axis in axes]
    grid = jnp.asarray(np.stack(np.meshgrid(*middles, indexing="ij"), -1).reshape(-1, 2), jnp.float32)
    log_prob = jax.jit(jax.vmap(simulator.transition_log_prob, (0, None, None)))(grid, start, beta)
    mass = np.exp(np.asarray(log_prob, np.float64)).reshape(1600, 1600)
    mass *= np.prod([axis[1] - axis[0] for axis in axes])
    assert mass.sum() == pytest.approx(1.0, abs=2e-4)
    coarse = mass.reshape(40, 40, 40, 40).sum((1, 3))
    counts, *_ = np.histogram2d(*np.asarray(x).T, bins=[axis[::40] for axis in axes])
    expected = size * coarse
    filled = expected > 5
    score = np.sum((counts - expected)[filled] ** 2 / expected[filled])
    assert stats.chi2.sf(score, filled.sum() - 1) > 1e-4


def test_linear_noise_is_exact_with_one_inner_step(simulator_and_beta):
    simulator, beta = simulator_and_beta
    start = jnp.tile(jnp.array([INITIAL, (3.0, 2.0)]), (50, 1))
    _, x = simulator.model.simulate_batch(KEY, jnp.tile(beta, (100, 1)), start)
    densities = (simulator.transition_log_prob, simulator.linear_noise_log_prob)
    exact, linear = (jax.jit(jax.vmap(density, (0, 0, None)))(x, start, beta) for density in densities)
    np.testing.assert_allclose(linear, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("noise", "variance"), [("additive", 1.0), ("multiplicative", 0.01)])
def test_linear_noise_with_many_inner_steps(noise, variance):
    simulator = LotkaVolterra(inner_steps=10, noise=noise, noise_variance=variance)
    size = 50_000
    _, x = simulator.model.simulate_batch(KEY, jnp.tile(BETA, (size, 1)), jnp.tile(START, (size, 1)))
    y = np.asarray(x if noise == "additive" else jnp.log(x), np.float64)
    # Its mean log density is the negative entropy of the normal with the simulator's covariance.
    log_prob = jax.jit(jax.vmap(simulator.linear_noise_log_prob, (0, None, None)))(x, START, BETA)
    entropy = 1 + math.log(2 * math.pi) + np.linalg.slogdet(np.cov(y.T))[1] / 2
    jacobian = 0.0 if noise == "additive" else y.sum(1).mean()
    assert np.mean(log_prob) + jacobian == pytest.approx(-entropy, abs=5 / math.sqrt(size))


@pytest.mark.parametrize(("noise", "variance"), [("additive", 10.0), ("multiplicative", 0.1)])
def test_strong_order_is_one(noise, variance):
    path = jax.random.normal(KEY, (200, 512, 2))

    def final(steps):
        simulator = LotkaVolterra(interval=0.4, inner_steps=steps, noise=noise, noise_variance=variance)
        generate = simulator.model.generate
        return jax.jit(jax.vmap(lambda noise: generate(coarsen(noise, steps), BETA, START)[1]))(path)

    steps, reference = np.array([2, 8, 32]), final(512)
    errors = [float(jnp.mean(jnp.linalg.norm(final(n) - reference, axis=1))) for n in steps.tolist()]
    assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize("name", TWO)
def test_series_are_repeated_transitions(name, inner_steps):
    simulator, beta = SIMULATORS[name]
    simulator = LotkaVolterra(
        inner_steps=inner_steps, noise=simulator.noise, infer_noise=simulator.infer_noise
    )
    size, steps = 10_000, 4
    series = simulator.simulate_series(KEY, beta, START, steps, size)
    x = jnp.tile(START, (size, 1))
    for i, key in enumerate(jax.random.split(jax.random.key(8), steps)):
        _, x = jax.jit(simulator.model.simulate_batch)(key, jnp.tile(beta, (size, 1)), x)
        agree(series[:, i], x)
    # The two noises of a record, and of two records in a row, are independent.
    first = np.asarray(jnp.log(series[:, 0]), np.float64)
    mean = jax.vmap(simulator.mean, (0, None))(series[:, 0], beta)
    residual = np.asarray(series[:, 1] / mean, np.float64)
    correlations = np.corrcoef(np.hstack([first, residual]).T)[:2, 2:]
    if inner_steps == 1:
        assert abs(np.corrcoef(first.T)[0, 1]) < 4.5 / math.sqrt(size)
        assert simulator.noise == "additive" or np.abs(correlations).max() < 4.5 / math.sqrt(size)


def test_series_agree_with_numpy():
    size, steps = 20_000, 20
    series = LotkaVolterra().simulate_series(KEY, BETA, INITIAL, steps, size)
    generator, x = np.random.default_rng(1), np.tile(INITIAL, (size, 1))
    for _ in range(steps):
        x = one_step(
            x, np.exp(TRUE_BETA), 0.2, generator.standard_normal((size, 2)), math.sqrt(2.0), "additive"
        )
    agree(series[:, -1], x)
    agree(series[:, -1].prod(1), x.prod(1))


@pytest.mark.parametrize("size", [None, 1, 3, lotka_volterra.LANES, 2 * lotka_volterra.LANES + 1])
def test_sizes(size):
    simulator = LotkaVolterra()
    series = simulator.simulate_series(KEY, BETA, INITIAL, 5, size)
    assert series.shape == ((5, 2) if size is None else (size, 5, 2)) and series.dtype == jnp.float32
    assert len(np.unique(series.reshape(-1, 10), axis=0)) == (size or 1)  # no two series share their noise
    if size is None:
        np.testing.assert_array_equal(series, simulator.simulate_series(KEY, BETA, INITIAL, 5, 1)[0])


def test_each_series_has_its_own_rates_and_start():
    simulator, size = LotkaVolterra(noise_variance=1e-8), 2 * lotka_volterra.LANES + 5
    beta = simulator.model.sample_prior(KEY, (size,))
    initial = jax.random.uniform(KEY, (size, 2), minval=20.0, maxval=90.0)
    series = simulator.simulate_series(KEY, beta, initial, 1, size)
    np.testing.assert_allclose(series[:, 0], jax.vmap(simulator.mean)(initial, beta), rtol=1e-4, atol=1e-2)


def test_accelerators_get_the_same_numbers(monkeypatch):
    expected = LotkaVolterra().simulate_series(KEY, BETA, INITIAL, 3, 900)
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *arrays, cpu, default: default(*arrays))
    series = LotkaVolterra._simulate.__wrapped__(LotkaVolterra(), KEY, BETA, START, 3, 900)
    np.testing.assert_allclose(series, expected, rtol=1e-5)


@pytest.mark.parametrize(("platform", "at_once"), [("cpu", False), ("cuda", True), ("tpu", True)])
def test_blocks_are_side_by_side_where_the_arrays_are_on_an_accelerator(platform, at_once, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu" if platform == "cpu" else "cpu")
    traced = jax.jit(lambda key: LotkaVolterra().simulate_series(key, BETA, START, 5, 900)).trace(KEY)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("tensor<3x5x1x2x400xf32>" in text) == at_once  # the noise of three blocks, or of one


def test_prior_predictive_is_positive_and_does_not_explode():
    for simulator in (SIMULATORS[name][0] for name in TWO):
        beta = simulator.model.sample_prior(KEY, (2000,))
        series = np.asarray(simulator.simulate_series(KEY, beta, INITIAL, 150, 2000))
        assert np.all(np.isfinite(series)) and np.all(series > 0)
        if simulator == LotkaVolterra():
            assert np.mean(series.max((1, 2)) > 9e3) < 2e-3
    # At the truth few records are near zero: the reflection is an exception and not the rule.
    series = LotkaVolterra().simulate_series(KEY, BETA, INITIAL, 150, 2000)
    assert np.mean(series[..., 0] < 4) < 0.06 and series.max() < 3e3


def test_gradients_are_finite_everywhere(simulator_and_beta):
    simulator, beta = simulator_and_beta
    least = 0.0 if simulator.noise == "additive" else 1e-6
    starts = jnp.maximum(jnp.array([(1e4, 1e4), (0, 0), (1e-6, 1e4), (1e4, 1e-6), INITIAL]), least)
    shifts = jnp.array([0.0, -12.0, 6.0])
    x = jnp.repeat(starts, len(shifts), 0)
    betas = jnp.tile(beta, (len(x), 1)).at[:, :4].add(jnp.tile(shifts, len(starts))[:, None])

    def generate(beta, x):
        return simulator.model.generate(jnp.full((1, 2), 0.5), beta, x)[1]

    def gradients(beta, x):
        densities = (simulator.transition_log_prob, simulator.linear_noise_log_prob)
        return jax.jacrev(generate, (0, 1))(beta, x), [
            jax.grad(f, (0, 1, 2))(START, x, beta) for f in densities
        ]

    for gradient in jax.tree.leaves(jax.jit(jax.vmap(gradients))(betas, x)):
        assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize("name", TWO)
def test_gradients_are_finite_differences(name, inner_steps):
    simulator, beta = SIMULATORS[name]
    simulator = LotkaVolterra(
        inner_steps=inner_steps, noise=simulator.noise, infer_noise=simulator.infer_noise
    )
    density = simulator.transition_log_prob if inner_steps == 1 else simulator.linear_noise_log_prob
    with jax.enable_x64(True):
        beta, x, x_next = (jnp.asarray(v, jnp.float64) for v in (beta, INITIAL, (111.0, 55.0)))
        noise = jnp.ones((inner_steps, 2), jnp.float64)
        for function in (
            lambda b: density(x_next, x, b),
            lambda b: simulator.model.generate(noise, b, x)[1].sum(),
        ):
            function = jax.jit(function)
            steps = 1e-5 * np.eye(len(beta))
            differences = [(function(beta + step) - function(beta - step)) / 2e-5 for step in steps]
            np.testing.assert_allclose(jax.grad(function)(beta), differences, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TWO)
def test_float64_agrees_with_float32(name):
    simulator, beta = SIMULATORS[name]
    covariate, x = transitions(simulator.simulate_series(KEY, beta, INITIAL, 30), INITIAL)
    for density in (simulator.transition_log_prob, simulator.linear_noise_log_prob):
        lifted = jax.jit(jax.vmap(density, (0, 0, None)))
        single = lifted(x, covariate, beta)
        with jax.enable_x64(True):
            wide = [jnp.asarray(v, jnp.float64) for v in (x, covariate, beta)]
            double = lifted(*wide)
        assert double.dtype == np.float64
        np.testing.assert_allclose(single, double, rtol=2e-3, atol=2e-3)
    with jax.enable_x64(True):
        assert jax.jit(simulator.linear_noise_log_prob)(wide[0][3], covariate[3], beta).dtype == np.float64
        series = simulator.simulate_series(KEY, jnp.asarray(beta, jnp.float64), INITIAL, 30, 2)
    assert series.dtype == np.float64 and np.all(np.isfinite(series))


def test_simulating_under_vmap_and_jit():
    simulator, keys = LotkaVolterra(inner_steps=2), jax.random.split(KEY, 3)

    def simulate(key):
        return simulator.simulate_series(key, BETA, START, 6)

    expected = jnp.stack([simulate(key) for key in keys])
    np.testing.assert_allclose(jax.vmap(simulate)(keys), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.vmap(simulate))(keys), expected, rtol=1e-5)


def test_equal_simulators_compile_once():
    LotkaVolterra().simulate_series(KEY, BETA, INITIAL, 7)
    compiled = LotkaVolterra._simulate._cache_size()
    assert LotkaVolterra() == LotkaVolterra() and hash(LotkaVolterra()) == hash(LotkaVolterra())
    LotkaVolterra().simulate_series(jax.random.key(1), BETA + 0.1, INITIAL, 7)
    assert LotkaVolterra._simulate._cache_size() == compiled


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_lowers_for_accelerators(platform):
    simulator = LotkaVolterra(inner_steps=2)

    def run(key):
        covariate, x = transitions(simulator.simulate_series(key, BETA, INITIAL, 3, 500), INITIAL)
        return jax.vmap(simulator.linear_noise_log_prob, (0, 0, None))(x[:9], covariate[:9], BETA)

    jax.export.export(jax.jit(run), platforms=[platform])(KEY)


@pytest.mark.parametrize("name", TWO)
def test_laplace_is_the_exact_posterior(name):
    """Importance sampling from a wider Student's t: the exact posterior, with a standard error."""
    simulator, beta = SIMULATORS[name]
    covariate, x = transitions(simulator.simulate_series(KEY, beta, INITIAL, 150), INITIAL)
    laplace = simulator.laplace(x, covariate)
    proposal = dist.MultivariateStudentT(
        5.0, laplace.mean, 1.2 * jnp.linalg.cholesky(laplace.covariance_matrix)
    )
    draws = proposal.sample(jax.random.key(3), (8000,))

    def log_posterior(beta):
        density = jax.vmap(simulator.transition_log_prob, (0, 0, None))(x, covariate, beta)
        return jnp.sum(density) + simulator.prior.log_prob(beta)

    weights = jax.nn.softmax(jax.lax.map(log_posterior, draws, batch_size=2000) - proposal.log_prob(draws))
    assert 1 / jnp.sum(weights**2) > 4000  # effective draws
    whitened = np.linalg.solve(
        np.linalg.cholesky(laplace.covariance_matrix), np.asarray(draws - laplace.mean).T
    ).T
    mean = np.asarray(weights) @ whitened
    covariance = (whitened - mean).T @ (np.asarray(weights)[:, None] * (whitened - mean))
    # With noise of this size in the log populations, one series leaves the posterior a little skewed.
    assert np.abs(mean).max() < (0.15 if name == "additive" else 0.4)
    np.testing.assert_allclose(np.diag(covariance), 1, atol=0.1 if name == "additive" else 0.3)
    # The truth is where the posterior says it is.
    distance = (beta - laplace.mean) @ laplace.precision_matrix @ (beta - laplace.mean)
    assert stats.chi2.sf(float(distance), len(beta)) > 1e-3


def test_laplace_starts_anywhere_and_in_any_precision():
    simulator = LotkaVolterra()
    covariate, x = transitions(simulator.simulate_series(KEY, BETA, INITIAL, 150), INITIAL)
    reference = simulator.laplace(x, covariate)
    sd = np.sqrt(np.diag(reference.covariance_matrix))
    for start in (BETA, BETA + 0.5, BETA - jnp.array([0.3, 0.5, 0.5, 0.5])):
        np.testing.assert_allclose(
            (simulator.laplace(x, covariate, start).mean - reference.mean) / sd, 0, atol=0.02
        )
    with jax.enable_x64(True):
        double = simulator.laplace(jnp.asarray(x, jnp.float64), jnp.asarray(covariate, jnp.float64))
        assert double.mean.dtype == jnp.float64
        gradient = jax.grad(
            lambda b: (
                jnp.sum(jax.vmap(simulator.transition_log_prob, (0, 0, None))(x, covariate, b))
                + simulator.prior.log_prob(b)
            )
        )(double.mean)
        assert np.abs(gradient * sd).max() < 1e-6
    np.testing.assert_allclose((np.asarray(double.mean) - reference.mean) / sd, 0, atol=0.02)
    np.testing.assert_allclose(double.covariance_matrix, reference.covariance_matrix, rtol=0.02)


def test_laplace_narrows_with_the_data():
    simulator = LotkaVolterra()
    series = simulator.simulate_series(KEY, BETA, INITIAL, 150, 16)
    one, many = (
        simulator.laplace(x, c, BETA)
        for c, x in (transitions(series[:1], INITIAL), transitions(series, INITIAL))
    )
    ratio = np.sqrt(np.diag(one.covariance_matrix) / np.diag(many.covariance_matrix))
    assert np.all((ratio > 3) & (ratio < 5.5))


def test_laplace_with_inner_steps_on_pelts():
    _, pelts = hare_lynx()
    simulator = LotkaVolterra(1.0, 4, 0.1, "multiplicative", infer_noise=True)
    posterior = simulator.laplace(*transitions(pelts[1:], pelts[0])[::-1])
    rates = np.exp(posterior.mean)
    # Carpenter (2018), with noise in the measurement and not in the populations: .55, .028, .80, .024.
    np.testing.assert_allclose(rates[:4], [0.55, 0.028, 0.80, 0.024], rtol=0.35)
    assert 0.1 < rates[4] < 0.6


def test_laplace_says_when_it_fails():
    with pytest.raises(ValueError, match="found no maximum from here; are there missing values"):
        LotkaVolterra().laplace(jnp.full((150, 2), jnp.nan), jnp.ones((150, 2)))


def test_transitions_of_one_and_many_series():
    series = jnp.arange(1.0, 25.0).reshape(2, 2, 3, 2)
    covariate, x = transitions(series, (0.5, 0.25))
    assert covariate.shape == x.shape == (12, 2)
    np.testing.assert_array_equal(covariate[:4], [[0.5, 0.25], [1, 2], [3, 4], [0.5, 0.25]])
    np.testing.assert_array_equal(x, series.reshape(-1, 2))
    own = transitions(series, -series[:, :, 0])[0]
    np.testing.assert_array_equal(own[::3], -series[:, :, 0].reshape(-1, 2))


def test_default_priors():
    assert LotkaVolterra().prior.event_shape == (4,)
    inferred = LotkaVolterra(infer_noise=True, noise_variance=4.0).prior
    np.testing.assert_allclose(inferred.mean, [-0.125, -4, -0.125, -4, math.log(2)], rtol=1e-6)
    assert LotkaVolterra(noise="multiplicative").noise_variance == 0.1
    own = dist.Normal(jnp.zeros(4), 0.1).to_event(1)
    assert LotkaVolterra(prior=own).model.prior is own


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"interval": -0.2}, "interval: expected a positive number, got -0.2"),
        ({"interval": math.inf}, "interval: expected a positive number"),
        ({"noise_variance": 0.0}, "noise_variance: expected a positive number"),
        ({"noise_variance": math.nan}, "noise_variance: expected a positive number"),
        ({"inner_steps": 0}, "inner_steps: expected a positive integer, got 0"),
        ({"inner_steps": 1.5}, "inner_steps: expected a positive integer, got 1.5"),
        ({"noise": "gaussian"}, r"noise: expected one of \['additive', 'multiplicative'\], got 'gaussian'"),
        ({"prior": dist.Normal(0, 1)}, r"prior: expected event shape \(4,\), got \(\)"),
        (
            {"prior": dist.Normal(jnp.zeros(4), 1)},
            r"prior: expected event shape \(4,\), got \(\); see to_event",
        ),
        ({"prior": "normal"}, r"prior: expected event shape \(4,\), got None"),
        (
            {"infer_noise": True, "prior": LotkaVolterra().prior},
            r"prior: expected event shape \(5,\), got \(4,\)",
        ),
    ],
)
def test_wrong_simulators(arguments, message):
    with pytest.raises(ValueError, match=message):
        LotkaVolterra(**arguments)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda s: s.transition_log_prob(START[:1], START, BETA),
            ValueError,
            r"x_next: expected shape \(2,\), got",
        ),
        (
            lambda s: s.transition_log_prob(START, jnp.ones((3, 2)), BETA),
            ValueError,
            r"x: .* got \(3, 2\); jax.vmap",
        ),
        (
            lambda s: s.linear_noise_log_prob(START, START, BETA[:3]),
            ValueError,
            r"beta: expected shape \(4,\), got",
        ),
        (
            lambda s: s.mean(START, jnp.append(BETA, 0.0)),
            ValueError,
            r"beta: expected shape \(4,\), got \(5,\)",
        ),
        (lambda s: s.model.generate(jnp.zeros((1, 2)), BETA, None), ValueError, r"covariate: .* got None"),
        (
            lambda s: s.simulate_series(KEY, BETA, (1.0,), 5),
            ValueError,
            r"initial: expected shape \(2,\), got",
        ),
        (
            lambda s: s.simulate_series(KEY, BETA, INITIAL, 0),
            ValueError,
            "steps, size: expected positive integers",
        ),
        (lambda s: s.simulate_series(KEY, BETA, INITIAL, 5, 0), ValueError, "steps, size: .* got 5 and 0"),
        (
            lambda s: s.simulate_series(KEY, BETA[None], INITIAL, 5, 3),
            ValueError,
            r"expected shape \(4,\) or \(3, 4\)",
        ),
        (
            lambda s: s.simulate_series(0, BETA, INITIAL, 5),
            TypeError,
            "key: expected .*key.0., got int",
        ),
        (
            lambda _: transitions(jnp.ones((5, 3)), INITIAL),
            ValueError,
            r"series: expected shape \(\.\.\., steps, 2\)",
        ),
        (lambda _: transitions(jnp.ones(2), INITIAL), ValueError, "series: expected shape"),
    ],
)
def test_wrong_calls(call, error, message):
    with pytest.raises(error, match=message):
        call(LotkaVolterra())


def test_intractable_transitions_say_so():
    with pytest.raises(ValueError, match="with 10 the transition is intractable; use linear_noise_log_prob"):
        LotkaVolterra(inner_steps=10).transition_log_prob(START, START, BETA)
