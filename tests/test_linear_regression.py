"""Linear regression against scipy and scikit-learn, its own simulator, and LFVI on Edward's task."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression, Ridge

from himlib import Data, FullRankNormal, cosine_adam, lfvi, ratio_network
from himlib.simulators.linear_regression import LinearRegression

RNG = np.random.default_rng(0)
C, X = RNG.normal(size=(7, 3)).astype("float32"), RNG.normal(size=7).astype("float32")


@pytest.fixture(params=[(3, 1.0, 1.0), (3, 2.5, 0.4)], ids=str)
def regression(request):
    return LinearRegression(*request.param)


def test_posterior_is_ridge_regression(regression):
    penalty = (regression.noise_scale / regression.prior_scale) ** 2
    ridge = Ridge(alpha=penalty, fit_intercept=False).fit(C.astype(float), X)
    precision = (C.T.astype(float) @ C + penalty * np.eye(3)) / regression.noise_scale**2
    posterior = regression.posterior(X, C)
    np.testing.assert_allclose(posterior.mean, ridge.coef_, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(posterior.covariance_matrix, np.linalg.inv(precision), rtol=1e-4, atol=1e-6)


def test_evidence_is_the_joint_normal(regression):
    covariance = regression.prior_scale**2 * C @ C.T + regression.noise_scale**2 * np.eye(7)
    expected = stats.multivariate_normal.logpdf(X, np.zeros(7), covariance)
    assert regression.evidence(X, C) == pytest.approx(expected, rel=1e-4)
    assert regression.evidence(X, -C) == pytest.approx(expected, rel=1e-4)  # the prior is symmetric
    assert regression.evidence(X[::-1], C) != pytest.approx(expected, rel=1e-2)


def test_log_likelihood_is_scipys(regression):
    beta = np.array([0.3, -1.0, 0.5], "float32")
    expected = stats.norm.logpdf(X, C @ beta, regression.noise_scale).sum()
    assert regression.log_likelihood(X, C, beta) == pytest.approx(expected, rel=1e-5)


def test_no_data_gives_the_prior(regression):
    posterior = regression.posterior(np.zeros(0), np.zeros((0, 3)))
    np.testing.assert_allclose(posterior.mean, 0)
    np.testing.assert_allclose(posterior.covariance_matrix, regression.prior_scale**2 * np.eye(3), rtol=1e-5)
    assert regression.evidence(np.zeros(0), np.zeros((0, 3))) == pytest.approx(0, abs=1e-5)


def test_simulator_has_the_likelihood(regression):
    beta, size = jnp.array([1.0, -0.5, 0.2]), 20_000
    covariate = jax.random.normal(jax.random.key(0), (size, 3))
    z, x = regression.model.simulate_batch(jax.random.key(1), jnp.tile(beta, (size, 1)), covariate)
    assert z is None and x.shape == (size,)
    residual = np.asarray((x - covariate @ beta) / regression.noise_scale)
    assert stats.kstest(residual, "norm").pvalue > 1e-3
    assert np.abs(residual @ covariate).max() < 4.5 * np.sqrt(size)
    assert stats.kstest(np.asarray(x / regression.noise_scale), "norm").pvalue < 1e-6  # can fail


def test_posterior_is_calibrated():
    regression = LinearRegression(3, 2.5, 0.4)
    # With truths from the prior, the squared Mahalanobis distance to the exact posterior is chi-square.
    k_beta, k_covariate, k_x = jax.random.split(jax.random.key(2), 3)
    beta = regression.model.sample_prior(k_beta, (1000,))
    covariate = jax.random.normal(k_covariate, (1000, 7, 3))
    rows = jnp.repeat(beta, 7, axis=0), covariate.reshape(-1, 3)
    _, x = regression.model.simulate_batch(k_x, *rows)

    def distance(x, covariate, beta):
        posterior = regression.posterior(x, covariate)
        off = beta - posterior.mean
        return off @ posterior.precision_matrix @ off

    distances = np.asarray(jax.vmap(distance)(x.reshape(-1, 7), covariate, beta))
    assert stats.kstest(distances, stats.chi2(3).cdf).pvalue > 1e-3
    assert stats.kstest(1.3 * distances, stats.chi2(3).cdf).pvalue < 1e-3


def test_eager_jit_vmap_and_types():
    regression, beta = LinearRegression(3, 2.5, 0.4), jnp.array([0.3, -1.0, 0.5])

    def answers(x, covariate):
        posterior = regression.posterior(x, covariate)
        log_likelihood = regression.log_likelihood(x, covariate, beta.astype(x.dtype))
        return posterior.mean, posterior.variance, regression.evidence(x, covariate), log_likelihood

    eager = answers(jnp.asarray(X), jnp.asarray(C))
    lifted = jax.jit(jax.vmap(answers))(jnp.stack([X, -X]), jnp.stack([C, -C]))  # the same data twice
    with jax.enable_x64(True):
        double = answers(jnp.asarray(X, jnp.float64), jnp.asarray(C, jnp.float64))
    for one, many, wide in zip(eager, lifted, double, strict=True):
        assert one.dtype == np.float32 and wide.dtype == np.float64
        np.testing.assert_allclose(many, np.stack([one, one]), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one, wide, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_lowers_for_accelerators(platform):
    model = LinearRegression().model
    inputs = jax.random.key(0), jnp.zeros((4, 2)), jnp.zeros((4, 2))
    jax.export.export(jax.jit(model.simulate_batch), platforms=[platform])(*inputs)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LinearRegression(0), "size: expected a positive number of weights, got 0"),
        (lambda: LinearRegression(2.0), "size: expected a positive number of weights, got 2.0"),
        (lambda: LinearRegression(prior_scale=0), "prior_scale: expected a positive standard deviation"),
        (lambda: LinearRegression(noise_scale=float("nan")), "noise_scale: expected a positive standard"),
        (lambda: LinearRegression(2).posterior(X, C), r"expected shapes \(N,\) and \(N, 2\), got \(7,\) and"),
        (lambda: LinearRegression(3).evidence(X[1:], C), "each response needs its own row"),
        (lambda: LinearRegression(3).log_likelihood(X[:, None], C, C[0]), r"got \(7, 1\) and \(7, 3\)"),
    ],
)
def test_wrong_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# LFVI. Edward's task: 2 weights, N = 500 data of noise sd 1, minibatches of 50, 5 steps of r for each of q.

TASK, SEEDS, STEPS = LinearRegression(size=2), jnp.arange(5), 2500


def data_of(seed, size=500):
    k_beta, k_covariate, k_x = jax.random.split(jax.random.key(seed), 3)
    covariate = jax.random.normal(k_covariate, (size, 2))
    beta = jnp.broadcast_to(TASK.model.sample_prior(k_beta), (size, 2))
    return Data(TASK.model.simulate_batch(k_x, beta, covariate)[1], covariate)


def features(x, z, beta, covariate, center):
    return jnp.append(covariate, x - TASK.mean(covariate, beta))


def edwards_algorithm():
    return lfvi(
        TASK.model,
        FullRankNormal(),
        ratio_network(features, (16,), baseline=True),
        ratio_optimizer=cosine_adam(1e-2, 5 * STEPS),
        posterior_optimizer=cosine_adam(2e-2, STEPS),
        ratio_batch=64,
        ratio_steps=5,
        batch_size=50,
        posterior_samples=2,
        center_score=True,
    )


def test_edwards_task():
    algorithm = edwards_algorithm()

    @jax.jit
    @jax.vmap
    def fit(key, state, data):
        keys = jax.random.split(key, STEPS)
        state, _ = jax.lax.scan(lambda state, key: (algorithm.step(key, state, data)[0], None), state, keys)
        (mean, sd), exact = algorithm.moments(state), TASK.posterior(*data)
        scale = jnp.sqrt(exact.variance)
        return state, (mean - exact.mean) / scale, sd / scale

    data = jax.vmap(data_of)(SEEDS)
    k_init, k_first, k_refine, k_second = jax.vmap(lambda s: jax.random.split(jax.random.key(s), 4))(SEEDS).T
    state, _, ratio = fit(k_first, jax.vmap(algorithm.init)(k_init, data), data)
    assert ratio.max() > 1.15  # one round is not enough: the bar can be missed
    _, error, ratio = fit(k_second, jax.vmap(algorithm.refine)(k_refine, state, data), data)
    assert jnp.abs(error).max() <= 0.3
    assert ratio.min() >= 0.9 and ratio.max() <= 1.15


def structured_features(x, covariate, beta):
    """What log p and a quadratic log q are linear in."""
    mean, u = TASK.mean(covariate, beta), jnp.append(covariate, x)
    return jnp.concatenate([u, jnp.outer(u, u)[jnp.triu_indices(3)], jnp.array([x * mean, mean**2])])


@jax.jit
def contrast(key, data, scale):
    """Features of the model's draws at 1,000 beta, of the data there, and of the data at posterior draws."""
    k_beta, k_x, k_posterior = jax.random.split(key, 3)
    beta = jnp.repeat(scale * jax.random.normal(k_beta, (1000, 2)), 50, axis=0)
    x, covariate = jnp.tile(data.x, 1000), jnp.tile(data.covariate, (1000, 1))
    simulated = TASK.model.simulate_batch(k_x, beta, covariate)[1]
    features = jax.vmap(structured_features)
    draws = TASK.posterior(*data).sample(k_posterior, (200,))
    rows = jnp.tile(data.x, 200), jnp.tile(data.covariate, (200, 1)), jnp.repeat(draws, 50, axis=0)
    exact = jax.vmap(partial(TASK.log_likelihood, *data))(draws)
    return features(simulated, covariate, beta), features(x, covariate, beta), features(*rows), exact


def calibrate(seed, scale):
    """Correlation and slope of the sum of a structured r over 50 data against the exact log-likelihood."""
    arrays = contrast(jax.random.key(seed), data_of(seed, 50), scale)
    model, data, at_posterior, exact = map(np.float64, arrays)
    both = np.concatenate([model, data])
    shift, spread = both.mean(0), both.std(0)
    classifier = LogisticRegression(C=1e6, solver="newton-cholesky")
    classifier.fit((both - shift) / spread, np.repeat([1, 0], len(data)))
    r = classifier.decision_function((at_posterior - shift) / spread).reshape(200, 50).sum(1)
    return np.corrcoef(r, exact)[0, 1], np.polyfit(exact, r, 1)[0]


def test_structured_ratio_is_calibrated_where_beta_was_proposed_widely():
    correlation, slope = np.transpose([calibrate(seed, 5.0) for seed in range(10)])
    assert correlation.min() > 0.9
    assert slope.min() > 0.9 and slope.max() < 1.2
    narrow, _ = np.transpose([calibrate(seed, 0.2) for seed in range(5)])
    assert narrow.min() < 0.9  # the same classifier, with beta proposed within a fifth of the prior
