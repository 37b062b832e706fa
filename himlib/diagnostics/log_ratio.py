"""Whether to believe the ratio r that LFVI learned, and with it q."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.stats import chi2
from jax.tree_util import Partial

from himlib._checks import check_rows
from himlib.base import Algorithm, Data, State
from himlib.models import HierarchicalImplicitModel, Space, antithetic, check_model
from himlib.random import check_key

__all__ = [
    "RatioCalibration",
    "ScoreTest",
    "ratio_calibration",
    "score_test",
    "sum_log_ratio",
]


class RatioCalibration(NamedTuple):
    r"""The sum of r held against the exact log-likelihood.

    Attributes
    ----------
    slope
        Slope of the regression of the sum of r on the log-likelihood. Below 1, r is too flat, and q too wide.
    correlation
        Of the two.
    rmse
        Root mean square of their difference about its mean, in nats. At the optimum the difference is
        constant in beta; this is its standard deviation (appendix F of the paper).
    shift
        By how many posterior sds the error of r moves the posterior mean of each parameter, to first order.
    """

    slope: float
    correlation: float
    rmse: float
    shift: np.ndarray


class ScoreTest(NamedTuple):
    """Whether the expected gradient of r is zero under the model.

    Attributes
    ----------
    mean, standard_error
        The expected gradient of one datum's r, in nats per unit of each unconstrained coordinate, (d,).
    z
        Their quotient, (d,).
    chi_square
        Of all coordinates together, d degrees of freedom.
    p_value
        Of that chi square.
    """

    mean: jax.Array
    standard_error: jax.Array
    z: jax.Array
    chi_square: jax.Array
    p_value: jax.Array


def sum_log_ratio(key: jax.Array, algorithm: Algorithm, state: State, beta: Any, data: Data) -> jax.Array:
    r"""Sum r over the data, at many :math:`\beta`.

    .. math:: R(\beta) = \sum_{n=1}^N r(x_n, z_n, \beta), \quad z_n \sim q(z_n \mid x_n, \beta),

    which at the optimum is :math:`\log p(x_1, \dots, x_N \mid \beta)` up to a constant. The
    :math:`z_n`, if there are any, are made of the same noise at each :math:`\beta`.

    Parameters
    ----------
    key
        A typed key, for the noise in z.
    algorithm, state
        What :func:`~himlib.variational.lfvi` built, and the state that a run ended in.
    beta
        Values with a leading axis of B.
    data
        The observations.

    Returns
    -------
    jax.Array
        Sums in nats, (B,).

    Raises
    ------
    TypeError
        If the key is old-style.
    ValueError
        If beta has no leading axis.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, optax
    >>> from himlib import ImplicitConditional, MeanFieldNormal, lfvi, ratio_network
    >>> from himlib.simulators.conjugate import ConjugateGaussian
    >>> algorithm = lfvi(ConjugateGaussian().model, MeanFieldNormal(), ratio_network(hidden=(8,)),
    ...     local=ImplicitConditional(hidden=(8,)), ratio_optimizer=optax.adam(1e-3),
    ...     posterior_optimizer=optax.adam(1e-3))
    >>> data = Data(jnp.linspace(-1, 1, 10))
    >>> state = algorithm.init(jax.random.key(0), data)
    >>> sum_log_ratio(jax.random.key(1), algorithm, state, jnp.linspace(-2, 2, 7), data).shape
    (7,)
    """
    check_key(key)
    check_rows("beta", beta, 1)
    return _sum(key, algorithm, state, beta, data)


@partial(jax.jit, static_argnames="algorithm")
def _sum(key, algorithm, state, beta, data):
    def total(beta):
        z = algorithm.sample_local(key, state, beta, data)
        return jax.vmap(algorithm.log_ratio, (None, 0, 0, None, 0))(
            state, data.x, z, beta, data.covariate
        ).sum()

    return jax.lax.map(total, beta)


def ratio_calibration(sum_of_r: Any, log_likelihood: Any, beta: Any) -> RatioCalibration:
    r"""Hold the sum of r against the exact log-likelihood, at B values of :math:`\beta`.

    At the optimum their difference is constant in :math:`\beta`. Were r's error

    .. math:: e(\beta) = \sum_n r(x_n, z_n, \beta) - \log p(x_1, \dots, x_N \mid \beta)

    to enter the posterior, :math:`p(\beta \mid x)\, e^{e(\beta)}`, its mean would move by
    :math:`\operatorname{cov}(e, \beta)` to first order. The shift is this covariance over the sd.

    Parameters
    ----------
    sum_of_r
        Such as :func:`sum_log_ratio` returns, (B,).
    log_likelihood
        :math:`\log p(x_1, \dots, x_N \mid \beta)` in nats, up to a constant, (B,).
    beta
        The values, with a leading axis of B: drawn from the posterior or from q, for the shift to have its
        meaning; from a wider distribution to see the tails.

    Returns
    -------
    RatioCalibration
        Numbers, and an array of one entry for each parameter.

    Raises
    ------
    ValueError
        If the three differ in B, B is below three, values are not finite, or the log-likelihood is constant.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> beta = jnp.linspace(-2, 2, 101)
    >>> result = ratio_calibration(-0.9 * beta**2 / 2 + 7, -beta**2 / 2, beta)
    >>> print(f"{result.slope:.2f} {result.correlation:.2f} {abs(result.shift[0]):.2f}")
    0.90 1.00 0.00
    """
    size = check_rows("beta", beta, 3)
    r, exact = np.asarray(sum_of_r, np.float64), np.asarray(log_likelihood, np.float64)
    if r.shape != (size,) or exact.shape != (size,):
        raise ValueError(
            f"expected a sum of r and a log-likelihood for each of {size} values of beta, "
            f"got shapes {r.shape} and {exact.shape}."
        )
    if not np.isfinite(r).all() or not np.isfinite(exact).all():
        raise ValueError("expected finite sums of r and log-likelihoods, got NaN or infinity.")
    r, exact = r - r.mean(), exact - exact.mean()
    if not exact.any():
        raise ValueError("log_likelihood: expected one that varies with beta, got a constant.")
    columns = np.asarray(jax.vmap(lambda beta: ravel_pytree(beta)[0])(beta), np.float64)
    columns = columns - columns.mean(0)
    scale = columns.std(0)
    return RatioCalibration(
        slope=float(r @ exact / (exact @ exact)),
        correlation=float(r @ exact / max(np.linalg.norm(r) * np.linalg.norm(exact), 1e-300)),
        rmse=float((r - exact).std()),
        shift=(r - exact) @ columns / size / np.where(scale > 0, scale, 1.0),
    )


def score_test(
    key: jax.Array, log_ratio: Callable, model: HierarchicalImplicitModel, beta: Any, covariate: Any = None
) -> ScoreTest:
    r"""Test r without knowing the likelihood: the model's own draws leave it no slope in :math:`\beta`.

    .. math:: E_{p(x, z \mid \beta)}\, \nabla_\beta\, r^*(x, z, \beta)
              = \nabla_\beta \int p(x, z \mid \beta)\, dx\, dz - E\, \nabla_\beta \log q(z \mid x, \beta) = 0

    at the optimum, where q(z | x, beta) is the exact conditional and the second term vanishes by the same
    argument. A bias b of one datum moves the posterior mean by about N b posterior variances. Where the model
    has ``generate``, each draw has an antithetic twin, which makes small biases visible.

    Parameters
    ----------
    key
        A typed key, ``jax.random.key(seed)``.
    log_ratio
        ``log_ratio(x, z, beta, covariate) -> r`` of one datum, such as
        ``jax.tree_util.Partial(algorithm.log_ratio, state)``, which compiles once for all states.
    model
        Simulates one pair (z, x) for each row.
    beta
        Values with a leading axis of S: one value repeated, or draws of q.
    covariate
        Covariates with the same leading axis, or None.

    Returns
    -------
    ScoreTest
        A test of each coordinate, and one of all together.

    Raises
    ------
    TypeError
        If the key is old-style, the model is none, or log_ratio no function.
    ValueError
        If leading axes differ, there are fewer than 20 rows, or a gradient is not finite.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from himlib.simulators.conjugate import ConjugateGaussian
    >>> gaussian = ConjugateGaussian()
    >>> def exact(x, z, beta, covariate):
    ...     return gaussian.predictive(beta).log_prob(x)
    >>> beta = jnp.full(1000, 0.3)
    >>> bool(score_test(jax.random.key(0), exact, gaussian.model, beta).p_value > 0.01)
    True
    >>> shifted = lambda x, z, beta, covariate: exact(x, z, beta + 0.5, covariate)
    >>> bool(score_test(jax.random.key(0), shifted, gaussian.model, beta).p_value < 1e-4)
    True
    """
    check_key(key)
    check_model(model)
    if not callable(log_ratio):
        raise TypeError(
            f"log_ratio: expected a function of (x, z, beta, covariate), got {type(log_ratio).__name__}."
        )
    check_rows("beta and covariate", (beta, covariate), 20)
    log_ratio = log_ratio if isinstance(log_ratio, Partial) else Partial(log_ratio)
    _ = model.space  # before anything is traced: older JAX does not evaluate bijections meanwhile
    result, finite = _score(key, log_ratio, model, beta, covariate)
    if finite < 1:
        raise ValueError(f"log_ratio: {1 - float(finite):.1%} of its gradients are not finite.")
    return result


def gradients(space: Space, log_ratio: Callable, x: Any, z: Any, beta: Any, covariate: Any) -> jax.Array:
    """Gradient of r in unconstrained coordinates, in units of the prior's frame: a row for each datum."""

    def gradient(x, z, beta, covariate):
        u, scale = space.unconstrain(beta), space.frame.scale
        return jax.grad(lambda v: log_ratio(x, z, space.constrain(u + scale * v), covariate))(
            jnp.zeros_like(u)
        )

    return jax.vmap(gradient)(x, z, beta, covariate)


