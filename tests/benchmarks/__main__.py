"""Run every benchmark, each in its own process on one core."""

import os
import subprocess
import sys
from pathlib import Path

core = sorted(os.sched_getaffinity(0))[-1] if hasattr(os, "sched_getaffinity") else None
if core is not None:
    os.sched_setaffinity(0, {core})
flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
environment = {**os.environ, "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"), "XLA_FLAGS": flags}
for script in sorted(Path(__file__).parent.glob("bench_*.py")):
    print(f"== {script.stem}", flush=True)
    subprocess.run([sys.executable, "-m", f"tests.benchmarks.{script.stem}"], env=environment, check=True)
