r"""Hierarchical implicit models: a prior with a density, a simulator without one.

A model is written for ONE datum. Everything that needs many data lifts it with :func:`jax.vmap`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions import Distribution

from himlib.random import check_key, normal

__all__ = ["HierarchicalImplicitModel"]


def is_distribution(node: Any) -> bool:
    """Tell a numpyro distribution (itself a pytree) from a container of them."""
    return isinstance(node, Distribution)


@dataclass(frozen=True)
class HierarchicalImplicitModel:
    r"""A hierarchical implicit model (Tran, Ranganath and Blei 2017, equation 1).

    .. math:: p(x, z, \beta \mid c) = p(\beta) \prod_{n=1}^N p(x_n, z_n \mid \beta, c_n),

    of which only :math:`p(\beta)` has a density that can be evaluated. The pair :math:`(z_n, x_n)`
    comes out of ONE call, so that nothing downstream can pair an x with another datum's z.

    Give either ``simulate``, or ``generate`` together with ``noise_shape``. The second form is the
    paper's :math:`x_n = g(\epsilon_n \mid z_n, \beta)`: it makes antithetic noise and noise-free
    runs possible, and gradients with respect to :math:`\beta` go through it.

    Parameters
    ----------
    prior
        A numpyro distribution over :math:`\beta`, or a pytree (a dict, say) of them.
    simulate
        ``simulate(key, beta, covariate) -> (z, x)`` for one datum; z is None without local latents.
    generate
        ``generate(noise, beta, covariate) -> (z, x)`` for one datum, with noise
        :math:`\epsilon \sim N(0, I)` of shape ``noise_shape``.
    noise_shape
        Shape of the standard normal noise of one datum, for ``generate``.

    Raises
    ------
    TypeError
        If the prior is no numpyro distribution, or a simulator is no function.
    ValueError
        If not exactly one of ``simulate`` and ``generate`` is given, or one without its noise shape.

    Examples
    --------
    >>> import jax, numpyro.distributions as dist
    >>> def generate(noise, beta, covariate):
    ...     z = beta + noise[0]
    ...     return z, z + noise[1]
    >>> model = HierarchicalImplicitModel(dist.Normal(0, 1), generate=generate, noise_shape=(2,))
    >>> z, x = model.simulate_batch(jax.random.key(0), jax.numpy.zeros(5))
    >>> z.shape, x.shape
    ((5,), (5,))
    """

    prior: Any
    simulate: Callable | None = None
    generate: Callable | None = None
    noise_shape: tuple[int, ...] | None = None

    def __post_init__(self):
        leaves = jax.tree.leaves(self.prior, is_leaf=is_distribution)
        if not leaves or not all(map(is_distribution, leaves)):
            got = type(self.prior).__name__
            if isinstance(self.prior, type):
                got = f"the class {self.prior.__name__}"
            raise TypeError(
                f"prior: expected a numpyro distribution or a pytree of them, got {got}; "
                "LFVI evaluates p(beta), so a sampler alone does not do."
            )
        if (self.simulate is None) == (self.generate is None):
            raise ValueError("expected exactly one of simulate and generate.")
        if not callable(self.generate if self.simulate is None else self.simulate):
            raise TypeError("simulate and generate: expected a function of (key or noise, beta, covariate).")
        if (self.generate is None) != (self.noise_shape is None):
            raise ValueError("generate and noise_shape go together: the shape of one datum's noise.")
        sizes = self.noise_shape
        if sizes is not None and not (
            isinstance(sizes, tuple) and all(isinstance(n, int) and n >= 0 for n in sizes)
        ):
            raise ValueError(f"noise_shape: expected a tuple of sizes, such as (2,), got {sizes!r}.")

    def simulate_batch(self, key: jax.Array, beta: Any, covariate: Any = None) -> tuple:
        r"""Draw one pair (z, x) from the model for each row of ``beta`` and ``covariate``.

        Parameters
        ----------
        key
            A typed key, ``jax.random.key(seed)``.
        beta
            Globals with a leading batch axis.
        covariate
            Covariates with the same leading axis, or None.
        """
        if not all(jnp.ndim(leaf) for leaf in jax.tree.leaves(beta)):
            raise ValueError("beta: expected a leading batch axis, got a number; one row for each pair.")
        size = jax.tree.leaves(beta)[0].shape[0]
        if self.generate is None:
            return jax.vmap(self.simulate)(jax.random.split(check_key(key), size), beta, covariate)
        return jax.vmap(self.generate)(normal(key, (size, *self.noise_shape)), beta, covariate)

    def sample_prior(self, key: jax.Array, shape: tuple[int, ...] = ()) -> Any:
        r"""Draw :math:`\beta \sim p(\beta)`, with leading axes ``shape``."""
        leaves, tree = jax.tree.flatten(self.prior, is_leaf=is_distribution)
        keys = jax.random.split(check_key(key), len(leaves))
        return tree.unflatten([leaf.sample(k, shape) for leaf, k in zip(leaves, keys, strict=True)])

    def log_prior(self, beta: Any) -> jax.Array:
        r""":math:`\log p(\beta)` in nats, for one :math:`\beta`."""
        leaves, tree = jax.tree.flatten(self.prior, is_leaf=is_distribution)
        values = tree.flatten_up_to(beta)
        return sum(jnp.sum(leaf.log_prob(value)) for leaf, value in zip(leaves, values, strict=True))
