"""All simulations of a run: in memory, and in a folder that a kill does not lose."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np


def write(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays whole or not at all."""
    aside = path.with_suffix(".part")
    with aside.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def read(path: Path) -> dict[str, np.ndarray]:
    """Read what was written."""
    with np.load(path) as file:
        return dict(file)


class Bank:
    """Simulations by rounds, kept in a folder if there is one.

    A folder holds ``run.json``, which tells one run from another; for each round ``v_0.npz`` with its
    proposals, and ``x_0.npz`` with what was simulated there; until a round is complete, one for each chunk.
    """

    def __init__(self, folder: str | os.PathLike | None, marks: dict[str, Any]):
        self.folder = None if folder is None else Path(folder)
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        about = self.folder / "run.json"
        if about.exists():
            stored = json.loads(about.read_text())
            differ = [name for name in marks if stored.get(name) != marks[name]]
            if differ:
                raise ValueError(
                    f"bank: {self.folder.name} is of another run (other {' and '.join(differ)}); "
                    "name a new folder."
                )
        else:
            aside = about.with_suffix(".part")
            aside.write_text(json.dumps(marks))
            os.replace(aside, about)

    def find(self, name: str) -> dict[str, np.ndarray] | None:
        """What is kept under a name, if anything is."""
        path = self.folder and self.folder / f"{name}.npz"
        return read(path) if path and path.exists() else None

    def keep(self, name: str, **arrays: np.ndarray) -> None:
        """Keep arrays under a name."""
        if self.folder is not None:
            write(self.folder / f"{name}.npz", **arrays)

    def chunks(self, i: int) -> list[dict[str, np.ndarray]]:
        """The chunks of a round that is not complete, from its first row on."""
        found = [] if self.folder is None else self.folder.glob(f"chunk_{i}_*.npz")
        return [read(path) for path in sorted(found)]

    def forget_chunks(self, i: int) -> None:
        """Remove the chunks of a round, which is complete."""
        for path in [] if self.folder is None else self.folder.glob(f"chunk_{i}_*.npz"):
            path.unlink()


def pack(x: Any, ok: np.ndarray) -> dict[str, np.ndarray]:
    """Name the leaves of x for a file.

    Examples
    --------
    >>> sorted(pack({"a": np.zeros(2), "b": np.ones(2)}, np.ones(2, bool)))
    ['ok', 'x0', 'x1']
    """
    return {"ok": ok} | {f"x{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(x))}


def unpack(arrays: dict[str, np.ndarray], example: Any) -> tuple[Any, np.ndarray]:
    """Undo :func:`pack`."""
    leaves = [arrays[f"x{i}"] for i in range(len(arrays) - 1)]
    return jax.tree.structure(example).unflatten(leaves), arrays["ok"]
