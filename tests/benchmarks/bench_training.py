"""One training step of the Lotka-Volterra fit against its arithmetic floor, and what compiling it costs.

The floor is what the step's own arithmetic would take on this core, at rates measured in the same
run: its matrix products at the speed of a large one, its activations and normals at the speed of a
loop that does nothing else. ``python -m tests.benchmarks.bench_training``
"""

import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params

from himlib import Data, FullRankNormal, cosine_adam, fit, lfvi, ratio_network
from himlib._checkpoints import Checkpoint
from himlib.random import normal
from himlib.simulators.lotka_volterra import INITIAL, TRUE_BETA, LotkaVolterra, transitions
from himlib.training import _compiled

STEPS, ROUNDS, BATCH, SAMPLES = 2000, 2, 1024, 8


def best(function, *arguments, repeats: int = 10) -> float:
    """CPU seconds of the fastest of some runs."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        jax.block_until_ready(function(*arguments))
        times.append(time.process_time() - began)
    return min(times)


def products(jaxpr) -> float:
    """Floating-point operations in the matrix products of a jaxpr, inner ones included."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contract, _), _ = equation.params["dimension_numbers"]
            inner = np.prod([equation.invars[0].aval.shape[axis] for axis in contract])
            total += 2 * inner * np.prod(equation.outvars[0].aval.shape)
        for inner in jaxprs_in_params(equation.params):
            total += products(inner)
    return total


def checkpoint_cost(algorithm, data, chunks: int, repeats: int = 50) -> tuple[float, float]:
    """CPU seconds and bytes written per chunk, where so many chunks are written before."""
    run, state = _compiled(algorithm, 100), algorithm.init(jax.random.key(0), data)
    state, info, moments, _ = jax.device_get(run(jax.random.key(1), state, data, 100))
    with tempfile.TemporaryDirectory() as folder:
        file = Checkpoint(Path(folder) / "run.npz", state, lambda: ())
        for _ in range(chunks):
            file.save(state, info, moments)
        length, began = file.length, time.process_time()
        for _ in range(repeats):
            file.save(state, info, moments)
        seconds = (time.process_time() - began) / repeats
        return seconds, (file.length - length) / repeats + file.path.stat().st_size


def build():
    """Build the fit of the book's Lotka-Volterra chapter, on one simulated series."""
    simulator = LotkaVolterra()

    def features(x, z, beta, covariate, center):
        residual = (x - simulator.mean(covariate, beta)) / jnp.sqrt(10.0 * 0.2)
        return jnp.concatenate([15 * jnp.arcsinh(residual / 15), jnp.log(x + 1)])

    def jitter(key, covariate):
        noise = normal(key, (2, 2))
        return jnp.abs(covariate * (1 + 0.1 * noise[0]) + noise[1])

    series = simulator.simulate_series(jax.random.key(0), jnp.array(TRUE_BETA), jnp.array(INITIAL), 150)
    covariate, x = transitions(series, jnp.array(INITIAL))
    algorithm = lfvi(
        simulator.model,
        FullRankNormal(),
        ratio_network(features, (32, 32), baseline=True),
        ratio_optimizer=cosine_adam(3e-3, STEPS),
        posterior_optimizer=cosine_adam(2e-2, STEPS),
        ratio_batch=BATCH,
        posterior_samples=SAMPLES,
        jitter=jitter,
    )
    return algorithm, Data(x, covariate)


def main():
    algorithm, data = build()
    began = time.process_time()
    fit(jax.random.key(0), algorithm, data, STEPS, rounds=ROUNDS, progress=False)
    cold = time.process_time() - began
    began = time.process_time()
    fit(jax.random.key(1), algorithm, data, STEPS, rounds=ROUNDS, progress=False)
    warm = time.process_time() - began
    print(f"fit_cold {cold:.1f} cpu s")
    print(f"fit_second_seed {warm:.1f} cpu s")
    print(f"compilation {cold - warm:.1f} cpu s (limit 8)")

    few, many = (checkpoint_cost(algorithm, data, chunks) for chunks in (100, 5000))
    print(f"checkpoint {1e3 * many[0]:.2f} cpu ms and {many[1] / 1e3:.0f} kB a chunk after 5,000 chunks")
    print(
        f"checkpoint_growth {many[0] / few[0]:.2f} cpu, {many[1] / few[1]:.2f} bytes, 100 to 5,000 (goal 1)"
    )

    run, state = _compiled(algorithm, 100), algorithm.init(jax.random.key(0), data)
    step = best(run, jax.random.key(1), state, data, 100) / 100
    flops = products(jax.make_jaxpr(algorithm.step)(jax.random.key(1), state, data).jaxpr)
    square = jnp.ones((512, 512))
    gflops = 2 * 512**3 / best(jax.jit(lambda a: a @ a), square) / 1e9
    layer = jnp.ones((2048, 32))
    activate = jax.jit(jax.value_and_grad(lambda a: jax.nn.squareplus(a).sum()))
    activation = best(jax.jit(lambda a: jax.lax.fori_loop(0, 100, lambda _, b: activate(b)[1], a)), layer)
    draw = jax.jit(lambda key: jax.lax.map(lambda k: normal(k, (4096,)), jax.random.split(key, 100)).sum())
    per_activation, per_normal = activation / 100 / layer.size, best(draw, jax.random.key(0)) / 409600
    activations = 64 * 2 * (2 * BATCH + SAMPLES * len(data.x))
    normals = BATCH * (4 + 2 + 2) + 4 * SAMPLES
    floor = flops / gflops / 1e9 + activations * per_activation + normals * per_normal
    print(f"matrix_products {flops / 1e6:.1f} MFLOP at {gflops:.0f} GFLOP/s")
    print(f"activations {activations} at {per_activation * 1e9:.2f} ns with gradient")
    print(f"normals {normals} at {per_normal * 1e9:.1f} ns")
    print(f"training_step {step * 1e3:.2f} ms (floor {floor * 1e3:.2f} ms)")
    print(f"training_step_share_of_floor {floor / step:.2f} (goal 0.40)")

    began = time.process_time()
    jax.block_until_ready(run(jax.random.key(1), state, data, 100))
    chunk = time.process_time() - began
    print(
        f"fit_overhead {warm / (chunk * ROUNDS * STEPS / 100):.2f} (whole second fit against its bare chunks)"
    )


if __name__ == "__main__":
    main()
