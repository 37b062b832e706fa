"""LFVI on the linear regression of Edward's example, beside what Edward was recorded at.

Two weights, N = 500 data, M = 50 of them in a minibatch, five steps of the ratio for each of q. Edward's
numbers are of its release 1.3.5 on one core, on another day: it no longer installs beside a present
Python. ``python -m tests.benchmarks.bench_regression``
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from himlib import fit
from himlib.training import _compiled
from tests.test_linear_regression import STEPS, TASK, data_of, edwards_algorithm

ROUNDS, CHUNK = 2, 100
RECORDED = 140  # q steps per second, its best


def main():
    algorithm = edwards_algorithm()
    errors, ratios = [], []
    for seed in range(5):
        data = data_of(seed)
        began = time.process_time()
        result = fit(jax.random.key(seed), algorithm, data, STEPS, rounds=ROUNDS, progress=False)
        seconds = time.process_time() - began
        exact, (mean, sd) = TASK.posterior(*data), algorithm.moments(result.state)
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
        f"regression_steps {speed:,.0f} q steps/cpu s, {speed / RECORDED:.0f} times Edward's best, {RECORDED}"
    )


if __name__ == "__main__":
    main()
