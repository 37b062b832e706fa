r"""A deep implicit model: noise in the hidden layers of a network, with a likelihood that can be checked."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx

from himlib._checks import check_counts, check_shape
from himlib.models import HierarchicalImplicitModel
from himlib.networks import Network, NoisyDense, pure
from himlib.random import check_key, normal

__all__ = ["DeepImplicit", "ImportanceSample", "Layers"]


class Layers(NamedTuple):
    """The layers of one datum, in the order in which they are computed.

    Attributes
    ----------
    z2, z1
        Stochastic layers, shape (hidden,).
    h2, h1
        Deterministic ones, shape (hidden,).
    x
        The datum, shape (outputs,).
    """

    z2: jax.Array
    h2: jax.Array
    z1: jax.Array
    h1: jax.Array
    x: jax.Array


class ImportanceSample(NamedTuple):
    r"""Weighted draws of the injected noises given one x, and what their weights say.

    Attributes
    ----------
    noise
        Draws of :math:`(\epsilon_2, \epsilon_1)` from the proposal, shape (size, d2 + d1).
    log_weight
        :math:`\log w_s = \log p(x \mid \epsilon^s) + \log p(\epsilon^s) - \log q(\epsilon^s)`, shape (size,).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> draws = ImportanceSample(jnp.zeros((4, 1)), jnp.array([0.0, 0.0, -jnp.inf, -jnp.inf]))
    >>> print(f"{draws.log_prob:.3f} +- {draws.standard_error:.3f}, {draws.effective_size:.1f} of 4 draws")
    -0.693 +- 0.500, 2.0 of 4 draws
    """

    noise: jax.Array
    log_weight: jax.Array

    @property
    def log_prob(self) -> jax.Array:
        r"""The estimate of :math:`\log p(x)` in nats: the log of the mean weight."""
        return jax.nn.logsumexp(self.log_weight) - math.log(self.log_weight.size)

    @property
    def effective_size(self) -> jax.Array:
        r"""The effective sample size, :math:`(\sum_s w_s)^2 / \sum_s w_s^2`."""
        return 1 / jnp.sum(jax.nn.softmax(self.log_weight) ** 2)

    @property
    def standard_error(self) -> jax.Array:
        r"""The Monte Carlo error of ``log_prob``, by the delta method.

        .. math:: \frac{1}{\bar w} \sqrt{\frac1{S^2} \sum_{s=1}^S (w_s - \bar w)^2}
                  = \sqrt{\frac1{\text{effective size}} - \frac1S},

        to be believed where the effective size is in the hundreds; few draws far out in a tail of the
        weights hide themselves and their error.
        """
        return jnp.sqrt(jnp.maximum(1 / self.effective_size - 1 / self.log_weight.size, 0))

    def expectation(self, function: Callable) -> jax.Array:
        """Average a function over the posterior.

        Parameters
        ----------
        function
            ``function(noise)`` gives an array, for one draw of shape (d2 + d1,).

        Returns
        -------
        jax.Array
            Of the shape that the function gives.
        """
        return jnp.tensordot(jax.nn.softmax(self.log_weight), jax.vmap(function)(self.noise), axes=1)

    def sample(self, key: jax.Array, size: int) -> jax.Array:
        """Draw from the posterior: the draws again, by their weights.

        Parameters
        ----------
        key
            A typed key.
        size
            Number of draws.

        Returns
        -------
        jax.Array
            Shape (size, d2 + d1).
        """
        index = jax.random.choice(check_key(key), len(self.noise), (size,), p=jax.nn.softmax(self.log_weight))
        return self.noise[index]


@dataclass(frozen=True)
class DeepImplicit:
    r"""The two-layer deep implicit model of Tran, Ranganath and Blei (2017), appendix B.

    .. math:: z_2 = a(W_1 \epsilon_2), \quad h_2 = a(W_2 z_2), \quad z_1 = a(W_3 [\epsilon_1, h_2]), \quad
              h_1 = a(W_4 z_1), \quad x = W_5 [\epsilon_0, h_1],

    each with a bias. No layer's density is known but the last: x is linear in :math:`\epsilon_0`, so that
    x given :math:`h_1` is normal, and p(x) and the posterior of the noises can be had by importance sampling.

    Parameters
    ----------
    outputs
        Size of x.
    hidden
        Size of each hidden layer.
    noise_sizes
        Sizes of :math:`\epsilon_2, \epsilon_1, \epsilon_0`.
    latent
        What the simulator returns as z, as one vector: ``"noise"``, :math:`(\epsilon_2, \epsilon_1)`, or
        ``"hidden"``, :math:`(z_2, z_1)`. The latter is the paper's, but nearly half of its entries are zero,
        and it lies on a surface, where a ratio of densities need not exist.
    activation
        The a above.
    prior_scale
        Standard deviation s of the normal prior: s for a bias, s / sqrt(inputs) for a weight. The paper's
        standard normal on the weights themselves would make x of the order of 10,000 at these widths.

    Raises
    ------
    ValueError
        If a size or the scale is not positive, or z is neither.

    Examples
    --------
    >>> import jax
    >>> simulator = DeepImplicit(outputs=2, hidden=16, noise_sizes=(3, 3, 4))
    >>> beta = simulator.init(jax.random.key(0))
    >>> z, x = simulator.model.generate(jax.numpy.ones(10), beta, None)
    >>> z.shape, x.shape
    ((6,), (2,))
    >>> draws = simulator.importance_sample(jax.random.key(1), x, beta, 1000)
    >>> bool(draws.standard_error < 0.1)
    True
    """

    outputs: int = 10
    hidden: int = 128
    noise_sizes: tuple[int, int, int] = (100, 100, 100)
    latent: str = "noise"
    activation: Callable = jax.nn.relu
    prior_scale: float = 1.0

    def __post_init__(self):
        check_counts(outputs=self.outputs, hidden=self.hidden)
        if len(self.noise_sizes) != 3:
            raise ValueError(f"noise_sizes: expected three sizes, got {self.noise_sizes!r}.")
        check_counts(**{f"noise_sizes[{i}]": size for i, size in enumerate(self.noise_sizes)})
        if self.latent not in ("noise", "hidden"):
            raise ValueError(f"latent: expected 'noise' or 'hidden', got {self.latent!r}.")
        if not 0 < self.prior_scale < math.inf:
            raise ValueError(f"prior_scale: expected a positive number, got {self.prior_scale!r}.")

    @property
    def network(self) -> Network:
        """The flax network behind it, of the three noises, which returns all :class:`Layers`."""
        return pure(lambda rngs, *noises: _Layers(self, rngs))

    def init(self, key: jax.Array) -> Any:
        """Draw weights to start from: variance 1 / inputs, which keeps all layers of one size.

        Parameters
        ----------
        key
            A typed key.

        Returns
        -------
        dict
            A tree of arrays, one beta of ``model``.
        """
        return self.network.init(key, *(jnp.zeros((1, size)) for size in self.noise_sizes))

    @property
    def model(self) -> HierarchicalImplicitModel:
        r"""The simulator of one pair (z, x), without a covariate; :math:`\beta` is a tree of weights."""
        d2, d1, _ = self.noise_sizes

        def generate(noise, beta, covariate):
            noises = jnp.split(noise, (d2, d2 + d1))
            layers = self.network.apply(beta, *noises)
            z = noises[:2] if self.latent == "noise" else (layers.z2, layers.z1)
            return jnp.concatenate(z), layers.x

        def prior(leaf):
            inputs = leaf.shape[0] if leaf.ndim == 2 else 1
            return dist.Normal(jnp.zeros(leaf.shape), self.prior_scale * inputs**-0.5)

        weights = jax.eval_shape(self.init, jax.random.key(0))
        noise_shape = (sum(self.noise_sizes),)
        return HierarchicalImplicitModel(
            jax.tree.map(prior, weights), generate=generate, noise_shape=noise_shape
        )

    def conditional(self, h1: jax.Array, beta: Any) -> dist.MultivariateNormal:
        r"""The exact :math:`p(x \mid h_1, \beta) = N(W_h h_1 + b, V V^\top)`.

        Parameters
        ----------
        h1
            Shape (..., hidden).
        beta
            The weights.

        Returns
        -------
        numpyro.distributions.MultivariateNormal
            Of batch shape (...), over x of shape (outputs,).

        Raises
        ------
        ValueError
            If there are fewer entries of :math:`\epsilon_0` than of x: the covariance is then singular.
        """
        if self.noise_sizes[2] < self.outputs:
            raise ValueError(
                f"noise_sizes: expected at least outputs={self.outputs} entries of the last noise, got "
                f"{self.noise_sizes[2]}; x given h1 has no density."
            )
        push, weight = jnp.split(beta["last"]["kernel"], (self.noise_sizes[2],))
        with jax.default_matmul_precision("float32"):  # on some GPUs the default has three digits
            return dist.MultivariateNormal(h1 @ weight + beta["last"]["bias"], push.T @ push)

    def importance_sample(
        self,
        key: jax.Array,
        x: jax.Array,
        beta: Any,
        size: int,
        proposal: dist.Distribution | None = None,
    ) -> ImportanceSample:
        r"""Weigh draws of the noises by how well they explain one x.

        .. math:: p(x \mid \beta)
                  = E_{q(\epsilon)} \big[p(x \mid h_1(\epsilon), \beta) \, p(\epsilon) / q(\epsilon)\big],
                  \quad \epsilon = (\epsilon_2, \epsilon_1).

        Exact as the size grows, whatever the proposal q that covers the posterior; unbiased for p(x), low
        on average for its log. Lifted over many x with one key, all share the draws, and their cost.

        Parameters
        ----------
        key
            A typed key.
        x
            One observation, shape (outputs,).
        beta
            The weights.
        size
            Number of draws.
        proposal
            A numpyro distribution of vectors of d2 + d1 entries; by default the standard normal prior.

        Returns
        -------
        ImportanceSample
            The draws and their weights, which give :math:`p(x \mid \beta)` and averages over the posterior.

        Raises
        ------
        ValueError
            If a shape is wrong, or x given h1 has no density.
        """
        check_shape("x", x, (self.outputs,))
        d2, d1, d0 = self.noise_sizes
        if proposal is None:
            noise, correction = normal(check_key(key), (size, d2 + d1)), 0.0
        else:
            if (proposal.batch_shape, proposal.event_shape) != ((), (d2 + d1,)):
                raise ValueError(
                    f"proposal: expected one event of shape {(d2 + d1,)}, got batch shape "
                    f"{proposal.batch_shape} and event shape {proposal.event_shape}; see to_event."
                )
            noise = proposal.sample(check_key(key), (size,))
            correction = dist.Normal().log_prob(noise).sum(-1) - proposal.log_prob(noise)
        apply = jax.vmap(self.network.apply, (None, 0, 0, None))
        h1 = apply(beta, noise[:, :d2], noise[:, d2:], jnp.zeros(d0)).h1
        return ImportanceSample(noise, self.conditional(h1, beta).log_prob(x) + correction)


class _Layers(nnx.Module):
    def __init__(self, simulator: DeepImplicit, rngs: nnx.Rngs):
        (d2, d1, d0), width = simulator.noise_sizes, simulator.hidden
        self.activation = simulator.activation
        self.first = nnx.Linear(d2, width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)
        self.third = NoisyDense(width, d1, width, rngs=rngs, activation=simulator.activation)
        self.fourth = nnx.Linear(width, width, rngs=rngs)
        self.last = NoisyDense(width, d0, simulator.outputs, rngs=rngs, activation=None)

    def __call__(self, eps2: jax.Array, eps1: jax.Array, eps0: jax.Array) -> Layers:
        z2 = self.activation(self.first(eps2))
        h2 = self.activation(self.second(z2))
        z1 = self.third(eps1, h2)
        h1 = self.activation(self.fourth(z1))
        return Layers(z2, h2, z1, h1, self.last(eps0, h1))
