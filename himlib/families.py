r"""Variational families: q(beta) with a density, q(z | x, beta) without one.

Globals live on an unconstrained line, :math:`u \in R^d`, through numpyro's bijections, and are
parameterized there in the units of a *frame*: a location and a scale per coordinate,

.. math:: u = \text{location} + \text{scale} \cdot v, \qquad v \sim q(v; \lambda),

so that learning rates mean the same whatever the units of the model.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from flax import nnx
from jax.flatten_util import ravel_pytree

from himlib.models import Frame
from himlib.networks import MLP, Network, Standardize, check_hidden, pure, standardization
from himlib.random import normal

__all__ = ["FullRankNormal", "ImplicitConditional", "MeanFieldNormal", "PointMass"]


@dataclass(frozen=True)
class MeanFieldNormal:
    r"""Independent normals, :math:`q(v; \lambda) = \prod_i N(v_i; m_i, e^{2 s_i})` (section 4 of the paper).

    Examples
    --------
    >>> family = MeanFieldNormal()
    >>> params = family.init(2)
    >>> print(family.distribution(params).variance)
    [1. 1.]
    """

    def init(self, size: int) -> dict:
        """Parameters of the standard normal."""
        return {"location": jnp.zeros(size), "log_scale": jnp.zeros(size)}

    def sample(self, params: dict, key: jax.Array, size: int) -> jax.Array:
        """Draw v, reparameterized, with a leading axis."""
        noise = normal(key, (size, *params["location"].shape))
        return params["location"] + jnp.exp(params["log_scale"]) * noise

    def distribution(self, params: dict) -> dist.Distribution:
        """Return q(v), as a numpyro distribution."""
        return dist.Normal(params["location"], jnp.exp(params["log_scale"])).to_event(1)

    def moments(self, params: dict) -> tuple[jax.Array, jax.Array]:
        """Mean and sd of each coordinate of v."""
        return params["location"], jnp.exp(params["log_scale"])

    def reframe(self, params: dict, old: Frame, new: Frame) -> dict:
        """Express the same q in another frame."""
        location = (old.location + old.scale * params["location"] - new.location) / new.scale
        return {"location": location, "log_scale": params["log_scale"] + jnp.log(old.scale / new.scale)}


@dataclass(frozen=True)
class FullRankNormal:
    r"""A normal with full covariance, :math:`q(v; \lambda) = N(v; m, L L^\top)`.

    L is lower triangular with the exponential of its stored diagonal.

    Examples
    --------
    >>> family = FullRankNormal()
    >>> family.distribution(family.init(3)).event_shape
    (3,)
    """

    def init(self, size: int) -> dict:
        """Parameters of the standard normal."""
        return {"location": jnp.zeros(size), "tril": jnp.zeros((size, size))}

    @staticmethod
    def _cholesky(params):
        tril = params["tril"]
        return jnp.tril(tril, -1) + jnp.diag(jnp.exp(jnp.diag(tril)))

    def sample(self, params: dict, key: jax.Array, size: int) -> jax.Array:
        """Draw v, reparameterized, with a leading axis."""
        noise = normal(key, (size, *params["location"].shape))
        return params["location"] + noise @ self._cholesky(params).T

    def distribution(self, params: dict) -> dist.Distribution:
        """Return q(v), as a numpyro distribution."""
        return dist.MultivariateNormal(params["location"], scale_tril=self._cholesky(params))

    def moments(self, params: dict) -> tuple[jax.Array, jax.Array]:
        """Mean and sd of each coordinate of v."""
        return params["location"], jnp.linalg.norm(self._cholesky(params), axis=1)

    def reframe(self, params: dict, old: Frame, new: Frame) -> dict:
        """Express the same q in another frame."""
        ratio = old.scale / new.scale
        location = (old.location + old.scale * params["location"] - new.location) / new.scale
        tril = jnp.tril(params["tril"], -1) * ratio[:, None]
        return {"location": location, "tril": tril + jnp.diag(jnp.diag(params["tril"]) + jnp.log(ratio))}


@dataclass(frozen=True)
class PointMass:
    r"""All mass on one point: MAP estimation, or variational EM (section 3.4 of the paper).

    The point maximizes the density in :math:`\beta`, not in u: no Jacobian enters. Its entropy is left out.

    Examples
    --------
    >>> family = PointMass()
    >>> print(family.moments(family.init(2))[1])
    [0. 0.]
    """

    def init(self, size: int) -> dict:
        """Start at the frame's location."""
        return {"location": jnp.zeros(size)}

    def sample(self, params: dict, key: jax.Array, size: int) -> jax.Array:
        """Return the point itself, with a leading axis."""
        return jnp.broadcast_to(params["location"], (size, *params["location"].shape))

    def moments(self, params: dict) -> tuple[jax.Array, jax.Array]:
        """Mean and sd (zero) of each coordinate of v."""
        return params["location"], jnp.zeros_like(params["location"])

    def reframe(self, params: dict, old: Frame, new: Frame) -> dict:
        """Express the same point in another frame."""
        return {"location": (old.location + old.scale * params["location"] - new.location) / new.scale}


