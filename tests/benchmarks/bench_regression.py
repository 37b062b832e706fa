"""LFVI on the linear regression of Edward's example, beside what Edward was recorded at.

Two weights, N = 500 data, M = 50 of them in a minibatch, five steps of the ratio for each of q. Edward's
numbers are of its release 1.3.5 on one core, on another day: it no longer installs beside a present
Python. ``python -m tests.benchmarks.bench_regression``
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from himlib.algorithm import Data
from himlib.families import FullRankNormal
from himlib.lfvi import lfvi
from himlib.networks import ratio_network
from himlib.simulators.linear_regression import LinearRegression
from himlib.training import _compiled, cosine_adam, fit

STEPS, ROUNDS, CHUNK = 2500, 2, 100
RECORDED = 140  # q steps per second, its best


def main():
    regression = LinearRegression(size=2)

    def features(x, z, beta, covariate, center):
        return jnp.append(covariate, x - regression.mean(covariate, beta))

    algorithm = lfvi(
        regression.model,
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
    errors, ratios = [], []
    for seed in range(5):
        k_beta, k_covariate, k_x = jax.random.split(jax.random.key(seed), 3)
        covariate = jax.random.normal(k_covariate, (500, 2))
        beta = jnp.broadcast_to(regression.model.sample_prior(k_beta), (500, 2))
        data = Data(regression.model.simulate_batch(k_x, beta, covariate)[1], covariate)
        began = time.process_time()
        result = fit(jax.random.key(seed), algorithm, data, STEPS, rounds=ROUNDS, progress=False)
        seconds = time.process_time() - began
        exact, (mean, sd) = regression.posterior(*data), algorithm.moments(result.state)
        errors.append(np.asarray((mean - exact.mean) / jnp.sqrt(exact.variance)))
        ratios.append(np.asarray(sd / jnp.sqrt(exact.variance)))
    print(f"regression_fit {seconds:.2f} cpu s for {ROUNDS * STEPS} q steps, compiled")
    print(f"regression_mean_error {np.abs(errors).max():.2f} exact sd at most (bar 0.3)")
    print(f"regression_sd_ratio {np.min(ratios):.2f} to {np.max(ratios):.2f} (bar 0.9 to 1.15)")

    run, times = _compiled(algorithm, CHUNK), []
    for _ in range(20):
        began = time.process_time()
        jax.block_until_ready(run(jax.random.key(1), result.state, data, CHUNK))
        times.append(time.process_time() - began)
    speed = CHUNK / min(times)
    print(
        f"regression_steps {speed:,.0f} q steps/cpu s (Edward, {RECORDED}: {speed / 132:.0f} times its best)"
    )


if __name__ == "__main__":
    main()
