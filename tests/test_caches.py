"""What JAX compiles is kept for the next process, also where something was compiled before."""

import os
import subprocess
import sys
import textwrap

COMPILES = """
import sys
import jax, jax.numpy as jnp
import himlib as hl
if sys.argv[2] == "late":
    jax.jit(lambda x: x + 1)(1.0)  # which settles that there is no cache
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name) if "cache_hits" in name else None)
place = hl.cache_compilation(sys.argv[1])

def long(x):
    for i in range(60):
        x = jnp.sort(jnp.sin(x) * i) @ jnp.ones((20, 20))
    return x.sum()

value = jax.jit(jax.grad(long))(jnp.linspace(0.0, 1.0, 20))
print(len(hits), len(list(place.iterdir())), value.tobytes().hex())
"""


def test_the_next_process_finds_what_was_compiled(tmp_path):
    def run(when):
        command = [sys.executable, "-c", textwrap.dedent(COMPILES), tmp_path / "kept", when]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=clean)
        hits, files, value = done.stdout.split()
        return int(hits), int(files), value

    clean = {name: value for name, value in os.environ.items() if "JAX_" not in name} | {
        "JAX_PLATFORMS": "cpu"
    }
    first, second = run("late"), run("early")
    assert first[0] == 0 and first[1] > 0
    assert second[0] > 0 and second[1] >= first[1] and second[2] == first[2]
    assert len(list((tmp_path / "kept").iterdir())) == 1  # one kind of processor


def test_by_default_it_lies_beside_the_data_sets(tmp_path):
    script = "import himlib as hl; print(hl.cache_compilation().parent)"
    made = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True,
        env={**os.environ, "HIMLIB_DATA": str(tmp_path)},
    )  # fmt: skip
    assert made.stdout.strip() == str(tmp_path / "compiled")