def scores(key: jax.Array, model: HierarchicalImplicitModel, log_ratio: Callable, beta: Any, covariate: Any):
    """Gradients at draws of the model: of antithetic pairs, as two arrays, where the model has generate."""
    draws = antithetic(key, model, beta, covariate)
    return [gradients(model.space, log_ratio, x, z, beta, covariate) for z, x in draws]


@partial(jax.jit, static_argnames="model")
def _score(key, log_ratio, model, beta, covariate):
    rows = sum(parts := scores(key, model, log_ratio, beta, covariate)) / len(parts)
    size, d = rows.shape
    unit = jnp.sqrt(sum((part**2).mean(0) for part in parts) / len(parts))
    rows = rows / jnp.where(unit > 0, unit, 1.0)
    # Antithetic pairs may cancel but for rounding, which is part of the error, and alike in all rows.
    rounding = 20 * jnp.finfo(rows.dtype).eps
    mean, covariance = rows.mean(0), jnp.atleast_2d(jnp.cov(rows, rowvar=False)) / size
    covariance = covariance + rounding**2 * jnp.eye(d)
    error = jnp.sqrt(jnp.diag(covariance))
    chi_square = mean @ jnp.linalg.solve(covariance, mean)
    unit = unit / model.space.frame.scale  # of the prior's scale until here, whose inverse has no square
    result = ScoreTest(unit * mean, unit * error, mean / error, chi_square, chi2.sf(chi_square, d))
    return result, jnp.isfinite(rows).mean()
