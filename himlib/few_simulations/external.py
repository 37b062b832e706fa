"""Simulators that are not JAX: in NumPy, in C++, in R, or a program that is called."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from himlib.models import HierarchicalImplicitModel, Space

__all__ = ["ExternalModel"]


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
        it must be a function of a module. An exception is a failed simulation.

    Raises
    ------
    TypeError
        If the prior is no numpyro distribution, or the simulator no function.

    Examples
    --------
    >>> import numpyro.distributions as dist
    >>> def simulate(rng, beta, covariate):
    ...     return rng.poisson(beta["rate"])
    >>> ExternalModel({"rate": dist.LogNormal(0.0, 1.0)}, simulate).space.size
    1
    """

    prior: Any
    simulate: Callable

    def __post_init__(self):
        if not callable(self.simulate):
            got = type(self.simulate).__name__
            raise TypeError(f"simulate: expected a function of (rng, beta, covariate), got {got}.")
        _ = self.inner  # which refuses what is no prior

    @cached_property
    def inner(self) -> HierarchicalImplicitModel:
        """The prior and its coordinates, as a model that nobody simulates."""
        return HierarchicalImplicitModel(self.prior, simulate=_elsewhere)

    @property
    def space(self) -> Space:
        """The unconstrained coordinates of the prior."""
        return self.inner.space


def _elsewhere(key, beta, covariate):
    raise TypeError("an ExternalModel is simulated outside of JAX, by fit_rounds.")


def run_chunk(simulate: Callable, jobs: list) -> list:
    """Simulate job after job; an exception takes the place of its x.

    Examples
    --------
    >>> run_chunk(lambda rng, beta, covariate: 1 / beta, [((0,), 2.0, None), ((1,), 0, None)])
    [0.5, ZeroDivisionError('division by zero')]
    """
    results: list[Any] = []
    for seed, beta, covariate in jobs:
        try:
            results.append(simulate(np.random.default_rng(seed), beta, covariate))
        except Exception as error:
            results.append(error)
    return results


def simulate_rows(
    simulate: Callable,
    seed: tuple,
    beta: Any,
    covariate: Any,
    rows: range,
    executor: Executor | None,
    chunk: int,
) -> Iterator[tuple[int, list]]:
    """Give the first row of each chunk, and its x, in order; row i has the same noise whoever simulates."""

    def row(i):
        return (*seed, i), *jax.tree.map(lambda leaf: leaf[i], (beta, covariate))

    def jobs(part):
        return [row(i) for i in part]

    parts = [rows[start : start + chunk] for start in range(0, len(rows), chunk)]
    if executor is None:
        for part in parts:
            yield part[0], run_chunk(simulate, jobs(part))
        return
    futures = [executor.submit(run_chunk, simulate, jobs(part)) for part in parts]
    try:
        for part, future in zip(parts, futures, strict=True):
            yield part[0], future.result()
    finally:
        for future in futures:
            future.cancel()


def collect(results: list, example: Any) -> tuple[Any, np.ndarray, Exception | None]:
    """Put simulated x into arrays like one row of ``example``; failures are rows of zeros that are not ok.

    Examples
    --------
    >>> x, ok, error = collect([1.5, ValueError("solver"), np.nan], np.zeros(()))
    >>> print(x, ok, error)
    [1.5 0.  0. ] [ True False False] solver
    """
    leaves, tree = jax.tree.flatten(example)
    arrays = [np.zeros((len(results), *np.shape(leaf)), np.asarray(leaf).dtype) for leaf in leaves]
    ok = np.zeros(len(results), bool)
    error = None
    for i, x in enumerate(results):
        if isinstance(x, Exception):
            error = error or x
            continue
        got = jax.tree.leaves(x)
        shapes = [np.shape(leaf) for leaf in got]
        if jax.tree.structure(x) != tree or shapes != [np.shape(leaf) for leaf in leaves]:
            expected = [np.shape(leaf) for leaf in leaves]
            raise ValueError(
                f"simulate: expected x like a row of data.x, {tree} with shapes {expected}, got "
                f"{jax.tree.structure(x)} with {shapes}."
            )
        ok[i] = all(np.isfinite(leaf).all() for leaf in got)
        if ok[i]:
            for array, leaf in zip(arrays, got, strict=True):
                array[i] = leaf
    return tree.unflatten(arrays), ok, error
