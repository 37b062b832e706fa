"""Comparing two samples: by a classifier, and by their quantiles in random directions."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from himlib._checks import check_rows, check_samples
from himlib.networks import standardization
from himlib.random import check_key
from himlib.ratio import classifier, fit_ratio

__all__ = ["TwoSample", "c2st", "sliced_wasserstein"]

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
    """

    accuracy: float
    standard_error: float


def c2st(key: jax.Array, first: Any, second: Any, *, folds: int = 5, steps: int = 1000) -> TwoSample:
    r"""Tell two samples apart by a classifier (Lopez-Paz and Oquab 2017), cross-validated.

    For each fold a network with a quadratic form, :func:`~himlib.ratio.classifier`, is trained on the others
    by :func:`~himlib.ratio.fit_ratio`; the fold takes no part in it, nor in choosing when to stop. For
    densities p and q the best possible accuracy is :math:`\tfrac12 + \tfrac12 TV(p, q)`, with TV the
    total variation distance. Samples are whitened by their pooled covariance first.
    Other packages train other classifiers: do not compare this number with theirs.

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

    Returns
    -------
    TwoSample
        The held-out accuracy, and its standard error.

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
        rows = jax.vmap(lambda draw: ravel_pytree(draw)[0])(sample)
        samples.append(rows + 0.0 if jnp.issubdtype(rows.dtype, jnp.integer) else rows)  # counts are numbers
    check_samples(samples[0], samples[1], ("first", "second"))
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
        r = fit_ratio(key, rest[0], rest[1], CLASSIFIER, steps=steps, batch_size=128, learning_rate=1e-2).r
        return jnp.mean(r(held_out[0]) > 0), jnp.mean(r(held_out[1]) < 0)

    held_out, rest = zip(split(k_first, first), split(k_second, second), strict=True)
    shares = jax.vmap(accuracy)(jax.random.split(k_fit, folds), held_out, rest)
    shares = jnp.stack([share.mean() for share in shares])
    sizes = jnp.array([part.shape[0] * part.shape[1] for part in held_out])
    return shares.mean(), jnp.sqrt((shares * (1 - shares) / sizes).sum()) / 2


def sliced_wasserstein(a: jax.Array, b: jax.Array, directions: int | jax.Array = 16) -> jax.Array:
    r"""Distance of two samples of equal size, in their units.

    .. math:: SW_2^2 = \frac1K \sum_{k=1}^K W_2^2\big(u_k^\top a, u_k^\top b\big), \qquad
              u_k = (\cos\theta_k, \sin\theta_k), \quad \theta_k = \frac{\pi (k - 1/2)}{K},

    each term being the mean squared difference of the sorted projections (Bonneel, Rabin, Peyre and
    Pfister 2015). Two samples of one distribution are not at distance zero: compare with that floor.

    Parameters
    ----------
    a, b
        Samples of shape (n, d).
    directions
        The number K of directions, evenly spread over a half circle, for the plane; in any other space
        the directions themselves: K columns of length one, shape (d, K).

    Returns
    -------
    jax.Array
        A scalar.

    Raises
    ------
    ValueError
        If the shapes differ, or do not fit the directions.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> a = jnp.zeros((4, 2))
    >>> f"{sliced_wasserstein(a, a + jnp.array([1.0, 0.0])):.4f}"  # the root of the mean of cos^2
    '0.7071'
    >>> f"{sliced_wasserstein(a, a + jnp.array([1.0, 0.0]), jnp.eye(2)):.4f}"
    '0.7071'
    """
    if isinstance(directions, int):
        angle = jnp.pi * (jnp.arange(directions) + 0.5) / directions
        directions = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    size = directions.shape[0]
    if jnp.shape(a) != jnp.shape(b) or jnp.ndim(a) != 2 or jnp.shape(a)[1] != size:
        raise ValueError(
            f"a, b: expected two samples of the same shape (n, {size}), got {jnp.shape(a)} and "
            f"{jnp.shape(b)}; directions in any space but the plane are a matrix."
        )
    along_a, along_b = (jnp.sort(sample @ directions, axis=0) for sample in (a, b))
    return jnp.sqrt(jnp.mean((along_a - along_b) ** 2))
