r"""Variational families: q(beta) with a density, q(z | x, beta) without one.

Globals live on an unconstrained line, :math:`u \in R^d`, through numpyro's bijections, and are
parameterized there in the units of a *frame*: a location and a scale per coordinate,

.. math:: u = \text{location} + \text{scale} \cdot v, \qquad v \sim q(v; \lambda),

so that learning rates mean the same whatever the units of the model.

**Bring your own.** Any object with the methods of :class:`Family` is a q(beta), and any with those of
:class:`LocalFamily` a q(z | x, beta); nothing is inherited or registered. Tails longer than a normal's, say:

>>> class Logistic:
...     def init(self, size):
...         return {"location": jnp.zeros(size), "log_scale": jnp.zeros(size)}
...     def distribution(self, params):
...         return dist.Logistic(params["location"], jnp.exp(params["log_scale"])).to_event(1)
...     def sample(self, params, key, size):
...         return self.distribution(params).sample(key, (size,))
...     def moments(self, params):
...         return params["location"], jnp.exp(params["log_scale"]) * jnp.pi / 3**0.5
...     def reframe(self, params, old, new):
...         location = (old.location + old.scale * params["location"] - new.location) / new.scale
...         return {"location": location, "log_scale": params["log_scale"] + jnp.log(old.scale / new.scale)}
>>> q, params = Logistic(), Logistic().init(2)
>>> q.distribution(params).log_prob(q.sample(params, jax.random.key(0), 5)).shape
(5,)

A normalizing flow is another, made of numpyro's transforms: its moments may come from draws under a fixed
key, and with an affine map as its last layer it can be reframed exactly. Yours to write are also r, a
:class:`~himlib.networks.Network`, its loss, a :class:`~himlib.losses.RatioLoss`, and the summaries and
distances of :mod:`himlib.abc`, which are functions.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from flax import nnx
from jax.flatten_util import ravel_pytree

from himlib.models import Frame
from himlib.networks import MLP, Network, Standardize, check_hidden, pure, standardization
from himlib.random import normal

__all__ = ["Family", "FullRankNormal", "ImplicitConditional", "LocalFamily", "MeanFieldNormal", "PointMass"]


class Family(Protocol):
    r"""What a family of q(beta) has to have: four methods and a density.

    All of it is in the units of a frame, of v and not of u or beta; d is the number of unconstrained
    coordinates, ``model.space.size``. Parameters are a pytree of floating-point arrays, of whatever shapes,
    which an optax optimizer moves without constraints: a scale is kept as its logarithm. Every method is
    traced by JAX.

    Examples
    --------
    >>> family: Family = MeanFieldNormal()  # as a type; nothing asks for its class
    >>> family.sample(family.init(3), jax.random.key(0), 5).shape
    (5, 3)
    >>> point: Family = PointMass()
    >>> point.distribution is None
    True
    """

    def init(self, size: int) -> Any:
        """Give the parameters to start with.

        Parameters
        ----------
        size
            d, the number of coordinates of v.

        Returns
        -------
        Any
            A pytree of arrays; for a first q as wide as the frame, those at which v is near N(0, I).
        """

    def sample(self, params: Any, key: jax.Array, size: int) -> jax.Array:
        """Draw v, reparameterized: its gradient in ``params`` is taken.

        Parameters
        ----------
        params
            As :meth:`init` gives them.
        key
            A typed key.
        size
            The number of draws, a Python integer.

        Returns
        -------
        jax.Array
            Of shape (size, d).
        """

    @property
    def distribution(self) -> Callable[[Any], dist.Distribution] | None:
        """Give the density of q by a method, ``distribution(params) -> q(v)``; or be None, for a point mass.

        What it returns has ``log_prob(v)``, in nats, which takes v of shape (size, d) and gives (size,), as
        a numpyro distribution with one event axis does. Its gradient is taken in v.
        :func:`~himlib.classification.bayesian_classifier` also asks for ``entropy()``. Where it is None,
        there is no term log q, no second round and nothing to propose from.
        """

    def moments(self, params: Any) -> tuple[jax.Array, jax.Array]:
        """Tell the mean and the sd of each coordinate of v.

        They report q, and center and scale the proposals; where there is no closed form, draws under a fixed
        key do.

        Parameters
        ----------
        params
            As :meth:`init` gives them.

        Returns
        -------
        tuple
            Two arrays of shape (d,).
        """

    def reframe(self, params: Any, old: Frame, new: Frame) -> Any:
        r"""Express the same q of u in another frame, for the next round.

        .. math:: \text{old location} + \text{old scale} \cdot v_\text{old}
                  = \text{new location} + \text{new scale} \cdot v_\text{new}.

        Parameters
        ----------
        params
            Those in the old frame.
        old, new
            Frames, each with a location and a scale of shape (d,), in units of u.

        Returns
        -------
        Any
            Parameters of the same structure and shapes, in the new frame.
        """


class LocalFamily(Protocol):
    r"""What a family of q(z | x, beta) has to have: two methods, and no density.

    It sees z, x, beta and covariates in the model's own units, each with a leading axis of n rows: x and the
    covariate as :class:`~himlib.base.Data` has them, beta as the prior has it. What is a dict there is a dict
    of such arrays here, and a covariate that the data have not is None. So is beta, for
    :func:`~himlib.adversarial.joint_matching`.

    Examples
    --------
    A normal with its mean linear in x and beta:

    >>> class Linear:
    ...     def init(self, key, z, x, beta, covariate):
    ...         return {"weights": jnp.zeros(3), "log_scale": jnp.zeros(())}
    ...     def sample(self, params, key, x, beta, covariate):
    ...         a, b, c = params["weights"]
    ...         return a * x + b * beta + c + jnp.exp(params["log_scale"]) * jax.random.normal(key, x.shape)
    >>> family: LocalFamily = Linear()
    >>> rows = jnp.linspace(-1, 1, 5)
    >>> params = family.init(jax.random.key(0), rows, rows, rows, None)
    >>> family.sample(params, jax.random.key(1), rows, rows, None).shape
    (5,)
    """

    def init(self, key: jax.Array, z: Any, x: Any, beta: Any, covariate: Any) -> Any:
        """Give the parameters to start with.

        Parameters
        ----------
        key
            A typed key.
        z, x, beta, covariate
            A simulated batch, as an example of shapes and units; each array has shape (n, ...).

        Returns
        -------
        Any
            A pytree of arrays.
        """

    def sample(self, params: Any, key: jax.Array, x: Any, beta: Any, covariate: Any) -> Any:
        """Draw one z for each row, reparameterized: its gradient in ``params`` and in beta is taken.

        Parameters
        ----------
        params
            As :meth:`init` gives them.
        key
            A typed key.
        x, beta, covariate
            Rows, of any number n.

        Returns
        -------
        Any
            z with a leading axis of n, in the structure and shapes of the simulator's.
        """


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
        """Parameters of the standard normal: ``location`` and ``log_scale``, each of shape (d,)."""
        return {"location": jnp.zeros(size), "log_scale": jnp.zeros(size)}

    def sample(self, params: dict, key: jax.Array, size: int) -> jax.Array:
        """Draw v, reparameterized: an array of shape (size, d)."""
        noise = normal(key, (size, *params["location"].shape))
        return params["location"] + jnp.exp(params["log_scale"]) * noise

    def distribution(self, params: dict) -> dist.Distribution:
        """Return q(v), a numpyro distribution with events of shape (d,)."""
        return dist.Normal(params["location"], jnp.exp(params["log_scale"])).to_event(1)

    def moments(self, params: dict) -> tuple[jax.Array, jax.Array]:
        """Mean and sd of each coordinate of v: two arrays of shape (d,)."""
        return params["location"], jnp.exp(params["log_scale"])

    def reframe(self, params: dict, old: Frame, new: Frame) -> dict:
        """Express the same q in another frame: parameters of the same shapes."""
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
        """Parameters of the standard normal: ``location`` of shape (d,), and ``tril``, (d, d)."""
        return {"location": jnp.zeros(size), "tril": jnp.zeros((size, size))}

    @staticmethod
    def _cholesky(params):
        tril = params["tril"]
        return jnp.tril(tril, -1) + jnp.diag(jnp.exp(jnp.diag(tril)))

    def sample(self, params: dict, key: jax.Array, size: int) -> jax.Array:
        """Draw v, reparameterized: an array of shape (size, d)."""
        noise = normal(key, (size, *params["location"].shape))
        return params["location"] + noise @ self._cholesky(params).T

    def distribution(self, params: dict) -> dist.Distribution:
        """Return q(v), a numpyro distribution with events of shape (d,)."""
        return dist.MultivariateNormal(params["location"], scale_tril=self._cholesky(params))

    def moments(self, params: dict) -> tuple[jax.Array, jax.Array]:
        """Mean and sd of each coordinate of v: two arrays of shape (d,)."""
        return params["location"], jnp.linalg.norm(self._cholesky(params), axis=1)

    def reframe(self, params: dict, old: Frame, new: Frame) -> dict:
        """Express the same q in another frame: parameters of the same shapes."""
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

    distribution = None  # which says that there is no density

    def init(self, size: int) -> dict:
        """Start at the frame's location: ``location``, zeros of shape (d,)."""
        return {"location": jnp.zeros(size)}

    def sample(self, params: dict, key: jax.Array, size: int) -> jax.Array:
        """Return the point itself, so many times: an array of shape (size, d)."""
        return jnp.broadcast_to(params["location"], (size, *params["location"].shape))

    def moments(self, params: dict) -> tuple[jax.Array, jax.Array]:
        """Mean and sd (zero) of each coordinate of v: two arrays of shape (d,)."""
        return params["location"], jnp.zeros_like(params["location"])

    def reframe(self, params: dict, old: Frame, new: Frame) -> dict:
        """Express the same point in another frame: ``location`` of the same shape."""
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
        """Make parameters from example batches of n rows: those of the network, and moments of z.

        Parameters
        ----------
        key
            A typed key.
        z
            Simulated: a row of ``shape`` for each datum.
        x, beta, covariate
            What q is given, each array with a leading axis of n; or None.

        Returns
        -------
        dict
            ``network``, a tree of arrays, and ``shift`` and ``scale``, each of one datum's shape.

        Raises
        ------
        ValueError
            If z has another shape.
        """
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
        """One reparameterized z, of shape ``shape``, for each row of x, beta and covariate."""
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
