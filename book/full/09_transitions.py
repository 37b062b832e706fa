"""One series of Lotka and Volterra by a ratio that is shown nothing but a transition; a part of chapter 9.

python book/full/09_transitions.py [SEED] [SIMULATIONS]

``fit_rounds`` learns r of one transition from the populations before and after it, on series of seeds that no
setting was chosen on, and is held to the exact posterior, in its sds. Each run is a piece, in
``book/full/_build``, so that a stopped one goes on where it was; with words, some pieces are made and nothing
is stored. On one core that has nothing else to do all take half an hour.
"""

import json
import sys
import time
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from store import store

from himlib import Data, fit_rounds
from himlib.simulators.lotka_volterra import INITIAL, TRUE_BETA, LotkaVolterra, transitions

NAME, PIECES = Path(__file__).stem, Path(__file__).parent / "_build"
BUDGETS, SEEDS, PARTICLES = (150_000, 30_000), (201, 202, 203, 204, 205), 2_000
simulator = LotkaVolterra()


def populations(x, covariate):
    """Both states, in logarithms."""
    before, after = (jnp.log(jnp.maximum(state, 1e-3)) for state in (covariate, x))
    return jnp.concatenate([before, after - before])


def rounded(values) -> list:
    return np.round(np.asarray(values, np.float64), 3).tolist()


def run(seed: int, simulations: int) -> dict:
    """One posterior, in exact sds, and what it cost."""
    series = simulator.simulate_series(jax.random.key(seed), jnp.array(TRUE_BETA), INITIAL, 150)
    covariate, x = transitions(series, INITIAL)
    exact = simulator.laplace(x, covariate)
    began = time.process_time()
    found = fit_rounds(
        jax.random.key(seed), simulator.model, Data(x, covariate), features=populations,
        simulations=simulations, particles=PARTICLES, progress=False,
    )  # fmt: skip
    seconds, sd = time.process_time() - began, np.sqrt(np.asarray(exact.variance))
    row = {
        "seed": seed,
        "simulations": simulations,
        "error": rounded((np.mean(found.beta, 0) - exact.mean) / sd),
        "sd_ratio": rounded(np.std(found.beta, 0) / sd),
        "agreement": round(found.agreement, 3),
        "outcome": found.outcome.name,
        "processor_seconds": round(seconds, 1),
    }
    return row


def main(*wanted: str) -> None:
    rows = []
    PIECES.mkdir(exist_ok=True)
    for simulations, seed in product(BUDGETS, SEEDS):
        piece = PIECES / f"{NAME}_{simulations}_{seed}.json"
        if not all(word in (str(simulations), str(seed)) for word in wanted):
            continue
        if not piece.exists():
            piece.write_text(json.dumps(run(seed, simulations)))
        rows.append(json.loads(piece.read_text()))
        print(*rows[-1].values(), flush=True)
    if not wanted:
        store(NAME, {"runs": rows})


if __name__ == "__main__":
    main(*sys.argv[1:])
