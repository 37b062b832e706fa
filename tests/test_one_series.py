"""One series of the Lotka-Volterra equation: LFVI against the exact posterior, and the three-rate form."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS

from himlib import Data, FullRankNormal, cosine_adam, fit, lfvi, ratio_network
from himlib.diagnostics import c2st
from himlib.random import normal
from himlib.simulators._newton import maximize
from himlib.simulators.lotka_volterra import INITIAL, TRUE_BETA, LotkaVolterra, transitions

KEY = jax.random.key(7)
BETA = jnp.array(TRUE_BETA)
PRINTED = jnp.log(jnp.array([1.0, 0.02, 0.01]))  # the second one twice
STEPS = 2800


def record(simulator, seed):
    series = simulator.simulate_series(jax.random.key(seed), BETA, INITIAL, 150)
    covariate, x = transitions(series, INITIAL)
    return Data(x, covariate), simulator.laplace(x, covariate)


def recipe(simulator, hidden):
    """Chapter 9's: transitions as data, residuals from the noise-free run, two rounds of them."""
    scale = math.sqrt(simulator.noise_variance * simulator.interval)

    def features(x, z, beta, covariate, center):
        residual = (x - simulator.mean(covariate, beta)) / scale
        return jnp.concatenate([15 * jnp.arcsinh(residual / 15), jnp.log(x + 1)])

    def jitter(key, covariate):
        noise = normal(key, (2, 2))
        return jnp.abs(covariate * (1 + 0.1 * noise[0]) + noise[1])

    return lfvi(
        simulator.model,
        FullRankNormal(),
        ratio_network(features, hidden, baseline=True),
        ratio_optimizer=cosine_adam(6e-3, STEPS),
        posterior_optimizer=cosine_adam(2e-2, STEPS),
        width=4.0,
        ratio_batch=512,
        posterior_samples=4,
        jitter=jitter,
    )


@pytest.mark.parametrize(("inner_steps", "hidden", "seeds"), [(1, (32,), (0, 1)), (10, (32, 32), (0,))])
def test_lfvi_is_the_posterior(inner_steps, hidden, seeds):
    """Means to 0.3 sd, widths to a fifth, and a classifier that cannot tell."""
    simulator = LotkaVolterra(inner_steps=inner_steps)
    algorithm = recipe(simulator, hidden)
    for seed in seeds:
        data, exact = record(simulator, seed)
        result = fit(jax.random.key(seed), algorithm, data, STEPS, rounds=2, progress=False)
        assert result.outcome.name == "AT_REST"
        mean, sd = algorithm.moments(result.state)
        exact_sd = jnp.sqrt(exact.variance)
        assert np.abs((mean - exact.mean) / exact_sd).max() <= 0.3
        assert np.all((sd / exact_sd >= 0.85) & (sd / exact_sd <= 1.2))
        draws = algorithm.sample(jax.random.key(1), result.state, 2000)
        accuracy = [
            c2st(jax.random.key(3), draws, exact.sample(jax.random.key(2), (2000,)) + shift).accuracy
            for shift in (0.0, 0.5 * exact_sd)
        ]
        assert accuracy[0] <= 0.58 < accuracy[1]  # half an sd off would be seen


def test_nuts_agrees_with_laplace():
    """Chains in coordinates whitened by Laplace's approximation: they see normals of mean 0 and sd 1."""
    simulator = LotkaVolterra()
    data, laplace = record(simulator, 0)

    def log_joint(u):
        beta = laplace.mean + laplace.scale_tril @ u
        density = jax.vmap(simulator.transition_log_prob, (0, 0, None))(data.x, data.covariate, beta)
        return jnp.sum(density) + simulator.prior.log_prob(beta)

    def model():
        u = numpyro.sample("u", dist.ImproperUniform(dist.constraints.real_vector, (), (4,)))
        numpyro.factor("log joint", log_joint(u))

    options = {"num_chains": 2, "chain_method": "vectorized", "progress_bar": False}
    sampler = MCMC(NUTS(model), num_warmup=200, num_samples=1000, **options)
    sampler.run(KEY, init_params={"u": jnp.zeros((2, 4))})
    u = np.asarray(sampler.get_samples(group_by_chain=True)["u"], np.float64)
    assert numpyro.diagnostics.split_gelman_rubin(u).max() < 1.02
    assert np.abs(u.mean((0, 1))).max() < 0.15  # in posterior sds; the standard error is near 0.03
    np.testing.assert_allclose(np.cov(u.reshape(-1, 4).T), np.eye(4), atol=0.15)


