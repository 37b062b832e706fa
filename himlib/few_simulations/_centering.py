r"""Take from r what its score has on average, where that of a log density has nothing.

.. math:: \mathbb{E}_{p(x \mid \beta)} \nabla_\beta \log p(x \mid \beta) = 0.

Errors of r that do not depend on x add up over N data, faster than the posterior narrows. They are the
gradient of a potential, which is fitted to the simulations that are there, and subtracted.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LEAST = 10  # data: with fewer, what is wrong with r at these x counts for more than its mean
MOST = 0.2  # squared posterior sds that the fit may cost, all coefficients together
REACH = 2.0  # sds, times the root of the dimension: beyond, the potential stays as it is


class Potential(NamedTuple):
    """A quadratic of v for one datum, in units of what it was fitted to."""

    shift: Any
    units: Any  # (v - shift) @ units has the covariance I
    slope: Any
    curve: Any


def none(size: int) -> Potential:
    """No potential."""
    zeros = np.zeros((size, size), np.float32)
    return Potential(zeros[0], zeros, zeros[0], zeros)


def potential_at(v: jax.Array, potential: Potential) -> jax.Array:
    """The potential at rows of v.

    Examples
    --------
    >>> one = np.ones(1, np.float32)
    >>> bowl = Potential(one, one[None], 0 * one, 2 * one[None])
    >>> print(potential_at(jnp.array([[1.0], [2.0], [3.0], [9.0]]), bowl))
    [0. 1. 4. 4.]
    """
    u = (v - potential.shift) @ potential.units
    far = jnp.sqrt(jnp.maximum(jnp.sum(u**2, axis=1, keepdims=True), 1e-12) / v.shape[1]) / REACH
    u = u / jnp.maximum(far, 1.0)
    return u @ potential.slope + jnp.sum((u @ potential.curve) * u, axis=1) / 2


@partial(jax.jit, static_argnames="log_ratio")
def _scores(v, s, given, *, log_ratio):
    one = jax.grad(lambda v, s: log_ratio(v[None], s[None], given)[0])
    return jax.lax.map(lambda row: one(*row), (v, s), batch_size=1024)


def fit_potential(v, s, ok, number: int, given, log_ratio) -> Potential:
    """Fit it to simulations of a round: rows of v and s, where there is an x.

    With ``u`` whitened, the least squares of the scores ``g`` are ``E g`` and the symmetric part of
    ``E g u'``. They cost as many squared sds of N data's posterior as there are coefficients, times N
    over the rows. Failures have a score of their own, so that it is nothing where they would count.
    """
    size = v.shape[1]
    rows = ok & within(v)
    coefficients = size + size * (size + 1) // 2
    costs = number * coefficients > MOST * rows.sum() or number * (~ok).mean() > MOST / 4
    if number < LEAST or costs:
        return none(size)
    v, s = v[rows], s[rows]
    shift, units = whitening(v)
    g = np.linalg.solve(units.astype(np.float64), np.asarray(_scores(v, s, given, log_ratio=log_ratio)).T).T
    mixed = g.T @ ((v - shift) @ units) / len(v)
    return Potential(shift, units, np.float32(g.mean(0)), np.float32((mixed + mixed.T) / 2))


def whitening(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean, and what rows less it are multiplied by to have the covariance I."""
    scale = np.linalg.cholesky(np.atleast_2d(np.cov(v, rowvar=False)) + 1e-12 * np.eye(v.shape[1]))
    return v.mean(0).astype(np.float32), np.linalg.inv(scale).T.astype(np.float32)


def within(v: np.ndarray) -> np.ndarray:
    """Which rows are as near to their mean as the potential reaches."""
    shift, units = whitening(v)
    return np.mean(((v - shift) @ units) ** 2, axis=1) < REACH**2
