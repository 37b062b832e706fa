"""A finished run at a glance: is q consistent with r, and r with the model?"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from himlib.algorithm import Algorithm, Data
from himlib.calibration import ranks, region_ranks
from himlib.checks import check_model
from himlib.diagnostics import coordinates, gradients, scores
from himlib.models import HierarchicalImplicitModel
from himlib.random import check_key
from himlib.training import Outcome, Result
from himlib.uniformity import rank_test

__all__ = ["Verdict", "verdict"]


class Verdict(NamedTuple):
    r"""What a finished run looks like without knowing the truth.

    A normal q at rest in r has about the covariance :math:`H^{-1}`, and where r is a log ratio, Bartlett's
    identities hold at draws of the model: the slopes of r have mean zero, and J = H for

    .. math:: H &= -N\, E_{q(\beta)\, p(x, z \mid \beta)}[\nabla^2 r] - \nabla^2 \log p(\beta), \\
              J &= N\, E_{q(\beta)\, p(x, z \mid \beta)}[\nabla r\, \nabla r^\top] - \nabla^2 \log p(\beta).

    Attributes
    ----------
    outcome
        How the run ended, a :class:`~himlib.training.Outcome`.
    width
        :math:`\sqrt{\operatorname{tr}(\Sigma H) / d}` for q's covariance :math:`\Sigma`: about the factor by
        which q is too wide for its r. It is 1 for the best normal q, be it of full rank or mean-field.
    information_ratio
        :math:`\operatorname{tr}(\Sigma J) / \operatorname{tr}(\Sigma H)`: 1 where r is a log ratio; NaN where
        q is a point mass.
    shift, shift_error
        The posterior sds by which the bias of r moves the mean of each unconstrained coordinate, and their
        standard errors, (d,): the test of :func:`himlib.diagnostics.score_test` in the units that matter.
    contrast
        Mean square of r's gradients at the data over that at the model's draws, in the metric of J: about 1
        where the data look like the model's, near 0 where r is flat on the data alone.
    local_p_value
        Of the ranks of simulated :math:`z` among draws of :math:`q(z \mid x, \beta)` at their x and beta
        (:func:`himlib.uniformity.rank_test`), times the number of tests; NaN without locals.
    findings
        What of this calls for a remedy, in words; empty if nothing does.

    Examples
    --------
    >>> Verdict._fields
    ('outcome', 'width', 'information_ratio', 'shift', 'shift_error', 'contrast', 'local_p_value', 'findings')
    """

    outcome: Outcome
    width: float
    information_ratio: float
    shift: np.ndarray
    shift_error: np.ndarray
    contrast: float
    local_p_value: float
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

    It holds q against r, and r and q(z | x, beta) against the model, all in their own terms. A q(beta) of the
    wrong shape, as on one of two modes, or an r that is wrong alike everywhere, such as a saturated one
    beside a q that has kept its prior's width (which the outcome tells), stays unseen: see
    :func:`himlib.calibration.replicate` for the whole method.

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
    k_look, k_local = jax.random.split(check_key(key))
    measures = _look(k_look, algorithm, model.simulate_batch, result.state, data, draws)
    width, information, shift, error, contrast = map(np.asarray, measures)
    local = _local_p_value(k_local, model, algorithm, result.state, data)
    has_width = np.any(algorithm.moments(result.state)[1])  # a point mass has none
    finite = np.isfinite(shift).all()
    worst, unsure = np.abs(shift).argmax(), error.argmax()
    biased = (np.abs(shift) > 0.3) & (np.abs(shift) > 4 * error)
    uncentered = not algorithm.centered  # a bias that centering takes away moves nothing
    enough = len(jax.tree.leaves(data)[0]) >= 20  # the slopes at fewer data scatter too much
    findings = {
        f"{result.outcome.name}: {result.outcome.value}": result.outcome is not Outcome.CONVERGED,
        "NOT FINITE: gradients of r are NaN or infinite. Bound the features.": not finite,
        f"WIDE: q is about {width:.3g} times as wide as its r supports; it has not finished narrowing. "
        "Take more steps, or larger ones.": width > 1.25,
        f"NARROW: q is about {width:.3g} times as wide as its r supports. Propose beta more widely, take "
        "more ratio steps, or lower the learning rate of q.": has_width and 0 < width < 0.8,
        f"INCONSISTENT: the squared slopes of r hold {information:.3g} times the information of its "
        "curvature; those of a log ratio hold as much. Show r other features, or train it for longer.": finite
        and has_width
        and not 0.64 < information < 1.56,
        f"BIASED: the gradient of r is not zero under the model, which moves coordinate {worst} by about "
        f"{shift[worst]:.2f} posterior sds. Center the score, or train r for longer.": uncentered
        and biased.any(),
        f"UNSURE: with so many data, a bias of r that moves coordinate {unsure} by {4 * error[unsure]:.1f} "
        "posterior sds would not be noticed. Ask for more draws.": uncentered and np.any(4 * error > 1),
        f"FLAT: the squared slopes of r are {contrast:.2g} times as large at the data as at draws of the "
        "model. The data lie where the model does not go, or x has long tails: show r bounded features of "
        "it, such as arcsinh or log1p.": finite and enough and contrast < 1 / 3,
        f"STEEP: the squared slopes of r are {contrast:.2g} times as large at the data as at draws of the "
        "model. The data lie where the model does not go, or r has memorized them.": enough and contrast > 3,
        f"LOCALS: simulated z do not look like draws of q(z | x, beta), p = {local:.1g}. Lower the learning "
        "rate of q's z, take more ratio steps, or another family.": local < 1e-3,
    }
    found = tuple(text for text, holds in findings.items() if holds)
    return Verdict(
        result.outcome, float(width), float(information), shift, error, float(contrast), local, found
    )


@partial(jax.jit, static_argnames=("algorithm", "simulate", "draws"))
def _look(key, algorithm, simulate, state, data, draws):
    k_beta, k_rows, k_z, k_model, k_curve = jax.random.split(key, 5)
    model, size = simulate.__self__, jax.tree.leaves(data)[0].shape[0]
    log_ratio = Partial(algorithm.log_ratio, state)
    beta = algorithm.sample(k_beta, state, draws)
    rows = jax.tree.map(lambda leaf: leaf[_rows(k_rows, draws, leaf)], data)

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
    moved = size * (sum(made) / len(made) @ covariance) / sd
    contrast = jnp.trace(size * seen.T @ seen / draws @ covariance) / jnp.trace(known @ covariance)

    # tr(Sigma H) and tr(Sigma J), by the slope and the second derivative along another draw of q.
    along = jnp.roll(u, 1, 0) - u.mean(0)
    simulated = model.simulate_batch(k_curve, beta, rows.covariate)

    def second(z, x, u, direction, covariate):
        def slope(u):
            return jax.jvp(lambda u: log_ratio(x, z, space.constrain(u), covariate), (u,), (direction,))[1]

        return jax.jvp(slope, (u,), (direction,))[1]

    curved = -jax.vmap(second)(*simulated, u, along, rows.covariate).mean() * size
    known_along = sum(((rows * along).sum(1) ** 2).mean() for rows in made) / len(made) * size
    prior_along = -jnp.einsum("si,ij,sj->s", along, prior, along).mean()
    total = curved + prior_along
    width = jnp.sqrt(jnp.maximum(total, 0.0) / len(sd))
    return width, (known_along + prior_along) / total, moved.mean(0), moved.std(0) / draws**0.5, contrast


def _local_p_value(key, model, algorithm, state, data, size=300, draws=99):
    """Test whether the z that made an x could be one of q's for it: each coordinate, and all together."""
    *keys, k_ties, k_region = jax.random.split(key, 6)
    truth, guesses = map(np.asarray, _locals(keys, algorithm, model.simulate_batch, state, data, size, draws))
    if not truth.shape[1]:
        return float("nan")
    if not np.isfinite(guesses).all():
        return 0.0
    found = ranks(k_ties, truth, guesses)
    if found.shape[1] > 1:
        found = np.hstack([found, region_ranks(k_region, truth, guesses)])
    return min(1.0, float(rank_test(found, draws).p_value.min()) * found.shape[1])


@partial(jax.jit, static_argnames=("algorithm", "simulate", "size", "draws"))
def _locals(keys, algorithm, simulate, state, data, size, draws):
    k_beta, k_rows, k_model, k_z = keys
    beta = algorithm.sample(k_beta, state, size)
    rows = jax.tree.map(lambda leaf: leaf[_rows(k_rows, size, leaf)], data)
    z, x = simulate(k_model, beta, rows.covariate)

    def guess(key, beta, row):
        many = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], draws, 0), row)
        return algorithm.sample_local(key, state, beta, many)

    guesses = jax.vmap(guess)(jax.random.split(k_z, size), beta, rows._replace(x=x))
    flat = [leaf.reshape(size, draws, -1) for leaf in jax.tree.leaves(guesses)]
    made = [leaf.reshape(size, -1) for leaf in jax.tree.leaves(z)] if flat else []
    empty = jnp.zeros((size, draws, 0))
    return jnp.concatenate([empty[:, 0], *made], -1), jnp.concatenate([empty, *flat], -1)


def _rows(key, draws, leaf):
    return jax.random.bits(key, (draws,)) % jnp.uint32(leaf.shape[0])
