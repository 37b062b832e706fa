"""Simulation-based calibration: simulate truths and data, infer, and see where each truth falls."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from himlib._checks import check_counts
from himlib._problem import check_problem
from himlib.base import Data
from himlib.models import HierarchicalImplicitModel, check_model
from himlib.random import check_key

__all__ = ["Replications", "ranks", "region_ranks", "replicate"]


class Replications(NamedTuple):
    """Truths, and draws of what was inferred from data simulated at each.

    Attributes
    ----------
    names
        Names of the d columns: ``beta``, or the paths into a pytree; then those of the quantities.
    truth
        Array of shape (S, d), one row for each replication.
    draws
        Array of shape (S, L, d).
    """

    names: tuple[str, ...]
    truth: np.ndarray
    draws: np.ndarray


def _columns(tree: Any, axes: int, name: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Flatten a pytree of arrays behind their leading axes into named columns."""
    names, parts = [], []
    for path, leaf in jax.tree.flatten_with_path(tree)[0]:
        values, label = np.asarray(leaf), jax.tree_util.keystr(path, simple=True, separator=".") or name
        shape = values.shape[axes:]
        names += [label + (str(list(index)) if shape else "") for index in np.ndindex(shape)]
        parts.append(values.reshape(*values.shape[:axes], -1))
    return tuple(names), np.concatenate(parts, axis=-1)


