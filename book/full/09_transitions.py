"""One series of Lotka and Volterra by a ratio that is shown nothing but a transition; a part of chapter 9.

python book/full/09_transitions.py [FEATURES] [SIMULATIONS] [SEED]

``fit_rounds`` learns r of one transition from the populations before and after it, and is held to the exact
posterior, in its sds. Settings were chosen on series of the seeds 0 to 6. With logarithms alone the seeds
201 to 205 were unseen; one of them sent us to the changes beside, whose unseen seeds are 206 to 210. Each run
is a piece, in ``book/full/_build``, so that a stopped one goes on where it was; with words, some pieces are
made and nothing is stored. On one core that has nothing else to do all take half an hour.
"""

import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from store import store

from himlib import Data, fit_rounds
from himlib.simulators.lotka_volterra import INITIAL, TRUE_BETA, LotkaVolterra, transitions

NAME, PIECES = Path(__file__).stem, Path(__file__).parent / "_build"
PARTICLES = 2_000
simulator = LotkaVolterra()


def logarithms(x, covariate):
    """Both states, in logarithms."""
    before, after = (jnp.log(jnp.maximum(state, 1e-3)) for state in (covariate, x))
    return jnp.concatenate([before, after - before])


def changes(x, covariate):
    """Both states, in logarithms that see no tenth of an animal, and how they change, in animals."""
    before, after = (jnp.log(state + 1) for state in (covariate, x))
    return jnp.concatenate([before, after - before, x - covariate])


FEATURES = {"changes": changes, "logarithms": logarithms}
ROWS = (
    ("changes", 150_000, range(206, 211)),
    ("changes", 30_000, range(206, 211)),
    ("logarithms", 150_000, range(201, 206)),
)


def rounded(values) -> list:
    return np.round(np.asarray(values, np.float64), 3).tolist()


def run(features: str, simulations: int, seed: int) -> dict:
    """One posterior, in exact sds, and what it cost."""
    series = simulator.simulate_series(jax.random.key(seed), jnp.array(TRUE_BETA), INITIAL, 150)
    covariate, x = transitions(series, INITIAL)
    exact = simulator.laplace(x, covariate)
    began = time.process_time()
    found = fit_rounds(
        jax.random.key(seed), simulator.model, Data(x, covariate), features=FEATURES[features],
        simulations=simulations, particles=PARTICLES, progress=False,
    )  # fmt: skip
    seconds, sd = time.process_time() - began, np.sqrt(np.asarray(exact.variance))
    return {
        "features": features,
        "simulations": simulations,
        "seed": seed,
        "error": rounded((np.mean(found.beta, 0) - exact.mean) / sd),
        "sd_ratio": rounded(np.std(found.beta, 0) / sd),
        "agreement": round(found.agreement, 3),
        "outcome": found.outcome.name,
        "processor_seconds": round(seconds, 1),
    }


def main(*wanted: str) -> None:
    rows = []
    PIECES.mkdir(exist_ok=True)
    for features, simulations, seeds in ROWS:
        for seed in seeds:
            words = [features, str(simulations), str(seed)]
            if not set(wanted) <= set(words):
                continue
            piece = PIECES / f"{NAME}_{'_'.join(words)}.json"
            if not piece.exists():
                piece.write_text(json.dumps(run(features, simulations, seed)))
            rows.append(json.loads(piece.read_text()))
            print(*rows[-1].values(), flush=True)
    if not wanted:
        store(NAME, {"runs": rows})


if __name__ == "__main__":
    main(*sys.argv[1:])
