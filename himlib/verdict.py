"""A finished run at a glance: is q consistent with r, and r with the model?"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from himlib.algorithm import Algorithm, Data
from himlib.checks import check_model
from himlib.diagnostics import coordinates, gradients, scores
from himlib.models import HierarchicalImplicitModel
from himlib.random import check_key
from himlib.training import Outcome, Result

__all__ = ["Verdict", "verdict"]


class Verdict(NamedTuple):
    r"""What a finished run looks like without knowing the truth.

    The gradients of r at draws of the model tell how much a datum says about :math:`\beta`. With

    .. math:: H = N\, E_{q(\beta)\, p(x, z \mid \beta)}[\nabla r\, \nabla r^\top] - \nabla^2 \log p(\beta),

    the covariance of q should be about :math:`H^{-1}`.

    Attributes
    ----------
    outcome
        How the run ended, a :class:`~himlib.training.Outcome`.
    width
        :math:`\sqrt{\operatorname{tr}(\Sigma H) / d}` for q's covariance :math:`\Sigma`: about the factor by
        which q is too wide. It is 1 for the best normal q, be it of full rank or mean-field.
    shift, shift_error
        The posterior sds by which the bias of r moves the mean of each unconstrained coordinate, and their
        standard errors, (d,): the test of :func:`himlib.diagnostics.score_test` in the units that matter.
    contrast
        Mean square of r's gradients at the data over that at the model's draws, in the metric of H: about 1
        where the data look like the model's, near 0 where r is flat on the data alone.
    findings
        What of this calls for a remedy, in words; empty if nothing does.

    Examples
    --------
    >>> Verdict._fields
    ('outcome', 'width', 'shift', 'shift_error', 'contrast', 'findings')
    """

    outcome: Outcome
    width: float
    shift: np.ndarray
    shift_error: np.ndarray
    contrast: float
    findings: tuple[str, ...]


def verdict(
    key: jax.Array,
    model: HierarchicalImplicitModel,
    algorithm: Algorithm,
    result: Result,
    data: Data,
    draws: int = 10_000,
) -> Verdict:
    r"""Look at a finished run from all sides that need no exact answer.

    It holds q against r, and r against the model, both in their own terms. A q of the wrong shape, or an r
    that is wrong alike everywhere, such as a saturated one beside a q that has kept its prior's width
    (which the outcome tells), stays unseen: see :func:`himlib.calibration.replicate` for the whole method.

    Parameters
    ----------
    key
        A typed key, ``jax.random.key(seed)``.
    model, algorithm, data
        What was fitted.
    result
        What :func:`~himlib.training.fit` returned.
    draws
        Number of pairs of a :math:`\beta \sim q` and a datum.

    Raises
    ------
    TypeError
        If the key is old-style, or the model or the result is none.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, numpyro.distributions as dist
    >>> from himlib.families import MeanFieldNormal
    >>> from himlib.lfvi import lfvi
    >>> from himlib.networks import ratio_network
    >>> from himlib.training import cosine_adam, fit
    >>> model = HierarchicalImplicitModel(dist.Normal(0, 1), noise_shape=(),
    ...     generate=lambda noise, beta, covariate: (None, beta + noise))
    >>> algorithm = lfvi(model, MeanFieldNormal(), ratio_network(hidden=(8,)),
    ...     ratio_optimizer=cosine_adam(1e-2, 500), posterior_optimizer=cosine_adam(2e-2, 500))
    >>> data = Data(jnp.linspace(-1, 2, 20))
    >>> result = fit(jax.random.key(0), algorithm, data, 500, progress=False)
    >>> verdict(jax.random.key(1), model, algorithm, result, data).findings
    ()
    """
    check_model(model)
    if not isinstance(result, Result):
        raise TypeError(f"result: expected what himlib.training.fit returns, got {type(result).__name__}.")
    measures = _look(check_key(key), algorithm, model.simulate_batch, result.state, data, draws)
    width, shift, error, contrast = map(np.asarray, measures)
    has_width = np.any(algorithm.moments(result.state)[1])  # a point mass has none
    worst = np.abs(shift).argmax()
    biased = (np.abs(shift) > 0.3) & (np.abs(shift) > 4 * error)
    unlike = len(jax.tree.leaves(data)[0]) >= 20 and not 1 / 3 < contrast < 3  # fewer data scatter too much
    findings = {
        f"{result.outcome.name}: {result.outcome.value}": result.outcome is not Outcome.CONVERGED,
        "NOT FINITE: gradients of r are NaN or infinite. Bound the features.": not np.isfinite(shift).all(),
        f"WIDE: q is about {width:.2f} times as wide as the slopes of r support; it has not finished "
        "narrowing. Take more steps, or larger ones.": width > 1.25,
        f"NARROW: q is about {width:.2f} times as wide as the slopes of r support. Propose beta more widely, "
        "take more ratio steps, or lower the learning rate of q.": width < 0.8 and has_width,
        f"BIASED: the gradient of r is not zero under the model, which moves coordinate {worst} by about "
        f"{shift[worst]:.2f} posterior sds. Center the score, or train r for longer.": biased.any(),
        f"UNLIKE: the squared slopes of r are {contrast:.2g} times as large at the data as at draws of the "
        "model. The data lie where the model does not go, or r has memorized them.": unlike,
    }
    found = tuple(text for text, holds in findings.items() if holds)
    return Verdict(result.outcome, float(width), shift, error, float(contrast), found)


@partial(jax.jit, static_argnames=("algorithm", "simulate", "draws"))
def _look(key, algorithm, simulate, state, data, draws):
    k_beta, k_rows, k_z, k_model = jax.random.split(key, 4)
    model, size = simulate.__self__, jax.tree.leaves(data)[0].shape[0]
    log_ratio = Partial(algorithm.log_ratio, state)
    beta = algorithm.sample(k_beta, state, draws)
    rows = jax.tree.map(lambda leaf: leaf[jax.random.bits(k_rows, (draws,)) % jnp.uint32(size)], data)

    def sample_z(key, beta, row):
        one = jax.tree.map(lambda leaf: leaf[None], row)
        return jax.tree.map(lambda leaf: leaf[0], algorithm.sample_local(key, state, beta, one))

    z = jax.vmap(sample_z)(jax.random.split(k_z, draws), beta, rows)
    seen = gradients(model.prior, log_ratio, rows.x, z, beta, rows.covariate)
    made = scores(k_model, model, log_ratio, beta, rows.covariate)

    space, unconstrain = coordinates(model.prior)
    u = jax.vmap(unconstrain)(beta)
    prior = jax.hessian(lambda u: model.log_prior(space.constrain(u)) + space.log_jacobian(u))(u.mean(0))
    known = size * sum(rows.T @ rows for rows in made) / len(made) / draws
    precision = known - prior
    covariance = jnp.linalg.inv(precision)
    sd = jnp.sqrt(jnp.diag(covariance))
    width = jnp.sqrt(jnp.trace(jnp.atleast_2d(jnp.cov(u, rowvar=False)) @ precision) / len(sd))
    moved = size * (sum(made) / len(made) @ covariance) / sd
    contrast = jnp.trace(size * seen.T @ seen / draws @ covariance) / jnp.trace(known @ covariance)
    return width, moved.mean(0), moved.std(0) / draws**0.5, contrast
