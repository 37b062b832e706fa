"""Comparing samples: two of them by a classifier, and the data with what a posterior expects."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from himlib.algorithm import Data
from himlib.checks import check_rows, check_samples
from himlib.models import HierarchicalImplicitModel
from himlib.networks import standardization
from himlib.problem import check_problem
from himlib.random import check_key
from himlib.ratio import classifier, fit_ratio

__all__ = ["PredictiveCheck", "TwoSample", "c2st", "posterior_predictive"]

# With this activation it finds a difference in shape sooner than with the default one.
CLASSIFIER = classifier(activation=jax.nn.silu)


class TwoSample(NamedTuple):
    """How well a classifier tells two samples apart.

    Attributes
    ----------
    accuracy
        Held-out share of draws classified rightly, both samples weighing the same: 1/2 if nothing tells
        them apart, 1 if everything does.
    standard_error
        Of the accuracy, for the classifiers as they were trained.

    Examples
    --------
    >>> TwoSample._fields
    ('accuracy', 'standard_error')
    """

    accuracy: float
    standard_error: float


class PredictiveCheck(NamedTuple):
    """Statistics of the data beside those of data that the posterior would have expected.

    Attributes
    ----------
    observed
        What the statistics are of the data.
    simulated
        The same of the simulated data sets, with a leading axis of L.
    p_value
        Two-sided, element by element: twice the smaller share of simulated statistics at least, or at
        most, the observed one, which itself is counted in.

    Examples
    --------
    >>> PredictiveCheck._fields
    ('observed', 'simulated', 'p_value')
    """

    observed: Any
    simulated: Any
    p_value: Any


def c2st(key: jax.Array, first: Any, second: Any, *, folds: int = 5, steps: int = 1000) -> TwoSample:
    r"""Tell two samples apart by a classifier (Lopez-Paz and Oquab 2017), cross-validated.

    For each fold a network with a quadratic form, :func:`~himlib.ratio.classifier`, is trained on the others
    by :func:`~himlib.ratio.fit_ratio`; the fold takes no part in it, nor in choosing when to stop. For
    densities p and q the best possible accuracy is :math:`\tfrac12 + \tfrac12 TV(p, q)`, with TV the
    total variation distance. Samples are whitened by their pooled covariance first.

    Parameters
    ----------
    key
        A typed key, ``jax.random.key(seed)``.
    first, second
        Draws with a leading axis: arrays, or pytrees of them.
    folds
        Parts of the cross-validation.
    steps
        Steps of Adam for each fold.

    Raises
    ------
    TypeError, ValueError
        If the key is old-style; if samples are of different kinds or shapes, not finite, or without
        spread; if there are fewer than 10 draws in a fold.

    Examples
    --------
    >>> import jax
    >>> k_first, k_second, k_test = jax.random.split(jax.random.key(0), 3)
    >>> first, second = (jax.random.normal(k, (1000, 2)) for k in (k_first, k_second))
    >>> same, apart = (c2st(k_test, first, second + shift) for shift in (0, 1))
    >>> bool(abs(same.accuracy - 0.5) < 3 * same.standard_error), bool(apart.accuracy > 0.7)
    (True, True)
    """
    if not isinstance(folds, int) or folds < 2:
        raise ValueError(f"folds: expected an integer of 2 or more, got {folds!r}.")
    samples = []
    for name, sample in {"first": first, "second": second}.items():
        check_rows(name, sample, 10 * folds)
        samples.append(jax.vmap(lambda draw: ravel_pytree(draw)[0])(sample))
    check_samples(*samples)
    share, error = _c2st(check_key(key), *samples, folds, steps)
    return TwoSample(float(share), float(error))


@partial(jax.jit, static_argnames=("folds", "steps"))
def _c2st(key, first, second, folds, steps):
    k_first, k_second, k_fit = jax.random.split(key, 3)
    pooled = jnp.concatenate([first, second])
    shift, scale = standardization(pooled)
    with jax.default_matmul_precision("float32"):  # on some GPUs the default has three digits
        values, vectors = jnp.linalg.eigh(jnp.atleast_2d(jnp.cov(((pooled - shift) / scale).T)))
        # What is constant up to rounding stays as it is.
        whiten = vectors / jnp.sqrt(jnp.where(values > 1e-6, values, 1.0))
        first, second = ((sample - shift) / scale @ whiten for sample in (first, second))

    def split(key, sample):
        size = len(sample) // folds
        shuffled = jax.random.permutation(key, sample)
        parts = shuffled[: size * folds].reshape(folds, size, -1)
        rest = np.array([[i for i in range(folds) if i != fold] for fold in range(folds)])
        return parts, parts[rest].reshape(folds, size * (folds - 1), -1)

    def accuracy(key, held_out, rest):
        r = fit_ratio(key, *rest, CLASSIFIER, steps=steps, batch_size=128, learning_rate=1e-2).r
        return jnp.mean(r(held_out[0]) > 0), jnp.mean(r(held_out[1]) < 0)

    held_out, rest = zip(split(k_first, first), split(k_second, second), strict=True)
    shares = jax.vmap(accuracy)(jax.random.split(k_fit, folds), held_out, rest)
    shares = jnp.stack([share.mean() for share in shares])
    sizes = jnp.array([part.shape[0] * part.shape[1] for part in held_out])
    return shares.mean(), jnp.sqrt((shares * (1 - shares) / sizes).sum()) / 2


def posterior_predictive(
    key: jax.Array,
    model: HierarchicalImplicitModel,
    beta: Any,
    data: Data,
    statistics: Callable = lambda data: data.x,
) -> PredictiveCheck:
    r"""Simulate a data set like the observed one at each posterior draw, and compare statistics.

    .. math:: \beta_l \sim q(\beta), \quad x^{(l)} \sim p(x \mid \beta_l, c), \quad
              \text{and } T(x^{(l)}) \text{ beside } T(x) \quad \text{(Rubin 1984)}.

    The data are used twice, for q and for the check, so that p-values of a right model crowd around 1/2
    rather than being uniform: a small one tells, a large one does not.

    Parameters
    ----------
    key
        A typed key, ``jax.random.key(seed)``.
    model
        The model.
    beta
        Posterior draws with a leading axis of L.
    data
        The observations; the simulated ones share their covariates.
    statistics
        ``statistics(data) -> pytree of arrays`` of one data set, a :class:`~himlib.algorithm.Data`. The
        default is x itself, which gives a p-value for each datum.

    Raises
    ------
    TypeError
        If the key is old-style, or the model is none.
    ValueError
        If there are fewer than two draws, or a statistic is not finite.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from himlib.simulators.conjugate import ConjugateGaussian
    >>> gaussian, x = ConjugateGaussian(), jnp.array([-3.0, -1.0, 1.0, 9.0])
    >>> beta = gaussian.posterior(x).sample(jax.random.key(0), (999,))
    >>> check = posterior_predictive(jax.random.key(1), gaussian.model, beta, Data(x),
    ...     lambda data: {"mean": data.x.mean(), "largest": data.x.max()})
    >>> bool(check.p_value["mean"] > 0.3), bool(check.p_value["largest"] < 0.01)
    (True, True)
    """
    check_key(key)
    draws = check_rows("beta", beta)
    check_problem(model, data, beta)
    observed, simulated = _predict(key, model, beta, data, statistics)
    for leaf in jax.tree.leaves((observed, simulated)):
        if not np.isfinite(leaf).all():
            raise ValueError(
                f"statistics: {1 - np.isfinite(leaf).mean():.1%} of some statistic is not finite."
            )

    def p_value(observed, simulated):
        tails = jnp.minimum((simulated >= observed).sum(0), (simulated <= observed).sum(0))
        return jnp.minimum(1.0, 2 * (1 + tails) / (1 + draws))

    return PredictiveCheck(observed, simulated, jax.tree.map(p_value, observed, simulated))


@partial(jax.jit, static_argnames=("model", "statistics"))
def _predict(key, model, beta, data, statistics):
    size = jax.tree.leaves(data)[0].shape[0]

    def one(inputs):
        key, beta = inputs
        rows = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (size, *leaf.shape)), beta)
        return statistics(Data(model.simulate_batch(key, rows, data.covariate)[1], data.covariate))

    keys = jax.random.split(key, jax.tree.leaves(beta)[0].shape[0])
    return statistics(data), jax.lax.map(one, (keys, beta))
