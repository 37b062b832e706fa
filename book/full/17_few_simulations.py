"""Few simulations, held to exact posteriors of three problems; a part of chapter 17's comparison.

python book/full/17_few_simulations.py [METHOD] [part of a problem's name] [SIMULATIONS]

The problems are those of problems.py, with observations of seeds that no setting was chosen on. Beside himlib
stands sbi, which rivals.py runs in an environment of its own, in ``_build/sbi``. Each run is a piece, in
``book/full/_build``, so that a stopped one goes on where it was. With words, some pieces are made and nothing
is stored. On one core himlib takes half an hour, and sbi hours.
"""

import json
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from problems import PROBLEMS
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neural_network import MLPClassifier
from store import store

from himlib import Data, ExternalModel, fit_rounds

NAME, OBSERVATIONS, BUDGETS = Path(__file__).stem, (101, 102, 103), (1_000, 10_000)
METHODS = "himlib", "NPE", "NRE", "SNPE", "TSNPE"
HERE = Path(__file__).parent
PIECES, RIVAL, SBI = HERE / "_build", HERE.parent.parent / "_build" / "sbi", "sbi==0.27.0"


def prior_of(problem):
    kind, first, second = problem.prior
    prior = dist.Uniform if kind == "uniform" else dist.LogNormal
    return prior(jnp.float32(first), jnp.float32(second)).to_event(1)


def c2st(exact, draws):
    """How well a network tells the draws from exact ones: .5 is not at all (settings of Lueckmann et al.)."""
    both = (np.concatenate([exact, draws]) - exact.mean(0)) / exact.std(0)
    labels = np.repeat([0, 1], [len(exact), len(draws)])
    network = MLPClassifier((10 * exact.shape[1],) * 2, max_iter=1000, random_state=1)
    folds = KFold(5, shuffle=True, random_state=1)
    return float(cross_val_score(network, both, labels, cv=folds).mean())


def himlib_draws(name, observation, budget):
    """Draws of fit_rounds, its outcome, and the seconds that it took."""
    problem = PROBLEMS[name]
    model = ExternalModel(prior_of(problem), problem.simulate, batch=500)
    data = Data(jnp.asarray(problem.observe(observation)[0], jnp.float32)[None])
    began = time.process_time()
    run = fit_rounds(jax.random.key(2000 + observation), model, data, simulations=budget, progress=False)
    return np.asarray(run.beta, np.float64), run.outcome.name, time.process_time() - began


def rival_draws(method, name, observation, budget):
    """Draws of sbi, and the seconds that it took."""
    python = RIVAL / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "uv", "venv", "--quiet", "--python", "3.11", RIVAL], check=True)
        install = ["uv", "pip", "install", "--quiet", "--python", RIVAL, SBI, "scikit-learn"]
        subprocess.run([sys.executable, "-m", *install], check=True)
    out = PIECES / f"{NAME}_draws.json"
    command = [python, HERE / "rivals.py", method, name, str(observation), str(budget), out]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    made = json.loads(out.read_text())
    return np.array(made["draws"]), None, made["processor_seconds"]


def run(method: str, name: str, observation: int, budget: int) -> dict:
    """One posterior, and what it cost."""
    if method == "himlib":
        draws, outcome, seconds = himlib_draws(name, observation, budget)
    else:
        draws, outcome, seconds = rival_draws(method, name, observation, budget)
    exact = PROBLEMS[name].observe(observation)[1]
    return {
        "method": method,
        "problem": name,
        "observation": observation,
        "simulations": budget,
        "c2st": round(c2st(exact, draws), 4),
        "error": (np.abs(draws.mean(0) - exact.mean(0)) / exact.std(0)).round(3).tolist(),
        "sd_ratio": (draws.std(0) / exact.std(0)).round(3).tolist(),
        "outcome": outcome,
        "processor_seconds": round(seconds, 1),
    }


def main(*wanted: str) -> None:
    rows = []
    PIECES.mkdir(exist_ok=True)
    for method, budget, name, observation in product(METHODS, BUDGETS[::-1], PROBLEMS, OBSERVATIONS):
        piece = PIECES / f"{NAME}_{method}_{name.replace(' ', '_')}_{observation}_{budget}.json"
        if not all(word in (method, str(budget)) or word in name for word in wanted):
            continue
        if not piece.exists():
            piece.write_text(json.dumps(run(method, name, observation, budget)))
        rows.append(json.loads(piece.read_text()))
        print(*rows[-1].values(), flush=True)
    if not wanted:
        store(NAME, {"runs": rows})


if __name__ == "__main__":
    main(*sys.argv[1:])
