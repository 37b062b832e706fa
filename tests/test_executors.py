"""Simulations of an external model are the same, bit for bit, by threads, processes, or on a cluster."""

import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpyro.distributions as dist
import pytest

from himlib import ExternalModel
from himlib.few_simulations.external import simulate_rows

ROWS = 90  # more than four chunks, the last of them not full


def noisy(rng, beta, covariate):
    """A simulator that fails now and then, and says so."""
    if rng.random() < 0.1:
        raise ArithmeticError("the solver gave up")
    return {"y": beta + rng.normal(size=2), "n": rng.poisson(covariate)}


def many(rng, beta, covariate):
    return beta[:, None] + rng.normal(size=(len(beta), 2))


def simulated(executor, simulate=noisy, batch=None):
    """What they are, as numbers and messages."""
    model = ExternalModel(dist.Normal(0, 1), simulate, batch)
    beta, covariate = np.linspace(-1, 1, ROWS), np.linspace(1, 5, ROWS)
    parts = simulate_rows(model, (1, 2), beta, covariate, range(ROWS), executor)
    rows = [row for _, part in parts for row in part]
    return [repr(row) if isinstance(row, Exception) else row for row in rows]


def processes():
    return ProcessPoolExecutor(2, mp_context=get_context("spawn"))


@contextmanager
def dask():
    """Two processes of a cluster on this machine."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client.get_executor()


@pytest.mark.parametrize("pool", [lambda: ThreadPoolExecutor(3), processes, dask])
def test_threads_processes_and_dask(pool):
    here, at_once = simulated(None), simulated(None, many, 25)
    with pool() as executor:
        there, at_once_there = simulated(executor), simulated(executor, many, 25)
    np.testing.assert_equal(there, here)
    np.testing.assert_equal(at_once_there, at_once)
    failed = sum(isinstance(row, str) for row in here)
    assert 1 <= failed <= 20


def test_mpi(tmp_path):
    """Two workers, and the process that asks them, started as clusters start them."""
    pytest.importorskip("mpi4py")
    if not (mpiexec := Path(sys.prefix, "bin", "mpiexec")).exists():
        pytest.skip("no mpiexec in this environment")
    script = tmp_path / "by_mpi.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from mpi4py.futures import MPIPoolExecutor\n"
        "from test_executors import simulated\n"
        "if __name__ == '__main__':\n"
        "    with MPIPoolExecutor() as executor:\n"
        "        print(executor.num_workers, simulated(executor))\n"
    )
    command = [mpiexec, "-n", "3", sys.executable, "-m", "mpi4py.futures", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"2 {simulated(None)}"
