"""The jump process on one core: events per second of whole series, beside NumPy in lock step.

Run ``python -m tests.benchmarks.bench_jump_process``.
"""

import jax
import jax.numpy as jnp
import numpy as np

from himlib.simulators.jump_process import JumpProcess
from himlib.simulators.lotka_volterra import INITIAL, TRUE_BETA
from tests.benchmarks.bench_simulators import STEPS, best_seconds, report

CHANGES = np.array([[1, 0], [-1, 0], [0, -1], [0, 1]], np.float32)


def numpy_series(generator, size, interval=0.2, max_events=10_000):
    """An event of every series in each turn; series that are done leave. Returns the number of events."""
    rates = np.exp(np.float32(TRUE_BETA))
    x, remaining = np.tile(np.float32(INITIAL), (size, 1)), np.full(size, interval, np.float32)
    series, number = np.full((size, STEPS, 2), np.nan, np.float32), np.arange(size)
    record, events = np.zeros(size, int), np.zeros(size, int)
    total_events = 0
    while len(x):
        prey, predators = x.T
        pairs = prey * predators
        sums = np.cumsum([rates[0] * prey, rates[1] * pairs, rates[2] * predators, rates[3] * pairs], axis=0)
        with np.errstate(divide="ignore"):
            wait = generator.standard_exponential(len(x), np.float32) / sums[-1]
        crosses = wait >= remaining
        series[number[crosses], record[crosses]] = x[crosses]
        choice = (generator.random(len(x), np.float32) * sums[-1] >= sums).sum(0)
        x = np.where(crosses[:, None], x, x + CHANGES[np.minimum(choice, 3)])
        remaining = np.where(crosses, np.float32(interval), remaining - wait)
        record, events = record + crosses, events + ~crosses
        alive = (record < STEPS) & (events <= max_events)
        total_events += events[~alive].sum()
        x, remaining, record, events, number = (
            values[alive] for values in (x, remaining, record, events, number)
        )
    return total_events


def main(size=2000):
    process, generator = JumpProcess(), np.random.default_rng(0)
    beta, start = jnp.array(TRUE_BETA), jnp.array(INITIAL)
    events = {}  # of the last turn: both contestants make nearly as many in every one

    def by_himlib():
        _, counts = process._simulate(jax.random.key(0), beta, start, STEPS, size)
        events["himlib jump process"] = int(counts.sum())

    def by_numpy():
        events["numpy in lock step"] = int(numpy_series(generator, size))

    best = best_seconds({"himlib jump process": by_himlib, "numpy in lock step": by_numpy}, turns=3)
    per_event = {name: seconds / events[name] for name, seconds in best.items()}
    report("events", 1, per_event, "himlib jump process", {"numpy in lock step": 2.0})
    share = 1 / per_event["himlib jump process"] / 5e6
    print(f"jump_process_share_of_goal {share:.2f} (goal 1: 5,000,000 events/s)")


if __name__ == "__main__":
    main()
