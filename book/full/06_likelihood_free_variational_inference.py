"""The stored results of chapter 6: each setting changed by itself, on the chapter's five data sets.

python book/full/06_likelihood_free_variational_inference.py

Model, data, networks, rates, number of classifier steps and yardsticks are those of the chapter, whose
cells are executed here. On one side each change is made to Algorithm 1 as printed, on the other it is taken
back from the chapter's settings; then some more widths. Nothing was tuned for any row.
"""

import sys
from pathlib import Path

from store import store

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
import notebooks  # noqa: E402

NAME = Path(__file__).stem
CELLS = "imports", "data", "himlib", "judge"
CHANGES = {
    "predictive reference": {"reference": "predictive"},
    "width 4": {"width": 4.0},
    "5 classifier steps": {"ratio_steps": 5},
    "8 draws of beta": {"posterior_samples": 8},
}
WIDTHS = 3.0, 6.0, 12.0


def main():
    cells = {cell.id: cell.source for cell in notebooks.read(HERE.parent / f"{NAME}.ipynb").cells}
    space = {}
    for name in CELLS:
        exec(compile(cells[name], name, "exec"), space)
    printed = space["ALGORITHM_1"]
    ours = {**space["OURS"], "posterior_samples": 8}
    settings = {"as printed": printed}
    settings |= {f"+ {name}": {**printed, **change} for name, change in CHANGES.items()}
    for name, change in CHANGES.items():
        settings[f"- {name}"] = {**ours, **{key: printed[key] for key in change}}
    settings["ours"] = ours
    settings |= {f"ours, width {width:g}": {**ours, "width": width} for width in WIDTHS}
    judged = {}
    for name, changes in settings.items():
        algorithm, steps = space["build"](**changes)
        runs = space["fit_all"](algorithm, steps)
        judged[name] = [
            [round(float(number), 4) for number in space["judge"](algorithm, run, space["data_of"](seed))]
            for seed, run in runs.items()
        ]
        print(name, judged[name], flush=True)
    store(NAME, {"seeds": list(space["SEEDS"]), "judged": judged})


if __name__ == "__main__":
    main()
