"""The stored result of chapter 16: LFVI on ten data sets of the linear trait.

python book/full/16_causes.py

It runs the chapter's own cells, those that this table needs, with its size set to ``full`` and without
their assertions, so that what would fail them is stored too. To make
``himlib/book/results/16_causes.json`` anew, delete it. Three minutes on one core that has nothing else to do;
2 GB of memory.
"""

import ast
import time
from pathlib import Path

import nbformat
import numpy as np
from store import begun, store

NAME = Path(__file__).stem
(PATH,) = Path(__file__).parents[1].glob(f"{NAME}.ipynb")
CELLS = {cell.id: cell.source for cell in nbformat.read(PATH, as_version=4).cells}


class WithoutAssertions(ast.NodeTransformer):
    def visit_Assert(self, node):
        return None


def run(source: str, space: dict):
    exec(ast.unparse(WithoutAssertions().visit(ast.parse(source))), space)


def chapter() -> dict:
    """What the chapter's cells define before that table."""
    functions = [node for node in ast.parse(CELLS["structures"]).body if isinstance(node, ast.FunctionDef)]
    space = {}
    run(CELLS["imports"].replace('size = "quick"', 'size = "full"'), space)
    run(CELLS["scans"], space)
    run("\n".join(map(ast.unparse, functions)), space)
    assert space["size"] == "full"
    return space


def rounded(values) -> list:
    return np.round(np.asarray(values, float), 4).tolist()


def linear(space: dict) -> dict:
    """Of each data set: errors of the 202 means in exact sds, sds over the best, coverage, and precisions."""
    run(CELLS["linear"], space)
    names = "LFVI", "exact posterior", "mixed model + components", "components"
    return {
        "outcomes": [row[0] for row in space["rows"].values()],
        "rms": rounded([row[1] for row in space["rows"].values()]),
        "worst": rounded([row[2] for row in space["rows"].values()]),
        "sd_ratio": rounded([row[3] for row in space["rows"].values()]),
        "inside": rounded([row[5:] for row in space["rows"].values()]),
        "precision": {
            name: rounded([row[k] for row in space["ranks"].values()]) for k, name in enumerate(names)
        },
    }


def main():
    stored = begun(NAME)
    pieces = stored["pieces"]
    if "linear" not in pieces:
        pieces["linear"] = linear(chapter())
        store(NAME, {"pieces": pieces}, earlier=stored["made"])
        print(f"linear: {time.process_time():.0f} s of processor time", flush=True)


if __name__ == "__main__":
    main()
