"""The conjugate Gaussian against quadrature, the joint normal distribution and its own simulator."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from himlib.simulators.conjugate import ConjugateGaussian

SCALES = [(0.3, 2.0, 0.7), (5.0, 0.2, 1.5)]
X = np.array([0.4, -1.3, 2.2, 0.9, 1.1])


@pytest.fixture(params=SCALES, ids=str)
def gaussian(request):
    return ConjugateGaussian(*request.param)


def covariance(gaussian, size):
    variance = gaussian.local_scale**2 + gaussian.noise_scale**2
    return np.full((size, size), gaussian.prior_scale**2) + variance * np.eye(size)


def integrate_over_beta(gaussian, function, x):
    """The integral of function(beta) p(beta) p(x | beta) in float64."""
    spread = np.hypot(gaussian.local_scale, gaussian.noise_scale)

    def integrand(beta):
        likelihood = np.prod(stats.norm.pdf(x, beta, spread))
        return function(beta) * stats.norm.pdf(beta, 0, gaussian.prior_scale) * likelihood

    return integrate.quad(integrand, -12, 12, points=[0, np.mean(x)], limit=200, epsabs=0, epsrel=1e-10)[0]


def test_posterior_is_what_quadrature_gives(gaussian):
    posterior = gaussian.posterior(X)
    moments = [integrate_over_beta(gaussian, lambda beta, k=k: beta**k, X) for k in range(3)]
    mean = moments[1] / moments[0]
    assert posterior.mean == pytest.approx(mean, rel=1e-5)
    assert posterior.variance == pytest.approx(moments[2] / moments[0] - mean**2, rel=1e-4)


def test_evidence_is_the_joint_normal(gaussian):
    expected = stats.multivariate_normal.logpdf(X, np.zeros(5), covariance(gaussian, 5))
    assert gaussian.evidence(X) == pytest.approx(expected, rel=1e-5)
    assert np.log(integrate_over_beta(gaussian, lambda beta: 1.0, X)) == pytest.approx(expected, rel=1e-7)


def test_default_posterior_in_closed_form():
    posterior = ConjugateGaussian().posterior(X)
    assert posterior.mean == pytest.approx(X.sum() / 2 / (1 + 5 / 2))
    assert posterior.variance == pytest.approx(1 / (1 + 5 / 2))


def test_no_data_gives_the_prior(gaussian):
    posterior = gaussian.posterior(np.zeros(0))
    assert (posterior.mean, posterior.scale) == (0.0, pytest.approx(gaussian.prior_scale))
    assert gaussian.evidence(np.zeros(0)) == pytest.approx(0.0, abs=1e-6)


def test_local_answers_agree_with_each_other(gaussian):
    # Bayes' theorem for one datum: log p(x, z | beta) = log p(x | beta) + log p(z | x, beta), at any point.
    x, z, beta = np.random.default_rng(0).normal(size=(3, 40))
    right = gaussian.predictive(beta).log_prob(x) + gaussian.local_posterior(x, beta).log_prob(z)
    np.testing.assert_allclose(gaussian.log_joint(x, z, beta), right, rtol=1e-4, atol=1e-4)
    expected = stats.norm.logpdf(z, beta, gaussian.local_scale) + stats.norm.logpdf(
        x, z, gaussian.noise_scale
    )
    np.testing.assert_allclose(gaussian.log_joint(x, z, beta), expected, rtol=1e-4, atol=1e-4)


def test_predictive_integrates_z_out(gaussian):
    for x, beta in ((0.0, 0.0), (1.5, -0.4)):
        density, _ = integrate.quad(
            lambda z, x=x, beta=beta: np.exp(gaussian.log_joint(x, z, beta)), -15, 15, points=[x, beta]
        )
        assert float(gaussian.predictive(beta).log_prob(x)) == pytest.approx(np.log(density), rel=1e-4)


@pytest.mark.parametrize(("location", "scale"), [(0.0, 1.0), (0.8, 0.3), (-2.0, 2.5)])
def test_elbo_is_the_expectation_it_stands_for(gaussian, location, scale):
    spread = np.hypot(gaussian.local_scale, gaussian.noise_scale)
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    beta = location + scale * nodes
    inside = stats.norm.logpdf(X[:, None], beta, spread).sum(0)
    inside += stats.norm.logpdf(beta, 0, gaussian.prior_scale) - stats.norm.logpdf(beta, location, scale)
    assert gaussian.elbo(location, scale, X) == pytest.approx(weights @ inside / weights.sum(), rel=1e-4)


def test_elbo_is_below_the_evidence_and_touches_it_at_the_posterior(gaussian):
    exact, evidence = gaussian.posterior(X), gaussian.evidence(X)
    assert gaussian.elbo(exact.mean, exact.scale, X) == pytest.approx(float(evidence), abs=1e-4)
    gradient = jax.grad(gaussian.elbo, (0, 1))(exact.mean, exact.scale, X)
    np.testing.assert_allclose(gradient, 0, atol=1e-3 / exact.scale)
    for location, scale in ((0.0, 0.5), (1.0, 0.1), (-1.0, 3.0)):
        assert gaussian.elbo(location, scale, X) < evidence


def test_gradients_are_finite_differences(gaussian):
    functions = {
        "elbo": (lambda v: gaussian.elbo(v[0], jnp.exp(v[1]), v[2:]), [0.4, -0.3, *X]),
        "evidence": (gaussian.evidence, X),
        "joint": (lambda v: gaussian.log_joint(*v), [0.2, 0.5, -0.3]),
        "posterior": (lambda v: gaussian.posterior(v).log_prob(0.3), X),
        "local": (lambda v: gaussian.local_posterior(v[0], v[1]).log_prob(v[2]), [0.2, 0.5, -0.3]),
    }
    with jax.enable_x64(True):
        for name, (function, point) in functions.items():
            point = jnp.asarray(point, jnp.float64)
            steps = 1e-5 * np.eye(len(point))
            differences = [(function(point + step) - function(point - step)) / 2e-5 for step in steps]
            np.testing.assert_allclose(
                jax.grad(function)(point), differences, rtol=1e-6, atol=1e-6, err_msg=name
            )


def test_simulator_has_the_joint_distribution(gaussian):
    size, beta = 100_000, 0.7
    z, x = gaussian.model.simulate_batch(jax.random.key(1), jnp.full(size, beta))
    assert z.shape == x.shape == (size,)
    assert stats.kstest(np.asarray(z), stats.norm(beta, gaussian.local_scale).cdf).pvalue > 1e-3
    assert (
        stats.kstest(np.asarray(x), stats.norm(beta, float(gaussian.predictive(beta).scale)).cdf).pvalue
        > 1e-3
    )
    # Whitened by the exact local posterior, z no longer knows its x: pairs are joint draws.
    local = gaussian.local_posterior(x, beta)
    residual = np.asarray((z - local.mean) / local.scale)
    assert stats.kstest(residual, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(residual, x)[0, 1]) < 4.5 / np.sqrt(size)


def test_posterior_is_calibrated(gaussian):
    # Simulation-based calibration: the exact posterior's distribution function at the true beta is uniform.
    key_beta, key_data = jax.random.split(jax.random.key(2))
    beta = gaussian.model.sample_prior(key_beta, (2000,))
    _, x = gaussian.model.simulate_batch(key_data, jnp.repeat(beta, 7))
    ranks = jax.vmap(lambda x, beta: gaussian.posterior(x).cdf(beta))(x.reshape(2000, 7), beta)
    assert stats.kstest(np.asarray(ranks), "uniform").pvalue > 1e-3


def test_same_under_jit_and_vmap(gaussian):
    data = jnp.asarray(np.random.default_rng(3).normal(size=(4, 5)), jnp.float32)
    functions = {
        "evidence": gaussian.evidence,
        "elbo": partial(gaussian.elbo, 0.3, 0.8),
        "posterior": lambda x: gaussian.posterior(x).mean,
        "local": lambda x: gaussian.local_posterior(x, 0.3).log_prob(0.1),
    }
    for name, function in functions.items():
        expected = jnp.stack([function(x) for x in data])
        for lifted in (jax.vmap(function), jax.jit(jax.vmap(function))):
            np.testing.assert_allclose(lifted(data), expected, rtol=1e-5, atol=1e-5, err_msg=name)


def test_float32_and_float64(gaussian):
    def answers(x):
        return [gaussian.evidence(x), gaussian.elbo(0.3, 0.8, x), gaussian.posterior(x).mean]

    single = answers(jnp.asarray(X, jnp.float32))
    with jax.enable_x64(True):
        double = answers(jnp.asarray(X, jnp.float64))
    assert {a.dtype for a in single} == {np.dtype("float32")} and {a.dtype for a in double} == {
        np.dtype("float64")
    }
    np.testing.assert_allclose(single, double, rtol=2e-5, atol=1e-5)


def test_evidence_of_far_data_is_finite_and_exact():
    x = np.full(20, 1e3)
    expected = stats.multivariate_normal.logpdf(x, np.zeros(20), covariance(ConjugateGaussian(), 20))
    assert ConjugateGaussian().evidence(x) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_lowers_for_accelerators(platform):
    model = ConjugateGaussian().model
    jax.export.export(jax.jit(model.simulate_batch), platforms=[platform])(jax.random.key(0), jnp.zeros(3))


@pytest.mark.parametrize("name", ["prior_scale", "local_scale", "noise_scale"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_wrong_scales(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected a positive standard deviation, got"):
        ConjugateGaussian(**{name: value})
