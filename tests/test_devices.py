"""Other machines: many devices, accelerators, double precision, a fresh process."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

from himlib.algorithm import Data
from himlib.families import FullRankNormal, ImplicitConditional, MeanFieldNormal
from himlib.lfvi import lfvi
from himlib.networks import ratio_network
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
from himlib.training import fit
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


DOUBLE = """
from test_devices import *
import numpy as np
from himlib.training import fit

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
    code = (
        "import time; start = time.process_time(); import himlib.training; print(time.process_time() - start)"
    )
    (seconds,) = run(code)
    with capsys.disabled():
        print(f"\nimport himlib.training takes {float(seconds):.1f} s of CPU")
    assert float(seconds) < 3
