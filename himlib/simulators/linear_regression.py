r"""Bayesian linear regression: the simplest model with covariates, and with every answer known exactly."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from himlib.models import HierarchicalImplicitModel

__all__ = ["LinearRegression"]


@dataclass(frozen=True)
class LinearRegression:
    r"""Normal weights, known covariates, normal noise.

    .. math:: \beta \sim N(0, s_0^2 I), \quad x_n \mid \beta, c_n \sim N(c_n^\top \beta, s^2),
              \quad n = 1, \dots, N.

    The datum :math:`x_n`, a number, is the response; its covariate :math:`c_n` are the regression's features.
    There are no local latents. This is the task of appendix F of Tran, Ranganath and Blei (2017), and with
    noise of sd 1 the model of Edward's example of likelihood-free inference.

    Parameters
    ----------
    size
        The number of weights.
    prior_scale
        The sd :math:`s_0` of a weight.
    noise_scale
        The sd :math:`s` of the noise, in the units of x.

    Raises
    ------
    ValueError
        If the size is no positive integer or a scale no positive number; from the answers, if the shapes of
        data and covariates do not agree.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> regression = LinearRegression(size=2)
    >>> covariate = jax.random.normal(jax.random.key(0), (500, 2))
    >>> _, x = regression.model.simulate_batch(jax.random.key(1), jnp.full((500, 2), 0.7), covariate)
    >>> exact = regression.posterior(x, covariate)
    >>> bool(jnp.all(jnp.abs(exact.mean - 0.7) < 4 * jnp.sqrt(exact.variance)))
    True
    """

    size: int = 2
    prior_scale: float = 1.0
    noise_scale: float = 1.0

    def __post_init__(self):
        if not isinstance(self.size, int) or self.size < 1:
            raise ValueError(f"size: expected a positive number of weights, got {self.size!r}.")
        for name in ("prior_scale", "noise_scale"):
            if not 0 < (scale := getattr(self, name)) < math.inf:
                raise ValueError(f"{name}: expected a positive standard deviation, got {scale!r}.")

    @property
    def model(self) -> HierarchicalImplicitModel:
        """The simulator of one response, of which the covariates are a vector; z is None."""

        def generate(noise, beta, covariate):
            return None, self.mean(covariate, beta) + self.noise_scale * noise

        return HierarchicalImplicitModel(self.prior, generate=generate, noise_shape=())

    @property
    def prior(self) -> dist.Distribution:
        r""":math:`p(\beta)`, over vectors."""
        return dist.Normal(jnp.zeros(self.size), self.prior_scale).to_event(1)

    def mean(self, covariate: jax.Array, beta: jax.Array) -> jax.Array:
        r""":math:`c_n^\top \beta`, the response without noise, over any leading axes.

        Parameters
        ----------
        covariate, beta
            Shape (..., size) each.

        Returns
        -------
        jax.Array
            Shape (...).
        """
        return jnp.sum(covariate * beta, axis=-1)

    def log_likelihood(self, x: jax.Array, covariate: jax.Array, beta: jax.Array) -> jax.Array:
        r""":math:`\sum_n \log p(x_n \mid \beta, c_n)` in nats, at one :math:`\beta`.

        Parameters
        ----------
        x
            Responses, shape (N,).
        covariate
            Their features, shape (N, size).
        beta
            Weights, shape (size,).

        Returns
        -------
        jax.Array
            A scalar.
        """
        x, covariate = self._checked(x, covariate)
        return dist.Normal(self.mean(covariate, beta), self.noise_scale).log_prob(x).sum()

    def posterior(self, x: jax.Array, covariate: jax.Array) -> dist.MultivariateNormal:
        r""":math:`p(\beta \mid x_1, \dots, x_N)`.

        .. math:: N\left(\Lambda^{-1} \frac{C^\top x}{s^2}, \Lambda^{-1}\right), \quad
                  \Lambda = \frac{I}{s_0^2} + \frac{C^\top C}{s^2}.

        Parameters
        ----------
        x
            Responses, shape (N,).
        covariate
            Their features, shape (N, size).

        Returns
        -------
        numpyro.distributions.MultivariateNormal
            Over vectors of shape (size,).
        """
        x, covariate = self._checked(x, covariate)
        # In units of the prior and of the noise, whose squares may be no numbers of single precision.
        features = covariate * (self.prior_scale / self.noise_scale)
        with jax.default_matmul_precision("float32"):  # on some GPUs the default has three digits
            product, moment = features.T @ features, features.T @ (x / self.noise_scale)
        precision = jnp.eye(self.size) + product
        mean = jnp.linalg.solve(precision, moment)
        return dist.MultivariateNormal(
            self.prior_scale * mean,
            scale_tril=self.prior_scale * jnp.linalg.cholesky(jnp.linalg.inv(precision)),
        )

    def evidence(self, x: jax.Array, covariate: jax.Array) -> jax.Array:
        r""":math:`\log p(x_1, \dots, x_N)` in nats, given the covariates; the most that an ELBO can be.

        Parameters
        ----------
        x
            Responses, shape (N,).
        covariate
            Their features, shape (N, size).

        Returns
        -------
        jax.Array
            A scalar.
        """
        # Bayes' theorem holds at every beta. At the posterior mean no term of it is far out in a tail.
        posterior = self.posterior(x, covariate)
        beta = posterior.mean
        joint = self.log_likelihood(x, covariate, beta) + self.prior.log_prob(beta)
        return joint - posterior.log_prob(beta)

    def _checked(self, x, covariate):
        x, covariate = jnp.asarray(x), jnp.asarray(covariate)
        if x.ndim != 1 or covariate.shape != (x.size, self.size):
            raise ValueError(
                f"x, covariate: expected shapes (N,) and (N, {self.size}), got {x.shape} and "
                f"{covariate.shape}; each response needs its own row of features."
            )
        return x, covariate