def replicate(
    key: jax.Array,
    model: HierarchicalImplicitModel,
    posterior: Callable,
    replications: int,
    *,
    size: int | None = None,
    covariate: Any = None,
    beta: Any = None,
    quantities: Callable | None = None,
    vectorize: bool = False,
    progress: bool = True,
) -> Replications:
    r"""Draw truths, simulate a data set at each, and infer the truths back.

    .. math:: \beta_s \sim p(\beta), \quad x_s \sim p(x \mid \beta_s), \quad
              \beta_{s1}, \dots, \beta_{sL} \sim q(\beta \mid x_s), \quad s = 1, \dots, S.

    Draws should be independent: thin a Markov chain first.

    Parameters
    ----------
    key
        A typed key, ``jax.random.key(seed)``.
    model
        The model that simulates.
    posterior
        The method under test, ``posterior(key, data) -> draws`` of beta with a leading axis of L; data is a
        :class:`~himlib.base.Data` of N rows.
    replications
        S, the number of data sets.
    size
        N, the data in a set; not needed beside a covariate.
    covariate
        Covariates with a leading axis of N, the same in each set.
    beta
        Truths with a leading axis of S; None draws them from the prior. Truths of another distribution
        are right only for a method that has it for its prior.
    quantities
        ``quantities(beta, data)``, a number, an array or a pytree of them, ranked beside beta. A posterior
        that ignores the data and returns the prior is calibrated in beta; in the log-likelihood, say, it
        is not (Modrák et al. 2023).
    vectorize
        Run all replications as one :func:`jax.vmap` of the posterior, in place of a loop.
    progress
        Show a progress bar over the loop. Ctrl-C ends the loop with the replications reached; an error
        in the loop keeps them in its attribute ``replications``.

    Returns
    -------
    Replications
        Named columns of truths and draws.

    Raises
    ------
    TypeError
        If the key is old-style, the model or the posterior is none, or draws are no pytree like beta.
    ValueError
        If sizes do not agree.

    Examples
    --------
    >>> import jax
    >>> from himlib.simulators.conjugate import ConjugateGaussian
    >>> gaussian = ConjugateGaussian()
    >>> def exact(key, data):
    ...     return gaussian.posterior(data.x).sample(key, (99,))
    >>> runs = replicate(jax.random.key(0), gaussian.model, exact, 300, size=10, vectorize=True)
    >>> runs.names, runs.truth.shape, runs.draws.shape
    (('beta',), (300, 1), (300, 99, 1))
    >>> from himlib.diagnostics import rank_test
    >>> found = ranks(jax.random.key(1), runs.truth, runs.draws)
    >>> bool(rank_test(found, 99).p_value[0] > 0.01)
    True
    """
    k_prior, k_run = jax.random.split(check_key(key))
    check_model(model)
    if not callable(posterior):
        raise TypeError(f"posterior: expected a function of (key, data), got {type(posterior).__name__}.")
    lengths = {len(leaf) for leaf in jax.tree.leaves(covariate)} | (set() if size is None else {size})
    if len(lengths) != 1:
        raise ValueError(
            f"size: expected the number of data in a set, or a covariate, got {sorted(lengths)}."
        )
    check_counts(replications=replications, size=(size := lengths.pop()))
    if beta is None:
        beta = model.sample_prior(k_prior, (replications,))
    rows = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(beta)}
    if rows != {(replications,)}:
        raise ValueError(f"beta: expected a leading axis of {replications} replications, got {sorted(rows)}.")
    check_problem(model, Data(None, covariate), beta, observed=False)

    def simulate(key, beta):
        rows = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (size, *leaf.shape)), beta)
        return Data(model.simulate_batch(key, rows, covariate)[1], covariate)

    def evaluate(beta, draws, data):
        if quantities is None:
            return beta, draws, None, None
        return beta, draws, quantities(beta, data), jax.vmap(quantities, (0, None))(draws, data)

    def one(key, beta, simulate, evaluate):
        k_data, k_posterior = jax.random.split(key)
        data = simulate(k_data, beta)
        draws = posterior(k_posterior, data)
        _check_draws(draws, beta)
        return evaluate(beta, draws, data)

    def collect(beta, draws, values, drawn):
        names, truth = _columns(beta, 1, "beta")
        _, draws = _columns(draws, 2, "beta")
        if quantities is not None:
            more, values = _columns(values, 1, "quantity")
            names, truth = names + more, np.concatenate([truth, values], axis=-1)
            draws = np.concatenate([draws, _columns(drawn, 2, "quantity")[1]], axis=-1)
        return Replications(names, truth, draws)

    keys = jax.random.split(k_run, replications)
    if vectorize:
        return collect(*jax.jit(jax.vmap(lambda key, beta: one(key, beta, simulate, evaluate)))(keys, beta))
    simulate, evaluate, done = jax.jit(simulate), jax.jit(evaluate), list[tuple]()

    def reached():
        return collect(*jax.tree.map(lambda *rows: np.stack(rows), *done))

    try:
        for s in tqdm(range(replications), disable=not progress, desc="replications"):
            row = one(keys[s], jax.tree.map(lambda leaf: leaf[s], beta), simulate, evaluate)  # noqa: B023
            row = jax.tree.map(np.asarray, row)
            sizes = {jax.tree.leaves(draws)[0].shape[0] for _, draws, *_ in (*done[:1], row)}
            if len(sizes) > 1:
                raise ValueError(
                    f"posterior: expected as many draws from each data set, got {sorted(sizes)}."
                )
            done.append(row)
    except KeyboardInterrupt:
        if not done:
            raise
    except Exception as error:
        if done:
            error.replications = reached()  # type: ignore[attr-defined]
            error.add_note(f"Raised in replication {s}; the {s} before it are in error.replications.")
        raise
    return reached()


def _check_draws(draws: Any, beta: Any) -> None:
    """Refuse draws that are not like beta behind one leading axis."""
    expected, got = jax.tree.structure(beta), jax.tree.structure(draws)
    if expected != got:
        raise TypeError(f"posterior: expected draws like beta, {expected}, got {got}.")
    for one, many in zip(jax.tree.leaves(beta), jax.tree.leaves(draws), strict=True):
        if jnp.ndim(many) != jnp.ndim(one) + 1 or jnp.shape(many)[1:] != jnp.shape(one):
            raise ValueError(
                f"posterior: expected a leading axis of L draws, then beta's shape {jnp.shape(one)}, "
                f"got {jnp.shape(many)}."
            )


def _check_replications(truth: Any, draws: Any) -> tuple[np.ndarray, np.ndarray]:
    """Refuse truths and draws whose shapes do not agree, or that are not finite."""
    truth, draws = np.asarray(truth), np.asarray(draws)
    if (
        truth.ndim != 2
        or draws.ndim != 3
        or truth.shape != (draws.shape[0], draws.shape[2])
        or not draws.size
    ):
        raise ValueError(
            f"truth and draws: expected shapes (S, d) and (S, L, d), got {truth.shape} and {draws.shape}."
        )
    broken = ~(np.isfinite(truth).all(1) & np.isfinite(draws).all((1, 2)))
    if broken.any():
        raise ValueError(
            f"draws: {broken.sum()} of {len(truth)} replications hold values that are not finite, the "
            f"first is number {broken.argmax()}. Look at its data: leaving such ones out biases the ranks."
        )
    return truth, draws