@dataclass(frozen=True)
class ImplicitConditional:
    r"""q(z | x, beta) as a noise-injected network: samples, and no density to ask for.

    .. math:: z_n = T(\delta_n, x_n, \beta, c_n; \phi), \qquad \delta_n \sim N(0, I),

    the local approximation of section 3.4 of the paper. The output is scaled by the moments of z in
    the first simulated batch.

    Parameters
    ----------
    shape
        Shape of one datum's z.
    noise_size
        Number of standard normals injected: as many as z has dimensions, or q would have no density and
        the log ratio no bound; by default one more.
    hidden
        Widths of the hidden layers.
    activation
        Between hidden layers.

    Raises
    ------
    ValueError
        If there are fewer normals than z has dimensions; in ``init``, if z has another shape.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> family = ImplicitConditional(hidden=(8,))
    >>> batch = jnp.linspace(-1, 1, 5)
    >>> params = family.init(jax.random.key(0), batch, batch, batch, None)
    >>> family.sample(params, jax.random.key(1), batch, batch, None).shape
    (5,)
    """

    shape: tuple[int, ...] = ()
    # None is for the constructor alone: __post_init__ puts the default in its place.
    noise_size: int = None  # type: ignore[assignment]
    hidden: Sequence[int] = (32, 32)
    activation: Callable = jax.nn.squareplus

    def __post_init__(self):
        least = math.prod(self.shape)
        if self.noise_size is None:
            object.__setattr__(self, "noise_size", least + 1)  # the class is frozen
        if not isinstance(self.noise_size, int | np.integer) or self.noise_size < least:
            raise ValueError(
                f"noise_size: expected an integer of at least {least}, one for each dimension of z (with "
                f"fewer q has no density), got {self.noise_size!r}."
            )
        check_hidden(self.hidden)

    @property
    def network(self) -> Network:
        """The flax network behind it, of (noise, x, beta, covariate)."""
        return pure(lambda rngs, *batch: _Conditional(self, rngs, batch))

    def init(self, key: jax.Array, z: jax.Array, x: Any, beta: Any, covariate: Any) -> dict:
        """Parameters, from example batches with a leading axis."""
        got = z.shape[1:] if hasattr(z, "shape") else type(z).__name__
        if got != self.shape:
            raise ValueError(
                f"q(z | x, beta): expected z of shape {self.shape}, the simulator gives {got}; "
                "set ImplicitConditional(shape=...)."
            )
        noise = normal(key, (len(z), self.noise_size))
        shift, scale = standardization(z)
        return {
            "network": self.network.init(key, noise, x, beta, covariate), "shift": shift, "scale": scale,
        }  # fmt: skip

    def sample(self, params: dict, key: jax.Array, x: Any, beta: Any, covariate: Any) -> jax.Array:
        """One reparameterized z for each row of x, beta and covariate."""
        noise = normal(key, (jax.tree.leaves(x)[0].shape[0], self.noise_size))
        z = jax.vmap(self.network.apply, (None, 0, 0, 0, 0))(params["network"], noise, x, beta, covariate)
        shift, scale = jax.lax.stop_gradient((params["shift"], params["scale"]))
        return shift + scale * z


class _Conditional(nnx.Module):
    def __init__(self, family: ImplicitConditional, rngs, batch):
        noise, *rest = batch
        self.shape = family.shape
        self.standardize = Standardize(jax.vmap(lambda *leaves: ravel_pytree(leaves)[0])(*rest))
        sizes = (noise.shape[-1] + self.standardize.shift[...].size, *family.hidden, math.prod(family.shape))
        self.mlp = MLP(sizes, rngs=rngs, activation=family.activation, last_scale=1.0)

    def __call__(self, noise, *rest):
        values = self.standardize(ravel_pytree(rest)[0])
        return self.mlp(jnp.concatenate([noise, values])).reshape(self.shape)
