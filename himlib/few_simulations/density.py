"""A density for draws of a posterior: by maximum likelihood, which covers every mode that has draws."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from himlib.draws import Importance
from himlib.families import Family
from himlib.few_simulations._coordinates import Coordinates
from himlib.random import check_key, row_numbers

__all__ = ["Density"]


@dataclass(frozen=True)
class Density:
    r"""A q(beta) that was fitted to the draws of a posterior, by :meth:`Rounds.density`.

    Attributes
    ----------
    family, params
        The :class:`~himlib.families.Family` and its parameters, of v in units of the draws' moments.
    importance
        Of fresh draws of q for the posterior, :math:`p(\beta) e^{r}`: their effective share and k-hat. They
        see no mode that q has lost, and take r as it is.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro.distributions as dist
    >>> from himlib import Data, FullRankNormal, HierarchicalImplicitModel
    >>> from himlib.few_simulations import fit_rounds
    >>> model = HierarchicalImplicitModel(dist.Normal(0, 1), noise_shape=(),
    ...     generate=lambda noise, beta, covariate: (None, beta + noise))
    >>> run = fit_rounds(jax.random.key(0), model, Data(jnp.ones(1)), simulations=1_000, rounds=2,
    ...     particles=1_000, progress=False)
    >>> q = run.density(jax.random.key(1), FullRankNormal(), steps=500)
    >>> q.sample(jax.random.key(2), 5).shape, bool(q.importance.ess > 0.8)
    ((5,), True)
    """

    family: Family
    params: Any
    importance: Importance
    _where: Coordinates
    _units: tuple

    def sample(self, key: jax.Array, size: int) -> Any:
        """Draw from q.

        Parameters
        ----------
        key
            A typed key.
        size
            The number of draws.

        Returns
        -------
        Any
            A tree like the prior, with a leading axis of ``size``.
        """
        location, scale = self._units
        v = location + scale * self.family.sample(self.params, check_key(key), size)
        return jax.vmap(self._where.constrain)(v)

    def log_prob(self, beta: Any) -> jax.Array:
        """Tell the logarithm of q's density.

        Parameters
        ----------
        beta
            Rows: a tree like the prior, with a leading axis; within the prior's support.

        Returns
        -------
        jax.Array
            In nats, of shape (rows,).
        """
        where, space, (location, scale) = self._where, self._where.model.space, self._units
        u = jax.vmap(space.unconstrain)(beta)
        v = where.from_unconstrained(u)
        slope = jax.vmap(where.unconstrained)(v)[1]
        log_q = self.family.distribution(self.params).log_prob((v - location) / scale)  # type: ignore[misc]
        return log_q - jnp.log(scale * slope).sum(1) - jax.vmap(space.log_jacobian)(u)


@partial(jax.jit, static_argnames=("family", "steps", "batch"))
def maximize_likelihood(key, v, rate, *, family, steps, batch):
    """Fit a family to rows by Adam, with a rate that falls to zero along a cosine."""
    optimizer = optax.chain(
        optax.clip_by_global_norm(10.0), optax.adam(optax.cosine_decay_schedule(rate, steps))
    )

    def loss(params, rows):
        return -family.distribution(params).log_prob(v[rows]).mean()

    def step(carry, key):
        params, state = carry
        gradient = jax.grad(loss)(params, row_numbers(key, (batch,), len(v)))
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = family.init(v.shape[1])
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, steps))
    return params


def units_of(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd of rows, for a family that starts at N(0, I)."""
    return v.mean(0), np.maximum(v.std(0), 1e-30)