def ranks(key: jax.Array, truth: np.ndarray, draws: np.ndarray) -> np.ndarray:
    r"""Rank of each truth among its draws, :math:`\#\{l : \beta_{sl} < \beta_s\}`, from 0 to L.

    Ties are broken at random, so that ranks of discrete or rounded quantities are uniform too.

    Parameters
    ----------
    key
        A typed key, for the ties.
    truth, draws
        Arrays of shapes (S, d) and (S, L, d), as in :class:`Replications`.

    Returns
    -------
    numpy.ndarray
        Integers of shape (S, d).

    Raises
    ------
    ValueError
        If shapes do not agree, or a value is not finite.

    Examples
    --------
    >>> import jax, numpy as np
    >>> print(ranks(jax.random.key(0), np.array([[2.5]]), np.arange(10.0).reshape(1, 10, 1)))
    [[3]]
    """
    check_key(key)
    truth, draws = _check_replications(truth, draws)
    below, equal = (draws < truth[:, None]).sum(1), (draws == truth[:, None]).sum(1)
    return below + np.asarray(jax.random.randint(key, below.shape, 0, equal + 1))


def region_ranks(key: jax.Array, truth: np.ndarray, draws: np.ndarray, region: str = "ellipse") -> np.ndarray:
    r"""Rank of the truth's distance from a center among those of the draws: one number for all parameters.

    It is uniform for a calibrated posterior, and the truths of rank below k lie in regions of probability
    k / (L + 1), see :func:`~himlib.diagnostics.coverage`. It sees what marginal ranks cannot, such as a
    wrong correlation.

    Parameters
    ----------
    key
        A typed key, for the ties and the random points.
    truth, draws
        Arrays of shapes (S, d) and (S, L, d), as in :class:`Replications`.
    region
        ``"ellipse"``: Mahalanobis distance, from mean and covariance of truth and draws pooled: credible
        ellipses. ``"random"``: Euclidean distance, in sds of the truths, from a point drawn at random in
        their box, for each replication anew (TARP: Lemos et al. 2023).

    Returns
    -------
    numpy.ndarray
        Integers of shape (S, 1), from 0 to L.

    Raises
    ------
    ValueError
        If shapes do not agree, a value is not finite, or the region is unknown.

    Examples
    --------
    >>> import jax, numpy as np
    >>> draws = np.random.default_rng(0).normal(size=(1, 99, 2))
    >>> print(region_ranks(jax.random.key(0), np.array([[5.0, 5.0]]), draws))
    [[99]]
    """
    k_ties, k_points = jax.random.split(check_key(key))
    truth, draws = _check_replications(truth, draws)
    # Squares of 1e-20 are no numbers of single precision.
    truth, draws = truth.astype(np.float64), draws.astype(np.float64)
    pooled = np.concatenate([truth[:, None], draws], axis=1)
    if (
        region == "ellipse"
    ):  # the truth takes part in the center: else it would not be exchangeable with the draws
        pooled -= pooled.mean(1, keepdims=True)
        scale = pooled.std(1, keepdims=True)
        pooled /= np.where(scale > 0, scale, 1.0)
        correlation = np.einsum("sli,slj->sij", pooled, pooled) / pooled.shape[1]
        inverse = np.linalg.pinv(correlation, rcond=1e-9, hermitian=True)
        distance = np.einsum("sli,sij,slj->sl", pooled, inverse, pooled)
    elif region == "random":
        low, high, scale = truth.min(0), truth.max(0), truth.std(0)
        points = low + (high - low) * np.asarray(jax.random.uniform(k_points, truth.shape))
        scaled = (pooled - points[:, None]) / np.where(scale > 0, scale, 1.0)
        distance = (scaled**2).sum(-1)
    else:
        raise ValueError(f"region: expected 'ellipse' or 'random', got {region!r}.")
    return ranks(k_ties, distance[:, :1], distance[:, 1:, None])
