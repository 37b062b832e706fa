"""Rejection ABC on one core: simulate, summarize, measure and select, beside vectorized NumPy.

The Lotka-Volterra series have 150 records and the nine summaries of Papamakarios and Murray (2016);
the toy is the mean of twenty normals. Run ``python -m tests.benchmarks.bench_abc``.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from himlib import Data, HierarchicalImplicitModel
from himlib.abc import rejection, standardize
from himlib.simulators.lotka_volterra import INITIAL, TRUE_BETA, LotkaVolterra
from tests.benchmarks.bench_simulators import STEPS, best_seconds, numpy_series, report


def series_model(simulator):
    """A whole series as one datum."""
    transition = simulator.model.generate

    def generate(noise, beta, covariate):
        def step(x, noise):
            _, x = transition(noise, beta, x)
            return x, x

        return None, jax.lax.scan(step, jnp.array(INITIAL), noise)[1]

    shape = (STEPS, simulator.inner_steps, 2)
    return HierarchicalImplicitModel(simulator.prior, generate=generate, noise_shape=shape)


def nine(prey, predators, xp):
    """Means, log variances, autocorrelations at lags 1 and 2, and the cross-correlation; time first."""
    # One population at a time: an axis of two would be the innermost loop.
    means = [x.mean(0) for x in (prey, predators)]
    c = [x - mean for x, mean in zip((prey, predators), means, strict=True)]
    variances = [(x * x).mean(0) for x in c]
    lags = [(x[k:] * x[:-k]).mean(0) / v for x, v in zip(c, variances, strict=True) for k in (1, 2)]
    cross = (c[0] * c[1]).mean(0) / xp.sqrt(variances[0] * variances[1])
    return xp.stack([*means, *(xp.log(v + 1) for v in variances), *lags, cross])


def nearest(distances, draws, quantile=0.01):
    return draws[np.argpartition(distances, int(quantile * len(draws)))[: int(quantile * len(draws))]]


def bench_series(count=40_000):
    simulator, generator = LotkaVolterra(), np.random.default_rng(0)
    model = series_model(simulator)
    x = simulator.simulate_series(jax.random.key(0), jnp.array(TRUE_BETA), INITIAL, STEPS)
    data = Data(x[None])
    summary = standardize(jax.random.key(1), model, data, summary=lambda data: nine(*data.x[0].T, jnp))
    options = {"summary": summary, "simulations": count, "quantile": 0.01, "progress": False}

    def by_numpy():
        parts, size = [], 4000  # larger blocks leave the cache
        for _ in range(count // size):
            series = np.ascontiguousarray(numpy_series(generator, size, 1).transpose(2, 1, 0))
            parts.append(np.square(nine(*series, np)).sum(0))
        return nearest(np.concatenate(parts), np.arange(count))

    best = best_seconds(
        {
            "himlib rejection, LV": lambda: rejection(jax.random.key(2), model, data, **options),
            "numpy rejection, LV": by_numpy,
        },
        turns=4,
    )
    report("simulations", count, best, "himlib rejection, LV", {"numpy rejection, LV": 1.7})
    share = count / best["himlib rejection, LV"] / 100_000
    print(f"rejection_share_of_goal {share:.2f} (goal 1: 100,000 simulations/s)")


def bench_toy(count=1_000_000, rows=20):
    generator = np.random.default_rng(0)
    model = HierarchicalImplicitModel(
        dist.Normal(0.0, 1.0), generate=lambda noise, beta, covariate: (None, beta + noise), noise_shape=()
    )
    data = Data(jnp.linspace(-1.0, 2.0, rows))

    def mean(data):
        return data.x.mean()

    def by_numpy():
        beta = generator.standard_normal(count, np.float32)
        simulated = [
            (beta[i : i + 1000, None] + generator.standard_normal((1000, rows), np.float32)).mean(1)
            for i in range(0, count, 1000)
        ]
        return nearest(np.abs(np.concatenate(simulated) - 0.5), beta)

    options = {"summary": mean, "simulations": count, "quantile": 0.01, "progress": False}
    best = best_seconds(
        {
            "himlib rejection, toy": lambda: rejection(jax.random.key(0), model, data, **options),
            "numpy rejection, toy": by_numpy,
        },
        turns=4,
    )
    report("simulations", count, best, "himlib rejection, toy", {})


def main():
    bench_series()
    bench_toy()


if __name__ == "__main__":
    main()
