"""The conjugate model with its local latents at few and at many data: five data sets, five training runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from himlib import Data, ImplicitConditional, MeanFieldNormal, Outcome, cosine_adam, fit, lfvi, ratio_network
from himlib.simulators.conjugate import ConjugateGaussian

#: r learns from one datum at a time: at any N its beta has to vary on the scale on which one datum can tell
#: values of beta apart. Four times the q of ten data is as wide; for a thousand the prior's scale is kept.
RECIPES = {
    10: ({"proposal": "posterior", "width": 4.0}, 1),
    1_000: ({"proposal": "round", "width": 20.0, "batch_size": 100}, 2),
}


def judge(gaussian, algorithm, state, x):
    """Error of the mean in exact sds, ratio of sds, and the worst KS distance of q(z | x, beta)."""
    exact, (location, scale) = gaussian.posterior(x), algorithm.moments(state)[:, 0]
    at = jnp.quantile(x, jnp.array([0.1, 0.5, 0.9]))
    z = algorithm.sample_local(jax.random.key(9), state, exact.mean, Data(jnp.repeat(at, 4_000)))
    answer = gaussian.local_posterior(at, exact.mean)
    u = np.asarray((z.reshape(3, -1) - answer.loc[:, None]) / answer.scale)
    distance = max(stats.kstest(row, "norm").statistic for row in u)
    return (location - exact.mean) / exact.scale, scale / exact.scale, distance


@pytest.mark.parametrize("size", RECIPES)
def test_global_and_local_posterior(size):
    gaussian, (settings, rounds) = ConjugateGaussian(), RECIPES[size]
    algorithm = lfvi(
        gaussian.model,
        MeanFieldNormal(),
        ratio_network(hidden=(32, 32)),
        local=ImplicitConditional(noise_size=2),
        ratio_optimizer=cosine_adam(2e-2, 10_000),
        posterior_optimizer={"beta": cosine_adam(2e-2, 2_000), "z": cosine_adam(3e-3, 2_000)},
        ratio_batch=512,
        ratio_steps=5,
        **settings,
    )
    scores = []
    for seed in range(5):
        k_beta, k_data = jax.random.split(jax.random.key(seed))
        _, x = gaussian.model.simulate_batch(k_data, jnp.full(size, jax.random.normal(k_beta)))
        run = fit(jax.random.key(seed), algorithm, Data(x), 2_000, rounds=rounds, progress=False)
        assert run.outcome is Outcome.AT_REST
        scores.append(judge(gaussian, algorithm, run.state, x))
    error, ratio, distance = np.abs(np.array(scores)).T
    assert np.median(error) < 0.3 and error.max() < 0.5  # on fresh data one in thirteen is beyond 0.3
    assert ratio.min() > 0.9 and ratio.max() < 1.15
    assert np.median(distance) < 0.05 and distance.max() < 0.08
