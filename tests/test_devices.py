"""Other machines: many devices, accelerators, double precision, a fresh process."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

from himlib import Data, FullRankNormal, ImplicitConditional, MeanFieldNormal, lfvi, ratio_network
from himlib.many_data._sums import block_sums
from himlib.simulators.conjugate import ConjugateGaussian
from himlib.simulators.lotka_volterra import INITIAL, LotkaVolterra, transitions

HERE = Path(__file__).parent
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # quicker to compile
    "PYTHONPATH": f"{HERE.parent}:{HERE}",
}
KEY = jax.random.key(2)


ADAM = {"ratio_optimizer": optax.adam(1e-2), "posterior_optimizer": optax.adam(1e-2), "ratio_batch": 16}


def conjugate(**options):
    network, local = ratio_network(hidden=(4,)), ImplicitConditional(hidden=(4,))
    return lfvi(ConjugateGaussian().model, MeanFieldNormal(), network, local=local, **ADAM, **options)


def lotka_volterra():
    series = jnp.array(INITIAL) + jnp.arange(8.0).reshape(4, 2)
    covariate, x = transitions(series, INITIAL)
    options = {**ADAM, "center_score": True, "batch_size": 2}
    model = LotkaVolterra(inner_steps=3).model
    algorithm = lfvi(model, FullRankNormal(), ratio_network(hidden=(4,)), **options)
    return algorithm, Data(x, covariate)


def run(code, **environment):
    """Run Python code in a process of its own, and return the words that it prints."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **ENVIRONMENT, **environment},
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


SHARDED = """
from test_devices import *
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from himlib import fit
from toys import FLAT, known_ratio

assert len(jax.devices()) == 8
rows = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
data = Data(jnp.linspace(-1, 1, 16))
spread = jax.device_put(data, rows)
assert len(spread.x.sharding.device_set) == 8
results = []
for sharding, place in ((None, data), (rows, spread)):
    options = {**ADAM, "batch_size": 8, "sharding": sharding}
    algorithm = lfvi(FLAT, MeanFieldNormal(), known_ratio(lambda x, z, beta, covariate: x * beta), **options)
    results.append(fit(KEY, algorithm, place, 10, progress=False))
for one, many in zip(*(jax.tree.leaves((r.state, r.history)) for r in results)):
    np.testing.assert_allclose(one, many, rtol=2e-3, atol=2e-4)
print(int(results[1].state.step), *np.isfinite(results[1].history.elbo[-1:]))
"""


def test_sharded_over_devices_gives_the_answer_of_one():
    assert run(SHARDED, XLA_FLAGS="--xla_force_host_platform_device_count=8") == ["10", "True"]


SCORE = """
from test_devices import *
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from himlib.many_data import solve_score
from himlib.models import Frame
from himlib.many_data import train_ratio
from toys import FLAT

def solve(sharding, log_ratio):
    data = lambda i: Data(2.0 + np.random.default_rng(i).normal(size=(250, 97)[i]).astype("float32"))
    frame = Frame(np.ones(1), np.ones(1))
    fit = solve_score(KEY, FLAT, log_ratio, data, frame, chunks=2, sharding=sharding, progress=False)
    assert fit.outcome.name == "CONVERGED"
    return fit

def skewed(x, z, beta, covariate):
    return -jnp.sqrt(1 + (x - beta - 0.3) ** 2)

rows = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
"""

MANY_SCORES = f"""{SCORE}
assert len(jax.devices()) == 8
options = {{"optimizer": optax.adam(1e-2), "steps": 20, "batch_size": 32}}
results = []
for sharding in (None, rows):
    network, wide = ratio_network(hidden=(4,)), Frame(np.zeros(1), np.full(1, 3.0))
    log_ratio, loss = train_ratio(KEY, FLAT, network, Data(jnp.zeros(2)), wide, sharding=sharding, **options)
    results.append((loss, jax.tree.leaves(log_ratio), solve(sharding, skewed)[:-1]))
one, many = map(jax.tree.leaves, results)
for a, b in zip(one, many, strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)
print(np.isfinite(loss).all())
"""


def test_score_over_devices_gives_the_answer_of_one():
    assert run(MANY_SCORES, XLA_FLAGS="--xla_force_host_platform_device_count=8") == ["True"]


