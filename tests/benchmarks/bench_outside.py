"""A simulator outside of JAX that takes 10 ms: what 10,000 simulations cost beside their own time.

As many processes simulate as there are cores for them, two at most: python -m tests.benchmarks.bench_outside
"""

import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import jax
import numpy as np
import numpyro.distributions as dist

from himlib import Data, ExternalModel, fit_rounds

SIMULATIONS, SECONDS = 10_000, 0.01
PROCESSES = min(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def simulate(rng, beta, covariate):
    """A normal, after 10 ms of work."""
    end = time.process_time() + SECONDS
    while time.process_time() < end:
        pass
    return beta["shift"] + beta["scale"] * rng.standard_normal(2)


def main() -> None:
    prior = {"shift": dist.Normal(0.0, 1.0), "scale": dist.HalfNormal(1.0)}
    data = Data(np.array([[0.3, 0.9]], "float32"))
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as executor:
        list(executor.map(abs, range(PROCESSES)))
        wall, own = time.perf_counter(), time.process_time()
        fit_rounds(
            jax.random.key(0), ExternalModel(prior, simulate), data, simulations=SIMULATIONS,
            executor=executor, progress=False,
        )  # fmt: skip
        wall, own = time.perf_counter() - wall, time.process_time() - own
    least = SIMULATIONS * SECONDS / PROCESSES
    ratio = (wall - 45) / least
    print(f"outside: {wall:.0f} s, of which {least:.0f} s have to be; the rest takes {own:.0f} cpu s")
    print(f"outside_ratio {ratio:.2f} of the simulations' own time, beside 45 s (goal at most 1.2)")


if __name__ == "__main__":
    main()
