"""What one does with draws of a posterior, whatever made them: ArviZ, and how far importance weights go."""

from typing import Any, NamedTuple

import jax
import numpy as np

__all__ = ["Importance", "importance", "to_arviz"]


class Importance(NamedTuple):
    r"""How well weighted draws stand for another distribution.

    Attributes
    ----------
    weights
        Normalized and smoothed, of sum 1, shape (n,).
    ess
        The effective share of the draws, :math:`1 / (n \sum_i w_i^2)`.
    k_hat
        The shape of the Pareto tail of the weights: above .7 they are not to be trusted.
    """

    weights: np.ndarray
    ess: float
    k_hat: float


def importance(log_weights: Any) -> Importance:
    r"""Pareto-smooth importance weights, and tell how far they go (PSIS; Vehtari et al. 2024).

    The largest of n weights, :math:`\min(n / 5, 3 \sqrt n)` of them, give way to the quantiles of a
    generalized Pareto distribution fitted to them (Zhang and Stephens 2009).

    **What they do not tell.** Weights see the density where there are draws: of a q on one of two modes they
    are even, with an ESS of 1. Nor do they know whether the density itself is right.

    Parameters
    ----------
    log_weights
        :math:`\log p - \log q` at draws of q, up to a constant, shape (n,), n of at least 100.

    Returns
    -------
    Importance
        Weights, their effective share and k-hat.

    Raises
    ------
    ValueError
        If there are fewer than 100, or one is NaN or plus infinity.

    Examples
    --------
    >>> v = np.random.default_rng(0).normal(size=10_000)  # of q = N(0, 1), for p = N(0, 1/4) and N(0, 9)
    >>> narrow, wide = (importance(v**2 / 2 - v**2 / (2 * sd**2)) for sd in (0.5, 3.0))
    >>> print(f"{narrow.ess:.2f} {wide.ess:.2f}")
    0.66 0.05
    """
    log_weights = np.asarray(log_weights, np.float64)
    if log_weights.ndim != 1 or len(log_weights) < 100:
        raise ValueError(f"log_weights: expected at least 100 in a row, got shape {log_weights.shape}.")
    if np.isnan(log_weights).any() or log_weights.max() == np.inf or log_weights.max() == -np.inf:
        raise ValueError("log_weights: expected numbers, or minus infinity for some, got others.")
    n = len(log_weights)
    weights = np.exp(log_weights - log_weights.max())
    order = np.argsort(weights)
    tail = order[n - int(np.ceil(min(n / 5, 3 * n**0.5))) :]
    cut = weights[order[n - len(tail) - 1]]
    above = weights[tail] - cut
    k_hat, scale = _pareto(above)
    if np.isfinite(k_hat) and scale > 0:
        p = (np.arange(len(tail)) + 0.5) / len(tail)
        steps = -np.log1p(-p) if abs(k_hat) < 1e-12 else np.expm1(-k_hat * np.log1p(-p)) / k_hat
        weights[tail] = np.minimum(cut + scale * steps, 1.0)
    weights /= weights.sum()
    return Importance(weights, float(1 / (n * (weights**2).sum())), float(k_hat))


def _pareto(above: np.ndarray) -> tuple[float, float]:
    """Shape and scale of a generalized Pareto distribution, fitted to sorted numbers above 0."""
    above = above[above > 0]
    n = len(above)
    if n < 5:
        return -np.inf, 0.0  # no tail at all: most weights are the largest
    count = 30 + int(n**0.5)
    theta = 1 / above[-1] + (1 - np.sqrt(count / (np.arange(count) + 0.5))) / (3 * above[n // 4])
    k = np.log1p(-theta[:, None] * above).mean(1)
    likelihood = n * (np.log(-theta / k) - k - 1)
    posterior = 1 / np.exp(likelihood - likelihood[:, None]).sum(1)
    best = (theta * posterior).sum() / posterior.sum()
    shape = np.log1p(-best * above).mean()
    return (n * shape + 5) / (n + 10), -shape / best  # the shape drawn to 1/2, as by ten more draws


def to_arviz(beta: Any) -> Any:
    """Hand draws to ArviZ, for its tables and plots: one chain, as they are independent.

    Parameters
    ----------
    beta
        Draws with a leading axis, a tree such as a dict of arrays; names within names are joined by dots.

    Returns
    -------
    Any
        A posterior in what the installed ArviZ takes: a DataTree of xarray from its version 1 on, before that
        an InferenceData.

    Raises
    ------
    ImportError
        If ArviZ is not installed.

    Examples
    --------
    >>> inference = to_arviz({"mean": np.zeros(100), "rates": {"birth": np.ones((100, 2))}})
    >>> sorted(inference.posterior.data_vars), dict(inference.posterior.sizes)["draw"]
    (['mean', 'rates.birth'], 100)
    """
    import arviz

    leaves = jax.tree.leaves_with_path(beta)
    named = {jax.tree_util.keystr(path, simple=True, separator=".") or "beta": leaf for path, leaf in leaves}
    posterior = {name: np.asarray(leaf)[None] for name, leaf in named.items()}
    if int(arviz.__version__.split(".")[0]) < 1:
        return arviz.from_dict(posterior=posterior)
    return arviz.from_dict({"posterior": posterior})