ONE_OF_TWO = """
import sys
import jax
rank, address = int(sys.argv[1]), sys.argv[2]
jax.distributed.initialize(address, num_processes=2, process_id=rank)
"""


def test_score_over_two_processes_gives_the_answer_of_one():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    numbers = "np.concatenate([*map(np.ravel, solve(rows, skewed)[:5])])"
    show = f"{SCORE}\nprint('answer', jax.process_count(), *{numbers})"
    environment = {**os.environ, **ENVIRONMENT, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_OF_TWO + show, str(rank), address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs
    first, second, alone = (
        output.split("answer")[1].split() for output, _ in [*outputs, (" ".join(run(show)), "")]
    )
    assert first == second
    assert (first[0], alone[0]) == ("2", "1")
    assert [*map(float, first[1:])] == pytest.approx([*map(float, alone[1:])], rel=2e-3)


@pytest.mark.parametrize("name", ["conjugate", "lotka_volterra"])
def test_step_lowers_for_accelerators(name):
    algorithm, data = (conjugate(), Data(jnp.linspace(-1, 1, 5))) if name == "conjugate" else lotka_volterra()
    state = jax.eval_shape(algorithm.init, KEY, data)
    exported = jax.export.export(jax.jit(algorithm.step), platforms=["cuda", "tpu"])(KEY, state, data)
    text = exported.mlir_module()
    calls = set(re.findall(r"custom_call @([\w.]+)", text))
    assert not [call for call in calls if "callback" in call or "python" in call], calls
    assert "f64" not in text and "stablehlo" in text
    assert exported.platforms == ("cuda", "tpu")


@pytest.mark.parametrize("even", [False, True])
def test_score_lowers_for_accelerators(even):
    simulator = LotkaVolterra(inner_steps=3)
    options = {"model": simulator.model, "impl": "threefry2x32", "pairs": 1, "even": even, "centered": True}
    rows = jax.ShapeDtypeStruct((16, 10, 2), jnp.float32)

    def sums(u, key, data):
        def log_ratio(x, z, beta, covariate):
            return simulator.linear_noise_log_prob(x, covariate, beta)

        r, scale = jax.tree_util.Partial(log_ratio), jnp.ones(4)
        return block_sums(r, u, scale, key, 0, 160, (jnp.arange(16), data), sharding=None, **options)

    words = jax.ShapeDtypeStruct((1, 2), jnp.uint32)
    exported = jax.export.export(jax.jit(sums), platforms=["cuda", "tpu"])(
        jnp.zeros(4), words, Data(rows, rows)
    )
    assert "callback" not in exported.mlir_module() and "f64" not in exported.mlir_module()


DOUBLE = """
from test_devices import *
import numpy as np
from himlib import fit

assert jax.config.jax_enable_x64
algorithm = conjugate()
result = fit(KEY, algorithm, Data(jnp.linspace(-1, 1, 5)), 10, progress=False)
state = jax.eval_shape(algorithm.init, KEY, Data(jnp.linspace(-1, 1, 5)))
same = jax.tree.map(lambda before, after: before.dtype == after.dtype, state, result.state)
print(all(jax.tree.leaves(same)), np.isfinite(result.history.elbo).all())
sample = algorithm.sample(KEY, result.state, 2)
parts = result.state.posterior["beta"], result.state.frame, result.history.elbo, sample
print({str(leaf.dtype) for leaf in jax.tree.leaves(parts)} == {"float64"})
"""


def test_double_precision():
    # What is of the model is float64; the networks keep flax's float32 weights, and no step changes a type.
    assert run(DOUBLE, JAX_ENABLE_X64="1") == ["True", "True", "True"]


def test_imports_quickly(capsys):
    """What himlib takes itself, beside what it stands on; and nothing that only plots."""
    packages, own, plots = run(
        "import sys, time; start = time.process_time()\n"
        "import jax, flax.nnx, optax, numpyro.distributions; middle = time.process_time()\n"
        "import himlib; end = time.process_time()\n"
        "print(middle - start, end - middle, 'matplotlib' in sys.modules)"
    )
    with capsys.disabled():
        print(f"\nimports take {float(packages):.1f} s of CPU, and himlib's own {float(own):.1f} s")
    assert float(own) < float(packages) / 4 and plots == "False"
