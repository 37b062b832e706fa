r"""The conjugate hierarchical Gaussian: an implicit model whose every answer is known exactly."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from himlib.models import HierarchicalImplicitModel

__all__ = ["ConjugateGaussian"]


@dataclass(frozen=True)
class ConjugateGaussian:
    r"""A normal global latent, normal local latents, normal observations.

    .. math:: \beta \sim N(0, s_0^2), \quad z_n \mid \beta \sim N(\beta, s_1^2), \quad
              x_n \mid z_n \sim N(z_n, s_2^2), \quad n = 1, \dots, N.

    To LFVI it is a simulator like any other; beside it stand the exact posterior, evidence and ELBO.

    Parameters
    ----------
    prior_scale, local_scale, noise_scale
        The standard deviations :math:`s_0, s_1, s_2`, in the units of x.

    Raises
    ------
    ValueError
        If a scale is not a positive number.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> gaussian = ConjugateGaussian()
    >>> z, x = gaussian.model.simulate_batch(jax.random.key(0), jnp.full(100, 0.7))
    >>> exact = gaussian.posterior(x)
    >>> bool(abs(gaussian.elbo(exact.mean, exact.scale, x) - gaussian.evidence(x)) < 1e-3)
    True
    """

    prior_scale: float = 1.0
    local_scale: float = 1.0
    noise_scale: float = 1.0

    def __post_init__(self):
        for name, scale in vars(self).items():
            if not 0 < scale < math.inf:
                raise ValueError(f"{name}: expected a positive standard deviation, got {scale!r}.")

    @property
    def model(self) -> HierarchicalImplicitModel:
        """The simulator of one pair (z, x), both scalars, without a covariate."""

        def generate(noise, beta, covariate):
            z = beta + self.local_scale * noise[0]
            return z, z + self.noise_scale * noise[1]

        return HierarchicalImplicitModel(self.prior, generate=generate, noise_shape=(2,))

    @property
    def prior(self) -> dist.Normal:
        r""":math:`p(\beta)`."""
        return dist.Normal(0.0, self.prior_scale)

    def predictive(self, beta: jax.Array) -> dist.Normal:
        r""":math:`p(x_n \mid \beta) = N(\beta, s_1^2 + s_2^2)`.

        Parameters
        ----------
        beta
            Of any shape.

        Returns
        -------
        numpyro.distributions.Normal
            Of the batch shape of ``beta``.
        """
        return dist.Normal(beta, math.hypot(self.local_scale, self.noise_scale))

    def posterior(self, x: jax.Array) -> dist.Normal:
        r""":math:`p(\beta \mid x_1, \dots, x_N)`.

        .. math:: N\left(\frac{\sum_n x_n}{v \lambda}, \frac1\lambda\right), \quad
                  v = s_1^2 + s_2^2, \quad \lambda = \frac1{s_0^2} + \frac N v.

        Parameters
        ----------
        x
            All data, of any shape with N entries.

        Returns
        -------
        numpyro.distributions.Normal
            Over one number.
        """
        x = jnp.asarray(x)
        variance = self.local_scale**2 + self.noise_scale**2
        precision = 1 / self.prior_scale**2 + x.size / variance
        return dist.Normal(jnp.sum(x) / (variance * precision), precision**-0.5)

    def local_posterior(self, x: jax.Array, beta: jax.Array) -> dist.Normal:
        r""":math:`p(z_n \mid x_n, \beta) = N(\beta + w (x_n - \beta), w s_2^2)`, elementwise.

        .. math:: w = s_1^2 / (s_1^2 + s_2^2)

        Parameters
        ----------
        x, beta
            Of shapes that broadcast.

        Returns
        -------
        numpyro.distributions.Normal
            Of the batch shape that they broadcast to.
        """
        weight = self.local_scale**2 / (self.local_scale**2 + self.noise_scale**2)
        return dist.Normal(beta + weight * (x - beta), self.noise_scale * math.sqrt(weight))

    def log_joint(self, x: jax.Array, z: jax.Array, beta: jax.Array) -> jax.Array:
        r""":math:`\log p(x_n, z_n \mid \beta)` in nats, elementwise.

        Parameters
        ----------
        x, z, beta
            Of shapes that broadcast.

        Returns
        -------
        jax.Array
            Of the shape that they broadcast to.
        """
        return dist.Normal(beta, self.local_scale).log_prob(z) + dist.Normal(z, self.noise_scale).log_prob(x)

    def evidence(self, x: jax.Array) -> jax.Array:
        r""":math:`\log p(x_1, \dots, x_N)` in nats, the most that an ELBO can be.

        Parameters
        ----------
        x
            All data, of any shape with N entries.

        Returns
        -------
        jax.Array
            A scalar.
        """
        # Bayes' theorem holds at every beta. At the posterior mean no term of it is far out in a tail.
        posterior = self.posterior(x)
        beta = posterior.mean
        terms = self.predictive(beta).log_prob(x)
        return jnp.sum(terms) + self.prior.log_prob(beta) - posterior.log_prob(beta)

    def elbo(self, location: jax.Array, scale: jax.Array, x: jax.Array) -> jax.Array:
        r"""The ELBO in nats of a normal :math:`q(\beta)` beside the exact local posterior.

        .. math:: \sum_n E_q \log p(x_n \mid \beta) - KL(q(\beta) \,\|\, p(\beta))
                  = \log p(x_1, \dots, x_N) - KL(q(\beta) \,\|\, p(\beta \mid x_1, \dots, x_N)),

        the most that any :math:`q(z \mid x, \beta)` gives. Equation 4 of Tran, Ranganath and Blei (2017) is
        this bound less :math:`\sum_n \log q(x_n)`, a constant.

        Parameters
        ----------
        location, scale
            Mean and sd of :math:`q(\beta)`, numbers.
        x
            All data, of any shape with N entries.

        Returns
        -------
        jax.Array
            A scalar.
        """
        return self.evidence(x) - dist.kl_divergence(dist.Normal(location, scale), self.posterior(x))
