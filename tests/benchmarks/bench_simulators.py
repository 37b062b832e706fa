"""Speed of the normals and of the Lotka-Volterra simulator on one core, beside JAX's own and NumPy.

Run by ``make bench``, on one core. A shared core's own speed changes by a factor of
two within minutes: the contestants take turns, and the best turns are compared.
"""

import math
import time

import jax
import jax.numpy as jnp
import numpy as np

from himlib.random import normal
from himlib.simulators.lotka_volterra import INITIAL, TRUE_BETA, LotkaVolterra

SHAPE = (1 << 19, 2)
STEPS = 150


def best_seconds(contestants, turns=7):
    """The best time of each, after one turn that compiles."""
    best = dict.fromkeys(contestants, math.inf)
    for turn in range(turns + 1):
        for name, run in contestants.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            if turn:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def report(unit, count, best, ours, goals):
    """Print a line for each contestant: what it does in a second, and how ours compares."""
    for name, seconds in best.items():
        ratio = seconds / best[ours]
        goal = f", goal {goals[name]}" if name in goals else ""
        note = "" if name == ours else f" ({ours} / this = {ratio:.2f}{goal})"
        print(f"{name:34} {count / seconds:14,.0f} {unit}/s{note}")


def numpy_series(generator, size, inner_steps, noise_variance=10.0, interval=0.2):
    """The same scheme with the series as NumPy's vectors."""
    h = np.float32(interval / inner_steps)
    rates = np.exp(np.float32(TRUE_BETA))
    sd = np.float32(math.sqrt(noise_variance * h))
    prey, predators = (np.full(size, value, np.float32) for value in INITIAL)
    series = np.empty((size, STEPS, 2), np.float32)
    for t in range(STEPS):
        for _ in range(inner_steps):
            exponent = np.clip(h * (rates[0] - rates[1] * predators), -5, 5)
            m = np.clip(prey * np.exp(exponent), 1e-6, 1e4)
            exponent = np.clip(h * (rates[3] * m - rates[2]), -5, 5)
            n = np.clip(predators * np.exp(exponent), 1e-6, 1e4)
            prey = np.abs(m + sd * generator.standard_normal(size, np.float32))
            predators = np.abs(n + sd * generator.standard_normal(size, np.float32))
        series[:, t, 0], series[:, t, 1] = prey, predators
    return series


def bench_normals():
    key, generator = jax.random.key(0), np.random.default_rng(0)

    def in_consumer(draw):
        """Noise as simulators use it: the two numbers of a row make two new ones."""
        use = jax.vmap(lambda e: jnp.stack([e[0] + 1, e[0] + e[1]]))
        return jax.jit(lambda key: use(draw(key, SHAPE)))

    ours, jaxs = in_consumer(normal), in_consumer(jax.random.normal)
    count = math.prod(SHAPE)
    best = best_seconds(
        {
            "himlib normal": lambda: normal(key, SHAPE),
            "jax normal": lambda: jax.random.normal(key, SHAPE),
            "numpy PCG64 normal": lambda: generator.standard_normal(SHAPE, np.float32),
        }
    )
    report("normals", count, best, "himlib normal", {"jax normal": 2.0, "numpy PCG64 normal": 2.0})
    best = best_seconds(
        {"himlib normal in a consumer": lambda: ours(key), "jax normal in a consumer": lambda: jaxs(key)}
    )
    report("normals", count, best, "himlib normal in a consumer", {"jax normal in a consumer": 2.0})


def bench_series(inner_steps, size, goal):
    simulator, generator = LotkaVolterra(inner_steps=inner_steps), np.random.default_rng(0)
    beta = jnp.array(TRUE_BETA)
    ours, theirs = (f"{who} series, {inner_steps} inner" for who in ("himlib", "numpy"))
    best = best_seconds(
        {
            ours: lambda: simulator.simulate_series(jax.random.key(0), beta, INITIAL, STEPS, size),
            theirs: lambda: numpy_series(generator, size, inner_steps),
        }
    )
    report("series", size, best, ours, {theirs: goal})


def main():
    bench_normals()
    bench_series(1, 20_000, 2.5)
    bench_series(10, 4_000, 2.5)


if __name__ == "__main__":
    main()
