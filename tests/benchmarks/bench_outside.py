"""A simulator outside of JAX that takes 10 ms: what 10,000 simulations cost beside their own time, and kills.

As many processes simulate as there are cores for them, two at most: python -m tests.benchmarks.bench_outside
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import jax
import numpy as np
import numpyro.distributions as dist

from himlib import Data, ExternalModel, fit_rounds

SIMULATIONS, SECONDS, KILLS = 10_000, 0.01, 5
PROCESSES = min(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def simulate(rng, beta, covariate):
    """A normal, after 10 ms of work."""
    end = time.process_time() + SECONDS
    while time.process_time() < end:
        pass
    return beta["shift"] + beta["scale"] * rng.standard_normal(2)


def run(bank: str | None = None) -> tuple[np.ndarray, float, float]:
    """The draws, and the seconds that they took: on the wall, and of this process's processor."""
    prior = {"shift": dist.Normal(0.0, 1.0), "scale": dist.HalfNormal(1.0)}
    data = Data(np.array([[0.3, 0.9]], "float32"))
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as executor:
        list(executor.map(abs, range(PROCESSES)))
        wall, own = time.perf_counter(), time.process_time()
        fitted = fit_rounds(
            jax.random.key(0), ExternalModel(prior, simulate), data, simulations=SIMULATIONS,
            executor=executor, bank=bank, progress=False,
        )  # fmt: skip
        seconds = time.perf_counter() - wall, time.process_time() - own
    return np.stack(jax.tree.leaves(fitted.beta)), *seconds


def main() -> None:
    draws, wall, own = run()
    least = SIMULATIONS * SECONDS / PROCESSES
    ratio = (wall - 45) / least
    print(f"outside: {wall:.0f} s, of which {least:.0f} s have to be; the rest takes {own:.0f} cpu s")
    print(f"outside_ratio {ratio:.2f} of the simulations' own time, beside 45 s (goal at most 1.2)")
    rng, struck, began = np.random.default_rng(), [], time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "draws.npy")
        while not out.exists():
            command = [sys.executable, "-m", "tests.benchmarks.bench_outside", Path(folder, "bank"), out]
            child = subprocess.Popen(command, start_new_session=True)
            try:
                child.wait(rng.uniform(wall / 20, wall / 3) if len(struck) < KILLS else None)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)  # and what simulates for it
                child.wait()
                struck.append(sum(1 for _ in Path(folder, "bank").glob("*.npz")))
        same = np.array_equal(np.load(out), draws)
    seconds = time.perf_counter() - began
    print(f"outside_kills {len(struck)}, with so many files kept: {struck}; {seconds:.0f} s in all")
    print(f"outside_same {same} (goal True)")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        np.save(sys.argv[2], run(sys.argv[1])[0])
    else:
        main()
