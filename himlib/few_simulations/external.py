"""Simulators that are not JAX: in NumPy, in C++, in R, or a program that is called."""

import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from himlib._checks import check_counts
from himlib.base import Data
from himlib.models import HierarchicalImplicitModel, Space

__all__ = ["ExternalModel"]

CHUNK = 20  # simulations in one job of an executor, and in one file


@dataclass(frozen=True, eq=False)
class ExternalModel:
    r"""A model whose simulator is any function of Python: it may run NumPy, C++, R or another program.

    It serves :func:`fit_rounds`, which simulates little and keeps everything. Local latents are whatever the
    function draws and forgets.

    Parameters
    ----------
    prior
        A numpyro distribution over :math:`\beta`, or a pytree of them, as for
        :class:`~himlib.models.HierarchicalImplicitModel`.
    simulate
        ``simulate(rng, beta, covariate) -> x`` for one datum: ``rng`` is a :class:`numpy.random.Generator`,
        another one for every simulation and the same whoever runs it; beta and covariate are in NumPy, in the
        shapes of the prior and of a row of the data. To reach other processes by the standard library's pools
        it must be a function of a module. An exception is a failed simulation, and so is an x unlike a row of
        the data where others are like it; a process that dies ends the run.
    batch
        How many beta ``simulate`` takes at a time, with a leading axis that x has, too; then ``rng`` is one
        for all of them, and where it raises, they are simulated one by one. By default one, without the axis.

    Raises
    ------
    TypeError, ValueError
        If the prior is no numpyro distribution, the simulator no function, or the batch no positive integer.

    Examples
    --------
    >>> import numpyro.distributions as dist
    >>> def simulate(rng, beta, covariate):
    ...     return rng.poisson(beta["rate"])
    >>> ExternalModel({"rate": dist.LogNormal(0.0, 1.0)}, simulate).space.size
    1

    NumPy does many at a time for the price of one:

    >>> def simulate_many(rng, beta, covariate):
    ...     return rng.poisson(beta["rate"])  # n of them
    >>> ExternalModel({"rate": dist.LogNormal(0.0, 1.0)}, simulate_many, batch=500).batch
    500
    """

    prior: Any
    simulate: Callable
    batch: int | None = None

    def __post_init__(self):
        if not callable(self.simulate):
            got = type(self.simulate).__name__
            raise TypeError(f"simulate: expected a function of (rng, beta, covariate), got {got}.")
        if self.batch is not None:
            check_counts(batch=self.batch)
        _ = self.inner  # which refuses what is no prior

    @cached_property
    def inner(self) -> HierarchicalImplicitModel:
        """The prior and its coordinates, as a model that nobody simulates."""
        return HierarchicalImplicitModel(self.prior, simulate=_elsewhere)

    @property
    def space(self) -> Space:
        """The unconstrained coordinates of the prior."""
        return self.inner.space

    def simulate_data(self, key: jax.Array, beta: Any, data: Data) -> Any:
        """Simulate a data set like the data at each beta, in this process.

        Parameters
        ----------
        key
            A typed key.
        beta
            Rows, with a leading axis of L.
        data
            N data, whose shapes, types and covariates the simulated ones have.

        Returns
        -------
        Any
            x, with leading axes of L and N.

        Raises
        ------
        ValueError
            If a simulation fails or is not finite, from its first exception.

        Examples
        --------
        >>> import numpyro.distributions as dist
        >>> from himlib.base import Data
        >>> model = ExternalModel(dist.Normal(0.0, 1.0), lambda rng, beta, covariate: beta + rng.normal())
        >>> model.simulate_data(jax.random.key(0), np.zeros(3), Data(np.ones(5))).shape
        (3, 5)
        """
        draws, size = (len(jax.tree.leaves(tree)[0]) for tree in (beta, data))
        rows = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf), size, axis=0), beta)
        covariate = jax.tree.map(lambda leaf: np.concatenate([np.asarray(leaf)] * draws), data.covariate)
        example = jax.tree.map(lambda leaf: np.asarray(leaf[0]), data.x)
        seed = tuple(int(word) for word in np.asarray(jax.random.key_data(key)).ravel())
        parts = simulate_rows(self, seed, rows, covariate, range(draws * size), None)
        x, ok, error = collect([x for _, results in parts for x in results], example)
        if not ok.all():
            failed = f"{(~ok).sum()} of {len(ok)} simulations failed or were not finite."
            raise ValueError(f"simulator: {failed}") from error
        return jax.tree.map(lambda leaf: leaf.reshape(draws, size, *leaf.shape[1:]), x)


def _elsewhere(key, beta, covariate):
    raise TypeError("an ExternalModel is simulated outside of JAX, by fit_rounds.")


def run_chunk(simulate: Callable, jobs: list) -> list:
    """Simulate job after job; an exception takes the place of its x.

    Examples
    --------
    >>> run_chunk(lambda rng, beta, covariate: 1 / beta, [((0,), 2.0, None), ((1,), 0, None)])
    [array(0.5), ZeroDivisionError('division by zero')]
    """
    return [_simulate_one(simulate, *job) for job in jobs]


def _simulate_one(simulate, seed, beta, covariate) -> Any:
    """A copy of x, as simulators may use an array again; or the exception, so that it can be pickled."""
    try:
        return jax.tree.map(np.array, simulate(np.random.default_rng(seed), beta, covariate))
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return RuntimeError(repr(error))
        return error


