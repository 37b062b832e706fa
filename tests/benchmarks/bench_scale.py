"""A full pass of the centered score over 15 million Lotka-Volterra transitions, and what it costs beside it.

One chunk of a thousand series stands for the hundred. ``python -m tests.benchmarks.bench_scale``
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from himlib import Data, ratio_network
from himlib.many_data._sums import Chunks, Equation
from himlib.random import normal
from himlib.simulators.lotka_volterra import INITIAL, TRUE_BETA, LotkaVolterra, transitions

SERIES, TURNS = 1000, 15
simulator = LotkaVolterra()
model = simulator.model


def load(index):
    betas, starts = (jnp.broadcast_to(jnp.array(row), (SERIES, len(row))) for row in (TRUE_BETA, INITIAL))
    key = jax.random.fold_in(jax.random.key(0), index)
    covariate, x = transitions(simulator.simulate_series(key, betas, starts, 150, size=SERIES), INITIAL)
    return Data(x, covariate)


def features(x, z, beta, covariate, center):
    residual = (x - simulator.mean(covariate, beta)) / np.sqrt(2.0)
    return jnp.concatenate([15 * jnp.arcsinh(residual / 15), jnp.log(x + 1)])


def build(centered):
    network, data = ratio_network(features, (32, 32), baseline=True), load(0)
    beta = jnp.broadcast_to(jnp.array(TRUE_BETA), (len(data.x), 4))
    params = network.init(jax.random.key(1), data.x, None, beta + 0.1 * normal(jax.random.key(2), beta.shape),
                          data.covariate, beta)  # fmt: skip

    def log_ratio(params, x, z, beta, covariate):
        return network.apply(params, x, z, beta, covariate, jnp.array(TRUE_BETA))

    chunks = Chunks(model, load, 1, 1, None)
    options = {"model": model, "pairs": 1, "centered": centered, "sharding": None}
    return chunks, Equation(jax.random.key(3), Partial(log_ratio, params), chunks, np.ones(4), 1, **options)


def main():
    seconds = {}
    for name, centered in (("centered", True), ("uncentered", False)):
        chunks, equation = build(centered)
        for _ in range(TURNS):
            began = time.process_time()
            chunk = chunks(0)
            loaded = time.process_time()
            equation.sums(np.float64(TRUE_BETA), 0, chunk)
            for part, value in (("simulation", loaded - began), (name, time.process_time() - loaded)):
                seconds[part] = min(seconds.get(part, np.inf), value)
    for name in ("simulation", "uncentered", "centered"):
        print(f"score_pass_{name} {100 * seconds[name]:.1f} s for 15 million transitions")
    full = 100 * (seconds["simulation"] + seconds["centered"])
    print(f"score_pass {full:.1f} s for 15 million transitions, data simulated anew (goal: less than 60)")


if __name__ == "__main__":
    main()
