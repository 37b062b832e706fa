r"""Two latent variables in the plane whose posterior no normal can follow: a banana and a ring."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from himlib.models import HierarchicalImplicitModel
from himlib.random import check_key

__all__ = ["BANANA", "RING", "CurvedLatent", "GridPosterior"]


class GridPosterior(NamedTuple):
    r"""A distribution over the plane, as the probabilities of the squares of a grid.

    Attributes
    ----------
    axis
        The centers of the squares along either coordinate, evenly spaced, shape (G,).
    probability
        Of each square, shape (G, G), first index :math:`z_1`; it sums to one.

    Examples
    --------
    >>> import jax
    >>> posterior = RING.posterior(2.0)
    >>> posterior.sample(jax.random.key(0), 5).shape
    (5, 2)
    """

    axis: jax.Array
    probability: jax.Array

    @property
    def density(self) -> jax.Array:
        """The density at the centers of the squares, shape (G, G)."""
        return self.probability / (self.axis[1] - self.axis[0]) ** 2

    def expectation(self, function: Callable) -> jax.Array:
        """Average a function over the grid.

        Parameters
        ----------
        function
            ``function(z)`` gives an array, for one z of shape (2,).

        Returns
        -------
        jax.Array
            Of the shape that the function gives.
        """
        points = jnp.stack(jnp.meshgrid(self.axis, self.axis, indexing="ij"), axis=-1)
        values = jax.vmap(jax.vmap(function))(points)
        return jnp.tensordot(self.probability, values, axes=2)

    def sample(self, key: jax.Array, size: int) -> jax.Array:
        """Draw z: a square by its probability, then a point in it uniformly.

        Parameters
        ----------
        key
            A typed key.
        size
            Number of draws.

        Returns
        -------
        jax.Array
            Shape (size, 2).
        """
        k_square, k_point = jax.random.split(check_key(key))
        # The inverse of the distribution function: quicker than one Gumbel variable for each square.
        total = jnp.cumsum(self.probability.ravel())
        level = total[-1] * jax.random.uniform(k_square, (size,))
        square = jnp.minimum(jnp.searchsorted(total, level, side="right"), total.size - 1)
        corner = jnp.stack([self.axis[square // self.axis.size], self.axis[square % self.axis.size]], axis=-1)
        spacing = self.axis[1] - self.axis[0]
        return corner + spacing * jax.random.uniform(k_point, (size, 2), minval=-0.5, maxval=0.5)


@dataclass(frozen=True)
class CurvedLatent:
    r"""A standard normal in the plane, seen through a curved function and noise.

    .. math:: z_n \sim N(0, I_2), \qquad x_n \mid z_n \sim N(f(z_n), s^2).

    There is nothing global to infer: the prior of :math:`\beta` is a point, on which nothing depends.
    To LFVI it is a simulator like any other; beside it stands the exact posterior, on a grid.

    Parameters
    ----------
    function
        ``function(z) -> scalar``, the f above, for one z of shape (2,).
    noise_scale
        The standard deviation s of the noise, in the units of x.

    Raises
    ------
    TypeError
        If the function is none.
    ValueError
        If it does not give one number, or the scale is not a positive number.

    Examples
    --------
    >>> import jax
    >>> z, x = BANANA.simulate(jax.random.key(0), 1000)
    >>> z.shape, x.shape
    ((1000, 2), (1000,))
    >>> mean = BANANA.posterior(x[0]).expectation(lambda z: z)
    >>> bool(abs(mean[0]) < 1e-4)  # z_1 and -z_1 explain x equally well
    True
    """

    function: Callable
    noise_scale: float

    def __post_init__(self):
        if not callable(self.function):
            raise TypeError(f"function: expected a function of z, got {type(self.function).__name__}.")
        if not 0 < self.noise_scale < math.inf:
            raise ValueError(
                f"noise_scale: expected a positive standard deviation, got {self.noise_scale!r}."
            )
        shape = jax.eval_shape(self.function, jax.ShapeDtypeStruct((2,), jnp.float32)).shape
        if shape != ():
            raise ValueError(f"function: expected one number for one z of shape (2,), got shape {shape}.")

    @property
    def model(self) -> HierarchicalImplicitModel:
        """The simulator of one pair (z, x) of shapes (2,) and (), without a covariate."""

        def generate(noise, beta, covariate):
            z = noise[:2]
            return z, self.function(z) + self.noise_scale * noise[2]

        return HierarchicalImplicitModel(dist.Delta(0.0), generate=generate, noise_shape=(3,))

    def simulate(self, key: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
        """Draw pairs (z, x).

        Parameters
        ----------
        key
            A typed key.
        size
            Number of pairs.

        Returns
        -------
        tuple of jax.Array
            z of shape (size, 2), and x of shape (size,).
        """
        return self.model.simulate_batch(key, jnp.zeros(size))

    def log_joint(self, x: jax.Array, z: jax.Array) -> jax.Array:
        r""":math:`\log p(x_n, z_n)` in nats.

        Parameters
        ----------
        x
            One number.
        z
            Shape (2,).

        Returns
        -------
        jax.Array
            A scalar.
        """
        return dist.Normal().log_prob(z).sum() + dist.Normal(self.function(z), self.noise_scale).log_prob(x)

    def posterior(self, x: jax.Array, limit: float = 5.0, size: int = 401) -> GridPosterior:
        r""":math:`p(z_n \mid x_n)` for one x, on a grid of size by size squares.

        Parameters
        ----------
        x
            One observation.
        limit
            The centers of the squares reach from -limit to limit in either coordinate, in prior sds of z.
        size
            Squares along a coordinate. The default spacing, 0.025, is a twelfth of the banana's noise
            and an eighth of the ring's.

        Returns
        -------
        GridPosterior
            The probability of each square.

        Raises
        ------
        ValueError
            If x is more than one number.
        """
        if jnp.shape(x) != ():
            raise ValueError(f"x: expected one number, got shape {jnp.shape(x)}; use jax.vmap for many.")
        axis = jnp.linspace(-limit, limit, size)
        points = jnp.stack(jnp.meshgrid(axis, axis, indexing="ij"), axis=-1)
        log_joint = jax.vmap(jax.vmap(lambda z: self.log_joint(x, z)))(points)
        return GridPosterior(axis, jax.nn.softmax(log_joint, axis=(0, 1)))


#: :math:`x = z_2 + z_1^2 + 0.3\,\epsilon`: the posterior is a parabola's arc, for large x two separate arms.
BANANA = CurvedLatent(lambda z: z[1] + z[0] ** 2, 0.3)

#: :math:`x = |z| + 0.2\,\epsilon`: the posterior is a ring of radius close to x.
RING = CurvedLatent(lambda z: jnp.hypot(z[0], z[1]), 0.2)
