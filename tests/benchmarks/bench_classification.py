"""A Bayesian GAN beside a Bayesian neural network: ten seeds against one, and the cost of a step.

Rows and sizes are those of the Pima data; the labels are simulated.
``python -m tests.benchmarks.bench_classification``
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from himlib import Data, MeanFieldNormal, fit, fit_seeds
from himlib.classification import Generator, bayesian_classifier, predict
from himlib.training import _compiled

ROWS, FEATURES, STEPS = 200, 7, 400
GENERATORS = {
    "gan": Generator(FEATURES, 2, noise_size=2, noise_scale=1.0),
    "network": Generator(FEATURES, 2, noise_size=0, output="softmax"),
}


def build(generator: Generator):
    return bayesian_classifier(
        generator,
        MeanFieldNormal(),
        ratio_optimizer=optax.adam(1e-2),
        posterior_optimizer=optax.adam(optax.warmup_cosine_decay_schedule(0.0, 0.15, 50, STEPS)),
        posterior_samples=4,
        fakes=4,
    )


def run(generator: Generator, seeds: int, data: Data) -> tuple[float, float]:
    """Seconds on the clock, compilation included, and again without."""
    algorithm, times = build(generator), []
    for repeat in range(2):
        keys = jax.random.split(jax.random.key(repeat), seeds)
        began = time.perf_counter()
        state = fit_seeds(keys, algorithm, data, STEPS, progress=False).state
        weights = jax.vmap(lambda key, state: algorithm.sample(key, state, 200))(keys, state)
        predict_all = jax.vmap(lambda key, weights: predict(key, generator, weights, data.covariate))
        jax.block_until_ready(predict_all(keys, weights))
        times.append(time.perf_counter() - began)
    return times[0], times[1]


def main():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(ROWS, FEATURES))
    labels = features @ rng.normal(size=FEATURES) + rng.logistic(size=ROWS) > 0
    data = Data(jnp.asarray(labels, jnp.int32), jnp.asarray(features, jnp.float32))
    for name, generator in GENERATORS.items():
        one, ten = run(generator, 1, data), run(generator, 10, data)
        print(
            f"{name} one_seed {one[0]:.1f} s, ten_seeds {ten[0]:.1f} s, {ten[0] / one[0]:.1f} times (goal 3)"
            f", compiled {one[1]:.1f} and {ten[1]:.1f} s, {ten[1] / one[1]:.1f} times",
            flush=True,
        )
    algorithm = build(GENERATORS["gan"])
    fit(jax.random.key(0), algorithm, data, 100, progress=False)
    step, state = _compiled(algorithm, 10), algorithm.init(jax.random.key(0), data)
    times = []
    for _ in range(10):
        began = time.process_time()
        jax.block_until_ready(step(jax.random.key(1), state, data, 10))
        times.append(time.process_time() - began)
    print(f"gan_step {min(times) / 10 * 1e3:.2f} cpu ms")


if __name__ == "__main__":
    main()
