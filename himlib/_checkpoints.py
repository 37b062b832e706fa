"""Files from which a run goes on: its state, its history, and what tells it from another run."""

import hashlib
import io
import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np

from himlib.base import Info, State

DIFFER = {"key": "key differs", "data": "data differ", "steps": "steps differ", "chunk": "chunk differs"}


def fingerprint(value: Any) -> str:
    """SHA-256 of arrays, programs (jaxprs) and containers of them, the same in every process.

    A program counts with all that it computes with: its operations, their settings, and the numbers that
    it closes over; how its functions and variables are called does not count.

    Examples
    --------
    >>> first, second, other = (fingerprint(jax.make_jaxpr(lambda x: c * x)(1.0)) for c in (2.0, 2.0, 3.0))
    >>> first == second, first == other
    (True, False)
    """
    digest = hashlib.sha256()

    def feed(value):
        if hasattr(value, "eqns"):
            feed(list(getattr(value, "consts", ())))
            feed_program(getattr(value, "jaxpr", value))
        elif isinstance(value, dict):
            feed([(name, value[name]) for name in sorted(value, key=repr)])
        elif isinstance(value, set | frozenset):
            feed(sorted(map(repr, value)))
        elif isinstance(value, tuple | list):
            digest.update(f"({len(value)}".encode())
            for part in value:
                feed(part)
        elif hasattr(value, "__array__"):
            if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
                value = jax.random.key_data(value)
            array = np.asarray(value)
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        elif callable(value) or hasattr(value, "call_wrapped"):  # a rule, or a function outside of JAX
            digest.update(type(value).__name__.encode())
        else:
            digest.update(re.sub("0x[0-9a-f]+", "", repr(value)).encode())  # no addresses

    def feed_program(jaxpr):
        numbers: dict[Any, int] = {}

        def name(variables):
            for variable in variables:
                if hasattr(variable, "val"):
                    feed(variable.val)
                else:
                    feed((numbers.setdefault(variable, len(numbers)), str(variable.aval)))

        name([*jaxpr.constvars, *jaxpr.invars])
        for equation in jaxpr.eqns:
            feed(equation.primitive.name)
            name(equation.invars)
            feed({name: value for name, value in equation.params.items() if name != "name"})
            name(equation.outvars)
        name(jaxpr.outvars)

    feed(value)
    return digest.hexdigest()


def fingerprint_data(data: Any) -> str:
    """Types, shapes and values as a run sees them, and the tree that holds them."""
    leaves, tree = jax.tree.flatten(data)
    return fingerprint([str(tree), *map(jnp.asarray, leaves)])


def alike(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two leaves of a first state are equal up to what another processor rounds differently."""
    if not np.issubdtype(first.dtype, np.inexact):
        return np.array_equal(first, second)
    return np.allclose(first, second, rtol=1e-3, atol=1e-5 * np.abs(second).max(initial=0.0), equal_nan=True)


class Checkpoint:
    """A run on disk: ``path`` holds the state, and ``path`` with ``.history`` added what its steps report.

    Each chunk is appended to the history first. Then the state, with the length and the checksum of the
    history that belongs to it, is written aside and renamed: a kill at any moment leaves a state and at
    least its own history, and what is there beyond is overwritten. So a chunk costs as much at the end of
    a run as at its beginning.

    Parameters
    ----------
    path
        The file.
    first
        The state that the run begins with.
    program
        ``program()`` gives what the run computes, for :func:`fingerprint`.
    marks
        What the run must have in common with one that it goes on from: key, data, steps and chunk.
    """

    def __init__(self, path: Path, first: State, program: Callable, **marks: Any):
        self.path, self.history = path, path.with_name(f"{path.name}.history")
        self.first, self.program, self.marks = first, program, marks
        self.pieces = self.length = self.checksum = 0

    def refuse(self, difference: str) -> None:
        raise ValueError(
            f"checkpoint: {self.path.name} is of another run (its {difference}); name a new file."
        )

    def load(self) -> tuple[State, list, tuple]:
        """State, history and earlier rounds' states to go on from: the first state alone without a file."""
        if not self.path.exists():
            self.marks["program"] = fingerprint(self.program())
            return self.first, [], ()
        leaves, tree = jax.tree.flatten(self.first)
        try:
            with self.path.open("rb") as file, np.load(file) as arrays:
                marks = {name: arrays[name] for name in (*self.marks, "program")}
                saved = [
                    arrays[f"state_{i}"] for i in range(sum(name.startswith("state_") for name in arrays))
                ]
                self.pieces, self.length, self.checksum = (
                    int(arrays[name]) for name in ("pieces", "length", "checksum")
                )
            with self.history.open("rb") as file:
                content = file.read(self.length)
            if zlib.crc32(content) != self.checksum:
                raise ValueError(f"{self.history.name} is not the history that belongs to it")
            past = io.BytesIO(content)
            first = [np.load(past) for _ in leaves]
            pieces = [
                (Info(*(np.load(past) for _ in Info._fields)), np.load(past)) for _ in range(self.pieces)
            ]
        except (BadZipFile, EOFError, FileNotFoundError, KeyError, ValueError) as error:
            raise ValueError(f"checkpoint: {self.path.name} cannot be read ({error}); delete it.") from error
        for name, value in self.marks.items():
            if not np.array_equal(marks[name], value):
                self.refuse(DIFFER[name])
        states = [saved[i : i + len(leaves)] for i in range(0, len(saved), len(leaves))]
        kinds = [[(leaf.shape, leaf.dtype) for leaf in state] for state in [*states, leaves]]
        if any(kind != kinds[-1] for kind in kinds):
            self.refuse("parameters differ")
        self.marks["program"] = fingerprint(self.program())
        # A simulator outside of JAX is seen in the first state alone.
        if marks["program"] != self.marks["program"] or not all(map(alike, first, map(np.asarray, leaves))):
            self.refuse("model or settings differ")
        state, *earlier = (tree.unflatten(map(jnp.asarray, saved)) for saved in states)
        return state, pieces, tuple(earlier)

    def save(self, state: State, info: Info, moments: np.ndarray, earlier: tuple = ()) -> None:
        """Append what the last chunk reported, and put its state into the place of the one before."""
        chunk = io.BytesIO()
        for values in (*([] if self.pieces else jax.tree.leaves(self.first)), *info, moments):
            np.save(chunk, values)
        content = chunk.getvalue()
        with self.history.open("r+b" if self.pieces else "wb") as file:
            file.truncate(self.length)
            file.seek(self.length)
            file.write(content)
        self.pieces, self.length = self.pieces + 1, self.length + len(content)
        self.checksum = zlib.crc32(content, self.checksum)
        aside = self.path.with_name(f"{self.path.name}.part")
        with aside.open("wb") as file:  # a name without .npz would get one
            arrays = {f"state_{i}": leaf for i, leaf in enumerate(jax.tree.leaves((state, *earlier)))}
            counts = {"pieces": self.pieces, "length": self.length, "checksum": self.checksum}
            np.savez(file, **(self.marks | counts | arrays))
        os.replace(aside, self.path)
