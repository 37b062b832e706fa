"""The stored results of chapter 14: posteriors of injected noises, and digits by six ways of training.

python book/full/14_deep_implicit_models.py

It runs the chapter's own functions: the cells of the notebook that are tagged "shared". Each seed of each
experiment is a piece of its own in ``book/full/_build``, so that a stopped run goes on where it was; delete
that folder to begin anew. Twenty-five minutes on one core that has nothing else to do; 1 GB of memory.
"""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
from store import store

NAME = Path(__file__).stem
FOLDER = Path(__file__).parent / "_build" / NAME
SEEDS = (0, 1, 2, 3, 4)
POSTERIOR_STEPS, STEPS, LONG = 14_000, 3000, 9000


def chapter():
    """The functions of the chapter."""
    names = {}
    for cell in nbformat.read(Path(__file__).parents[1] / f"{NAME}.ipynb", as_version=4).cells:
        if "shared" in cell.metadata.get("tags", []):
            exec(cell.source, names)
    return SimpleNamespace(**names)


def rounded(values, digits=3):
    return np.asarray(values, float).round(digits).tolist()


def posterior(book, seed):
    found, _ = book.posterior_run(seed, POSTERIOR_STEPS)
    return {"steps": POSTERIOR_STEPS, **{name: rounded(values) for name, values in found.items()}}


def digits(name, steps):
    def run(book, seed):
        judged = book.judge(*map(np.asarray, book.train(name, seed, steps)))
        return {"steps": steps, **{field: round(value, 4) for field, value in judged.items()}}

    return run


EXPERIMENTS = {
    "posterior": posterior,
    **{
        name: digits(name, STEPS)
        for name in ("joint matching", "r four times faster", "cycle cost", "prior-contrastive", "VAE")
    },
    "three times longer": digits("joint matching", LONG),
}


def path(experiment, seed):
    return FOLDER / f"{experiment.replace(' ', '_')}_{seed}.json"


def piece(book, experiment, seed):
    began = time.process_time()
    found = {"seed": seed, **EXPERIMENTS[experiment](book, seed)}
    found["processor_seconds"] = round(time.process_time() - began, 1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    path(experiment, seed).write_text(json.dumps(found))
    print(time.strftime("%H:%M"), experiment, found, flush=True)


def assemble():
    """All pieces that there are by now."""
    found = {
        experiment: [
            json.loads(path(experiment, seed).read_text())
            for seed in SEEDS
            if path(experiment, seed).exists()
        ]
        for experiment in EXPERIMENTS
    }
    return {experiment: pieces for experiment, pieces in found.items() if pieces}


def main():
    missing = [(name, seed) for seed in SEEDS for name in EXPERIMENTS if not path(name, seed).exists()]
    earlier = sum(one["processor_seconds"] for pieces in assemble().values() for one in pieces) / 60
    book = chapter() if missing else None
    for experiment, seed in missing:
        piece(book, experiment, seed)
    store(NAME, assemble(), earlier={"minutes": earlier, "processor_minutes": earlier, "memory_mb": 0})


if __name__ == "__main__":
    main()