def test_maximize_finds_a_normal_mode():
    precision = jnp.array([[2.0, 0.6], [0.6, 1.0]])

    def terms(beta):
        off = beta - jnp.array([1.0, -2.0])
        return -jnp.array([0.25, 0.75]) * (off @ precision @ off) / 2

    mode, covariance = maximize(terms, jnp.array([30.0, 40.0]))
    np.testing.assert_allclose(mode, [1.0, -2.0], atol=1e-5)
    np.testing.assert_allclose(covariance, np.linalg.inv(precision), rtol=1e-5)
    # Not concave where it starts, and still uphill.
    mode, covariance = maximize(lambda beta: -jnp.log1p(beta**2), jnp.array([3.0]))
    np.testing.assert_allclose(mode, 0.0, atol=1e-3)
    np.testing.assert_allclose(covariance, [[0.5]], rtol=1e-3)


@pytest.mark.parametrize("infer_noise", [False, True])
def test_three_rates_are_four_with_one_twice(infer_noise):
    noise = [math.log(3.0)] if infer_noise else []
    three = jnp.append(PRINTED, jnp.array(noise))
    four = jnp.append(PRINTED[jnp.array([0, 1, 1, 2])], jnp.array(noise))
    printed = LotkaVolterra(infer_noise=infer_noise, three_rates=True)
    usual = LotkaVolterra(infer_noise=infer_noise)
    start, after = jnp.array(INITIAL), jnp.array([90.0, 70.0])
    np.testing.assert_array_equal(printed.mean(start, three), usual.mean(start, four))
    densities = [s.transition_log_prob(after, start, b) for s, b in ((printed, three), (usual, four))]
    np.testing.assert_array_equal(*densities)
    linear = printed.linear_noise_log_prob(after, start, three)
    np.testing.assert_allclose(linear, densities[0], rtol=1e-4)
    noise = jnp.full((1, 2), 0.5)
    made = [s.model.generate(noise, b, start)[1] for s, b in ((printed, three), (usual, four))]
    np.testing.assert_array_equal(*made)


def test_prior_of_three_rates():
    prior = LotkaVolterra(three_rates=True).prior
    np.testing.assert_allclose(prior.mean, [-0.125, -4.0, -4.0], rtol=1e-6)
    np.testing.assert_allclose(prior.variance, [0.25, 0.64, 0.64], rtol=1e-6)
    both = LotkaVolterra(three_rates=True, infer_noise=True).prior
    np.testing.assert_allclose(both.mean, [-0.125, -4.0, -4.0, math.log(10.0) / 2], rtol=1e-6)
    assert LotkaVolterra(three_rates=True) == LotkaVolterra(three_rates=True) != LotkaVolterra()


def test_three_rates_as_printed_are_no_cycle():
    """Predators that live for 100 units of time eat everything; at the usual four rates they cycle."""
    rates = jnp.log(jnp.array([1.0, 0.01, 0.01]))
    starved = LotkaVolterra(three_rates=True).simulate_series(KEY, rates, INITIAL, 150, 500)
    twice = LotkaVolterra().simulate_series(KEY, rates[jnp.array([0, 1, 1, 2])], INITIAL, 150, 500)
    np.testing.assert_allclose(starved[:, :5], twice[:, :5], rtol=1e-4)
    usual = LotkaVolterra().simulate_series(KEY, BETA, INITIAL, 150, 500)
    few = [float(jnp.mean(series[:, 50:, 0] < 5)) for series in (starved, usual)]
    assert few[0] > 0.9 and few[1] < 0.2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: LotkaVolterra(three_rates=True, prior=LotkaVolterra().prior),
            r"expected event shape \(3,\)",
        ),
        (lambda: LotkaVolterra(prior=LotkaVolterra(three_rates=True).prior), r"expected event shape \(4,\)"),
        (
            lambda: LotkaVolterra(three_rates=True).mean(jnp.array(INITIAL), BETA),
            r"beta: expected shape \(3,\), got \(4,\)",
        ),
    ],
)
def test_wrong_calls_of_three_rates(call, message):
    with pytest.raises(ValueError, match=message):
        call()