def run_batch(simulate: Callable, jobs: list) -> list:
    """Simulate jobs at once; where that raises, one by one.

    Raises
    ------
    ValueError
        If there is not one x for each beta.

    Examples
    --------
    >>> run_batch(lambda rng, beta, covariate: 1 / beta, [((0,), 2.0, None), ((1,), 4.0, None)])
    [array(0.5), array(0.25)]
    """
    seeds, *rows = zip(*jobs, strict=True)
    beta, covariate = (jax.tree.map(lambda *leaves: np.stack(leaves), *trees) for trees in rows)
    try:
        x = simulate(np.random.default_rng(seeds[0]), beta, covariate)
    except Exception:
        return [_first_row(simulate, *job) for job in jobs]
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(x)]
    if any(shape[:1] != (len(jobs),) for shape in shapes):
        raise ValueError(f"simulate: expected x with a leading axis of {len(jobs)}, got shapes {shapes}.")
    return [_row(x, i) for i in range(len(jobs))]


def simulate_rows(
    model: ExternalModel, seed: tuple, beta: Any, covariate: Any, rows: range, executor: Executor | None
) -> Iterator[tuple[int, list]]:
    """Give the first row of each chunk, and its x, in order; row i has the same noise whoever simulates."""

    def row(i):
        return (*seed, i), *jax.tree.map(lambda leaf: leaf[i], (beta, covariate))

    run, chunk = (run_chunk, CHUNK) if model.batch is None else (run_batch, model.batch)
    parts = [rows[start : start + chunk] for start in range(0, len(rows), chunk)]
    if executor is None:
        for part in parts:
            yield part[0], run(model.simulate, [row(i) for i in part])
        return
    futures = [executor.submit(run, model.simulate, [row(i) for i in part]) for part in parts]
    try:
        for part, future in zip(parts, futures, strict=True):
            yield part[0], future.result()
    finally:
        for future in futures:
            future.cancel()


def _first_row(simulate, seed, beta, covariate) -> Any:
    """x of one beta, by a simulator of many."""
    one = jax.tree.map(lambda leaf: np.asarray(leaf)[None], (beta, covariate))
    x = _simulate_one(simulate, seed, *one)
    return x if isinstance(x, Exception) else _row(x, 0)


def _row(x, i) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf[i]), x)


def _hint(x, shapes, seen) -> str:
    """Name the likely cause of an x unlike a row of the data."""
    if _is_pair(x):
        return "; return x alone, as no (z, x) is asked for here"
    more = [shape[1:] for shape in seen if isinstance(shape, tuple) and shape]
    return "; for one observation data.x[None]" if more == shapes else ""


def _is_pair(x) -> bool:
    return isinstance(x, tuple) and len(x) == 2 and x[0] is None


def collect(results: list, example: Any) -> tuple[Any, np.ndarray, Exception | None]:
    """Put simulated x into arrays like one row of ``example``; failures are rows of zeros that are not ok.

    Raises
    ------
    ValueError
        If x are numbers that the data's type cannot hold, or no x of a whole chunk is like a row of the data.

    Examples
    --------
    >>> x, ok, error = collect([1.5, ValueError("solver"), np.nan], np.zeros(()))
    >>> print(x, ok, error)
    [1.5 0.  0. ] [ True False False] solver
    """
    leaves, tree = jax.tree.flatten(example)
    arrays = [np.zeros((len(results), *np.shape(leaf)), np.asarray(leaf).dtype) for leaf in leaves]
    shapes = [np.shape(leaf) for leaf in leaves]
    ok = np.zeros(len(results), bool)
    error: Exception | None = None
    unlike: list[ValueError] = []
    for i, x in enumerate(results):
        if isinstance(x, Exception):
            error = error or x
            continue
        if tree == jax.tree.structure(0) and isinstance(x, list | tuple) and not _is_pair(x):
            with suppress(ValueError):  # of parts of several shapes, which are then seen below
                x = np.array(x)
        got = [np.asarray(leaf) for leaf in jax.tree.leaves(x)]
        seen = [leaf.shape if leaf.dtype.kind in "biuf" else leaf.dtype for leaf in got]
        if jax.tree.structure(x) != tree or seen != shapes:
            wanted, made = (t.unflatten(s) for t, s in ((tree, shapes), (jax.tree.structure(x), seen)))
            unlike.append(
                ValueError(
                    f"simulate: expected x like a row of data.x, of shape {wanted}, got {made}"
                    f"{_hint(x, shapes, seen)}."
                )
            )
            error = error or unlike[0]
            continue
        for array, leaf in zip(arrays, got, strict=True):
            if not np.can_cast(leaf.dtype, array.dtype, "same_kind"):
                raise ValueError(
                    f"simulate: gives x of {leaf.dtype}, and the data, of {array.dtype}, cannot hold that: "
                    f"see data.x.astype({'float' if leaf.dtype.kind == 'f' else 'int'})."
                )
        ok[i] = all(np.isfinite(leaf).all() for leaf in got)
        if ok[i]:
            for array, leaf in zip(arrays, got, strict=True):
                array[i] = leaf
    if len(unlike) == len(results) >= CHUNK:
        raise unlike[0]
    return tree.unflatten(arrays), ok, error
