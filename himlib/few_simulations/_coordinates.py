"""Coordinates in which the prior is N(0, I), and the features of x that a classifier sees."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.flatten_util import ravel_pytree
from jax.scipy.stats import norm
from numpyro.distributions.transforms import biject_to

from himlib.models import HierarchicalImplicitModel, enable_x64, in_double, is_distribution
from himlib.random import normal

REACH, KNOTS = 6.0, 1201


def quantiles(leaf: Any) -> np.ndarray | None:
    """Tell the unconstrained values of a leaf's numbers at the knots, or None where they are not known.

    Examples
    --------
    >>> print(quantiles(dist.LogNormal(1.0, 2.0))[[0, KNOTS // 2, -1], 0].round(6))
    [-11.   1.  13.]
    """
    base = leaf
    while isinstance(base, dist.Independent | dist.ExpandedDistribution):
        base = base.base_dist
    shape = leaf.batch_shape + leaf.event_shape
    if base.event_shape:
        return None
    with enable_x64(True):
        p = norm.cdf(jnp.linspace(-REACH, REACH, KNOTS)).reshape(-1, *(1,) * len(shape))
        try:
            if isinstance(base, dist.TransformedDistribution):  # monotone maps, one after the other
                value = in_double(base.base_dist).icdf(p)
                for transform in base.transforms:
                    value = transform(value)
            else:
                value = in_double(base).icdf(p)
            u = np.asarray(biject_to(leaf.support).inv(jnp.broadcast_to(value, (KNOTS, *shape))))
        except (NotImplementedError, AttributeError, TypeError, ImportError):
            return None
    u = u.reshape(KNOTS, -1)
    single = u.astype(np.float32)
    return u if np.isfinite(u).all() and (np.diff(single, axis=0) > 0).all() else None


class Coordinates:
    r"""The coordinates v of :math:`\beta` in which its prior is N(0, I), as far as it is known how.

    A number whose quantile function F^-1 is known, independent of the others, has
    :math:`v = \Phi^{-1}(F(\beta))`, as a straight line between knots. Any other has the prior's frame for
    its unit.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> model = HierarchicalImplicitModel(dist.Uniform(0, 10), noise_shape=(),
    ...     generate=lambda noise, beta, covariate: (None, beta + noise))
    >>> where = Coordinates(model)
    >>> print(f"{where.constrain(jnp.ones(1)):.3f} {10 * norm.cdf(1.0):.3f}")
    8.413 8.413
    """

    def __init__(self, model: HierarchicalImplicitModel):
        self.model, self.size = model, model.space.size
        leaves = jax.tree.leaves_with_path(model.prior, is_leaf=is_distribution)
        location, scale = map(np.asarray, model.space.frame)
        columns, known, at = [], [], 0
        self.names: list[str | None] = []  # of each coordinate, where the prior is a dict
        for path, leaf in leaves:
            size = int(np.prod(biject_to(leaf.support).inverse_shape(leaf.batch_shape + leaf.event_shape)))
            u = quantiles(leaf)
            known += [u is not None] * size
            if u is None:
                v = np.linspace(-REACH, REACH, KNOTS)[:, None]
                u = location[at : at + size] + scale[at : at + size] * v
            columns.append(u)
            at += size
            self.names += [getattr(path[0], "key", None) if path else None] * size
        self.known = np.array(known)
        self.knots = np.concatenate(columns, axis=1)  # (KNOTS, d), in double precision

    def unconstrained(self, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        """u, and du/dv; beyond the knots straight on."""
        step = 2 * REACH / (KNOTS - 1)
        knots = jnp.asarray(self.knots, v.dtype)
        place = (v + REACH) / step
        below = jnp.clip(jnp.floor(place), 0, KNOTS - 2).astype(jnp.int32)
        column = jnp.arange(self.size)
        low, high = knots[below, column], knots[below + 1, column]
        return low + (high - low) * (place - below), (high - low) / step

    def constrain(self, v: jax.Array) -> Any:
        """v -> beta, for one v."""
        return self.model.space.constrain(self.unconstrained(v)[0])

    def from_unconstrained(self, u: jax.Array) -> jax.Array:
        """u -> v, for rows."""
        grid = jnp.linspace(-REACH, REACH, KNOTS, dtype=u.dtype)
        slopes = np.diff(self.knots, axis=0) * (KNOTS - 1) / (2 * REACH)

        def column(u, knots, first, last):
            inside = jnp.interp(u, knots, grid)
            below, above = jnp.minimum(u - knots[0], 0) / first, jnp.maximum(u - knots[-1], 0) / last
            return inside + below + above

        ends = jnp.asarray(slopes[[0, -1]], u.dtype)
        return jax.vmap(column, (1, 1, 0, 0), 1)(u, jnp.asarray(self.knots, u.dtype), *ends)

    def unwind(self, beta: Any) -> np.ndarray:
        """beta -> v, for rows."""
        return np.asarray(self.from_unconstrained(jax.vmap(self.model.space.unconstrain)(beta)))

    def draw(self, key: jax.Array, size: int) -> jax.Array:
        """Rows of v from the prior."""
        if self.known.all():
            return normal(key, (size, self.size))
        beta = self.model.sample_prior(key, (size,))
        return self.from_unconstrained(jax.vmap(self.model.space.unconstrain)(beta))

    def log_prior(self, v: jax.Array) -> jax.Array:
        """The prior's log density in v, up to a constant."""
        if self.known.all():
            return -0.5 * jnp.sum(v**2)
        u, slope = self.unconstrained(v)
        space = self.model.space
        return self.model.log_prior(space.constrain(u)) + space.log_jacobian(u) + jnp.sum(jnp.log(slope))


#: The coordinates of a model, made once: what is compiled for them serves the next observation.
coordinates = lru_cache(maxsize=32)(Coordinates)


def ravel(x: Any, covariate: Any) -> jax.Array:
    """Everything of one datum, as one vector."""
    return ravel_pytree((x, covariate))[0]


def squash(values: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """Standardize, and let grow with the logarithm what lies beyond three units.

    Examples
    --------
    >>> print(*(f"{value:.2f}" for value in squash(jnp.array([5.0, 1e6, -jnp.inf]), 1.0, 2.0)))
    2.00 16.12 -inf
    """
    z = (values - shift) / scale
    return jnp.where(jnp.abs(z) < 3, z, jnp.sign(z) * (3 + jnp.log1p(jnp.maximum(jnp.abs(z) - 3, 0))))


def robust(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median, and half the central 68 %; where these meet, the sd; 1 where nothing varies.

    Examples
    --------
    >>> shift, scale = robust(np.array([[1.0], [2.0], [3.0], [4.0], [1e9]]))
    >>> print(f"{shift[0]:.2f} {scale[0]:.2g}")
    3.00 1.8e+08
    """
    low, shift, high = np.quantile(values.astype(np.float64), [0.16, 0.5, 0.84], axis=0)
    scale = (high - low) / 2
    scale = np.where(scale > 1e-6 * np.abs(values).max(0, initial=0), scale, values.std(0))
    return shift, np.where(scale > 0, scale, 1.0)
