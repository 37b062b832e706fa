"""A finished run at a glance: is q consistent with r, and r with the model?"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

from himlib._problem import check_problem
from himlib.base import Algorithm, Data, State
from himlib.diagnostics.log_ratio import gradients, scores
from himlib.diagnostics.sbc import ranks, region_ranks
from himlib.diagnostics.uniformity import rank_test
from himlib.losses import softmax_losses
from himlib.models import HierarchicalImplicitModel, check_model, prior_terms
from himlib.networks import MLP, pure
from himlib.random import check_key, draw_rows, normal
from himlib.training import Outcome, Result, cosine_adam, descend

__all__ = ["Verdict", "verdict"]

FEW = 20  # data, below which slopes and curvature at them say more than at draws of the model
CHOICES = 64  # values of beta among which a classifier finds the one that made an x


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
        which q is too wide for its r. It is 1 for the best normal q, be it of full rank or mean-field. With
        fewer than 20 data the expectation in H is over the data, which may be unlike the model's draws.
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
        (:func:`himlib.diagnostics.rank_test`), times the number of tests; NaN without locals.
    unlearned, unlearned_error
        Nats by which another classifier, trained on fresh draws of the proposal, is better than r at
        finding the :math:`\beta` that made an x among 64, and their standard error; NaN with locals.
    other_mode
        How many sds of q away r's posterior has another maximum of like height, with a valley between; 0
        without one. It is looked for from sixteen draws of the first proposal, with the first round's r.
    squeezed
        Range of the data over the sd of simulated x at the proposal, the smallest of all entries of x.
    marginal_width
        sd of q over the sd by :math:`J^{-1}`, the smallest of all coordinates that others tell about: near
        :math:`\sqrt{1 - \rho^2}` for a mean-field q of two with correlation :math:`\rho`; 1 without such.
    findings
        What of this calls for a remedy, in words; empty if nothing does.
    """

    outcome: Outcome
    width: float
    information_ratio: float
    shift: np.ndarray
    shift_error: np.ndarray
    contrast: float
    local_p_value: float
    unlearned: float
    unlearned_error: float
    other_mode: float
    squeezed: float
    marginal_width: float
    findings: tuple[str, ...]


def verdict(
    key: jax.Array,
    model: HierarchicalImplicitModel,
    algorithm: Algorithm,
    result: Result,
    data: Data,
    draws: int = 10_000,
) -> Verdict | tuple[Verdict, ...]:
    r"""Look at a finished run from all sides that need no exact answer.

    It holds q against r, r and q(z | x, beta) against the model, and r against a second classifier, all in
    their own terms. Of a q(beta) on one of two modes it knows if r does. Where the range of x ends at a value
    that beta sets, as of a uniform x from 0 to beta, Bartlett's identities do not hold, and with them what
    is said here of widths. What r never sees of x, and what no normal can be, stay unseen: see
    :func:`himlib.diagnostics.replicate` for the whole method.

    Parameters
    ----------
    key
        A typed key, ``jax.random.key(seed)``.
    model, algorithm, data
        What was fitted.
    result
        What :func:`~himlib.training.fit` returned, or :func:`~himlib.training.fit_seeds`.
    draws
        Number of pairs of a :math:`\beta \sim q` and a datum.

    Returns
    -------
    Verdict or tuple of Verdict
        What was measured, and in ``findings`` what is wrong, empty if nothing is; a tuple of them, one for
        each seed, of the result of :func:`~himlib.training.fit_seeds`.

    Raises
    ------
    TypeError
        If the key is old-style, or the model or the result is none.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, numpyro.distributions as dist
    >>> from himlib import MeanFieldNormal, cosine_adam, fit, lfvi, ratio_network
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
        raise TypeError(f"result: expected what himlib.fit returns, got {type(result).__name__}.")
    look = partial(_verdict, check_key(key), model, algorithm, data, draws)
    if not isinstance(result.outcome, tuple):
        return look(result.outcome, result.state, (*result.earlier, result.state)[0])
    states = [jax.tree.map(lambda leaf, i=i: leaf[i], result.state) for i in range(len(result.outcome))]
    return tuple(look(outcome, state, state) for outcome, state in zip(result.outcome, states, strict=True))


def _verdict(key, model, algorithm, data, draws, outcome: Outcome, state: State, first: State) -> Verdict:
    """The verdict on one run; first is the state in which its first round ended."""
    k_look, k_local, k_classifier, k_modes = jax.random.split(key, 4)
    check_problem(model, data, state.frame, least=0.99)  # what is rare shows in the findings
    _, prior = prior_terms(algorithm.moments(state)[0], model.space.frame.scale, model=model)
    measures = _look(
        k_look, algorithm, model, state, data, jnp.asarray(prior, model.space.frame.scale.dtype), draws
    )
    width, information, shift, error, contrast, marginal = map(np.asarray, measures)
    local = _local_p_value(k_local, model, algorithm, state, data)
    unlearned, unlearned_error, squeezed = _second_classifier(k_classifier, model, algorithm, state, data)
    has_width = np.any(algorithm.moments(state)[1])  # a point mass has none
    other = float(_other_mode(k_modes, algorithm, model, first, state, data)) if has_width else 0.0
    finite, alone = np.isfinite(shift).all(), marginal.argmin()
    worst, unsure = np.abs(shift).argmax(), error.argmax()
    uncentered = not algorithm.centered  # a small bias that centering takes away moves nothing
    train = "Center the score, train" if uncentered else "Train"
    biased = (np.abs(shift) > (0.3 if uncentered else 2.0)) & (np.abs(shift) > 4 * error)
    enough = len(jax.tree.leaves(data)[0]) >= FEW  # the slopes at fewer data scatter too much
    findings = {
        f"{outcome.name}: {outcome.value}": outcome is not Outcome.AT_REST,
        "NOT_FINITE: gradients of r are NaN or infinite. Bound the features.": not finite,
        f"UNDERTRAINED: r finds the beta that made an x among {CHOICES} worse than another classifier, by "
        f"{unlearned:.2f} nats. Take more steps of r, another network, or features that see more of x and "
        "beta.": unlearned > max(0.1, 4 * unlearned_error),
        f"MODES: r's posterior has another maximum {other:.0f} sds of q away, with a valley between. Start q "
        "there too, by fit(frame=), or sample r's posterior; a normal q holds one mode.": other > 0,
        f"WIDE: q is about {width:.3g} times as wide as its r supports; it has not finished narrowing. "
        "Take more steps, or larger ones.": width > 1.25,
        f"NARROW: q is about {width:.3g} times as wide as its r supports. Propose beta more widely, take "
        "more ratio steps, or lower the learning rate of q.": has_width and 0 < width < 0.8,
        f"CORRELATED: by r, coordinates go together in the posterior, which q cannot follow: in coordinate "
        f"{alone} it is {marginal[alone]:.2g} times as wide. Take FullRankNormal, or coordinates that do "
        "not go together.": has_width and marginal[alone] < 0.6 * min(1.0, float(width)),
        f"INCONSISTENT: the squared slopes of r hold {information:.3g} times the information of its "
        "curvature; those of a log ratio hold as much. Show r other features, or train it for longer.": finite
        and has_width
        and not 0.64 < information < 1.56,
        f"BIASED: the gradient of r is not zero under the model, which moves coordinate {worst} by about "
        f"{shift[worst]:.2f} posterior sds. {train} r for longer, or let q wait for "
        "it.": biased.any(),
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
    if found and squeezed < 0.02:  # no fault by itself, but then the likely cause of what was found
        found = (
            f"SQUEEZED: some entry of all data lies within {squeezed:.1g} sds of r's units for it. Show r "
            "logarithms, or another scale on which the data differ.",
            *found,
        )
    return Verdict(
        outcome, float(width), float(information), shift, error, float(contrast), local, unlearned,
        unlearned_error, other, squeezed, float(marginal[alone]), found,
    )  # fmt: skip


@partial(jax.jit, static_argnames=("algorithm", "model", "draws"))
def _look(key, algorithm, model, state, data, prior, draws):
    k_beta, k_rows, k_z, k_model, k_curve = jax.random.split(key, 5)
    size, space = jax.tree.leaves(data)[0].shape[0], model.space
    log_ratio = Partial(algorithm.log_ratio, state)
    beta = algorithm.sample(k_beta, state, draws)
    rows = draw_rows(k_rows, data, draws)

    def sample_z(key, beta, row):
        one = jax.tree.map(lambda leaf: leaf[None], row)
        return jax.tree.map(lambda leaf: leaf[0], algorithm.sample_local(key, state, beta, one))

    z = jax.vmap(sample_z)(jax.random.split(k_z, draws), beta, rows)
    seen = gradients(space, log_ratio, rows.x, z, beta, rows.covariate)
    made = scores(k_model, model, log_ratio, beta, rows.covariate)

    center, scale = space.frame  # v is u in units of the prior, whose squares are numbers
    v = (jax.vmap(space.unconstrain)(beta) - center) / scale
    known = size * sum(rows.T @ rows for rows in made) / len(made) / draws
    precision = known + prior
    covariance = jnp.linalg.inv(precision)
    sd = jnp.sqrt(jnp.diag(covariance))
    known_of_others = jnp.diag(precision) * sd**2 > 2  # half of what is known is known through the others
    marginal = jnp.where(known_of_others, v.std(0) / sd, 1.0)
    moved = size * (sum(made) / len(made) @ covariance) / sd
    contrast = jnp.trace(size * seen.T @ seen / draws @ covariance) / jnp.trace(known @ covariance)

    # tr(Sigma H) and tr(Sigma J), by the slope and the second derivative along another draw of q.
    along = jnp.roll(v, 1, 0) - v.mean(0)

    def second(z, x, v, direction, covariate):
        def r(t):
            return log_ratio(x, z, space.constrain(center + scale * (v + t * direction)), covariate)

        return jax.grad(jax.grad(r))(0.0)

    def curved(z, x):
        return -jax.vmap(second)(z, x, v, along, rows.covariate).mean() * size

    at_model = curved(*model.simulate_batch(k_curve, beta, rows.covariate))
    few = size < FEW and not algorithm.centered and not jax.tree.leaves(z)
    at_data = curved(z, rows.x) if few else at_model
    known_along = sum(((rows * along).sum(1) ** 2).mean() for rows in made) / len(made) * size
    prior_along = jnp.einsum("si,ij,sj->s", along, prior, along).mean()
    width = jnp.sqrt(jnp.maximum(at_data + prior_along, 0.0) / len(sd))
    information = (known_along + prior_along) / (at_model + prior_along)
    return width, information, moved.mean(0), moved.std(0) / draws**0.5, contrast, marginal


class _Separable(nnx.Module):
    """The product of a network of x and one of beta: a batch makes all pairs in one matrix product."""

    def __init__(self, rngs, x, u):
        self.of_x, self.of_u = (
            MLP((part.shape[-1], 64, 64, 33), rngs=rngs, last_scale=1.0) for part in (x, u)
        )

    def __call__(self, x, u):
        return self.of_x(x).at[-1].set(1.0), self.of_u(u)


CLASSIFIER = pure(_Separable)


@partial(jax.jit, static_argnames=("steps", "batch"))
def _train_classifier(key, x, u, held_x, held_u, steps=800, batch=256):
    """Train a separable classifier by the softmax over a batch (Durkan et al. 2020); its held-out losses."""
    k_init, k_steps = jax.random.split(key)
    params = CLASSIFIER.init(k_init, x[:2], u[:2])
    optimizer = cosine_adam(5e-3, steps)

    def losses(params, x, u):
        of_x, of_u = jax.vmap(CLASSIFIER.apply, (None, 0, 0))(params, x, u)
        return softmax_losses(of_x @ of_u.T)

    def objective(params, key):
        return losses(params, *draw_rows(key, (x, u), batch)).mean()

    start = params, optimizer.init(params)
    (params, _), _ = descend(objective, optimizer, start, jax.random.split(k_steps, steps))
    return jax.vmap(losses, (None, 0, 0))(params, held_x, held_u)


@partial(jax.jit, static_argnames=("algorithm", "model", "calls", "groups"))
def _pairs(key, algorithm, model, state, data, calls, groups):
    """Joint draws of the run's own proposal: flat x, covariates and u, and r's losses on some of them."""

    def joint(key):
        x, z, beta, covariate, _ = algorithm.contrast(key, state, data)
        return jax.tree.map(lambda leaf: leaf[: len(leaf) // 2], (x, z, beta, covariate))

    made = jax.lax.map(joint, jax.random.split(key, calls))
    x, z, beta, covariate = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), made)
    held = jax.tree.map(
        lambda leaf: leaf[: groups * CHOICES].reshape(groups, CHOICES, *leaf.shape[1:]), (x, beta, covariate)
    )

    def losses(group):
        x, beta, covariate = group
        every = jax.vmap(jax.vmap(algorithm.log_ratio, (None, None, None, 0, None)), (None, 0, None, None, 0))
        return softmax_losses(every(state, x, None, beta, covariate))

    def flat(tree):
        return jax.vmap(lambda row: ravel_pytree(jax.tree.map(jnp.float32, row))[0])(tree)

    location, scale = algorithm.proposal(state)
    u = (jax.vmap(model.space.unconstrain)(beta) - location) / scale
    return flat(x), flat((x, covariate)), u, jax.lax.map(losses, held) if z is None else None


def _second_classifier(key, model, algorithm, state, data, pairs=10_000, groups=20):
    """Nats by which a second classifier beats r on held-out draws, their error, and how squeezed data are."""
    k_pairs, k_classifier = jax.random.split(key)
    if algorithm.contrast is None:
        return (float("nan"),) * 3
    rows = jax.eval_shape(algorithm.contrast, key, state, data)[2]
    calls = -(-2 * (pairs + groups * CHOICES) // jax.tree.leaves(rows)[0].shape[0])
    x, seen, u, own = jax.device_get(_pairs(k_pairs, algorithm, model, state, data, calls, groups))
    observed = np.concatenate(
        [np.asarray(leaf, np.float64).reshape(len(leaf), -1) for leaf in jax.tree.leaves(data.x)], axis=1
    )
    spread = np.std(x, axis=0, dtype=np.float64)
    widths = np.ptp(observed, axis=0)[spread > 0] / spread[spread > 0] if len(observed) > 4 else np.ones(1)
    squeezed = float(widths[widths > 0].min(initial=np.inf))
    if own is None or not (np.isfinite(seen).all() and np.isfinite(own).all()):
        return float("nan"), float("nan"), squeezed
    low, middle, high = np.quantile(seen, (0.16, 0.5, 0.84), axis=0)
    unit = np.where(high > low, high - low, np.where(np.ptp(seen, axis=0) > 0, np.ptp(seen, axis=0), 1.0))
    seen = np.arcsinh((seen - middle) / unit).astype(np.float32)  # long tails shortened
    held = groups * CHOICES
    shape = groups, CHOICES, -1
    losses = _train_classifier(
        k_classifier,
        seen[held:][:pairs],
        u[held:][:pairs],
        seen[:held].reshape(shape),
        u[:held].reshape(shape),
    )
    gap = np.asarray(own - losses, np.float64).ravel()
    return float(gap.mean()), float(gap.std() / held**0.5), squeezed


@partial(jax.jit, static_argnames=("algorithm", "model", "starts", "steps", "most"))
def _other_mode(key, algorithm, model, first, state, data, starts=16, steps=200, most=100):
    """How far away another maximum of the posterior of r is, in sds of q; 0 without one.

    The first round's r has seen all of the prior. Of many data some do: their posterior is wider, and so
    are then the sds.
    """
    k_rows, k_start, k_z = jax.random.split(key, 3)
    size, space = jax.tree.leaves(data)[0].shape[0], model.space
    if size > most:
        data = draw_rows(k_rows, data, most)
    location, scale = algorithm.proposal(first)
    mean, sd = algorithm.moments(state)
    sd = sd * max(1.0, size / most) ** 0.5 / scale

    def objective(v):
        u = location + scale * v
        beta = space.constrain(u)
        z = algorithm.sample_local(k_z, first, beta, data)
        r = jax.vmap(algorithm.log_ratio, (None, 0, 0, None, 0))(first, data.x, z, beta, data.covariate)
        return r.sum() + model.log_prior(beta) + space.log_jacobian(u)

    v = jnp.concatenate([((mean - location) / scale)[None], normal(k_start, (starts, len(mean)))])
    optimizer = cosine_adam(0.1, steps)

    def climb(carry, _):
        v, state = carry
        slope = jax.vmap(jax.grad(objective))(v)
        change, state = optimizer.update(-slope, state)
        return (v + change, state), None

    (v, _), _ = jax.lax.scan(climb, (v, optimizer.init(v)), length=steps)
    home, away = v[0], v[1:]
    heights = jax.vmap(objective)(v)
    shares = jnp.linspace(0.1, 0.9, 9)
    between = jax.vmap(lambda end: jax.vmap(lambda share: objective(home + share * (end - home)))(shares))(
        away
    )
    distance = jnp.max(jnp.abs(away - home) / sd, axis=1)
    valley = between.min(1) < jnp.minimum(heights[0], heights[1:]) - 1
    inside = jnp.all(jnp.abs(away) < 3, axis=1)
    other = (heights[1:] > heights[0] - 3) & (distance > 4) & valley & inside
    return jnp.where(other, distance, 0.0).max()


def _local_p_value(key, model, algorithm, state, data, size=300, draws=99):
    """Test whether the z that made an x could be one of q's for it: each coordinate, and all together."""
    *keys, k_ties, k_region = jax.random.split(key, 6)
    truth, guesses = map(np.asarray, _locals(keys, algorithm, model, state, data, size, draws))
    if not truth.shape[1]:
        return float("nan")
    if not np.isfinite(guesses).all():
        return 0.0
    found = ranks(k_ties, truth, guesses)
    if found.shape[1] > 1:
        found = np.hstack([found, region_ranks(k_region, truth, guesses)])
    return min(1.0, float(rank_test(found, draws).p_value.min()) * found.shape[1])


@partial(jax.jit, static_argnames=("algorithm", "model", "size", "draws"))
def _locals(keys, algorithm, model, state, data, size, draws):
    k_beta, k_rows, k_model, k_z = keys
    beta = algorithm.sample(k_beta, state, size)
    rows = draw_rows(k_rows, data, size)
    z, x = model.simulate_batch(k_model, beta, rows.covariate)

    def guess(key, beta, row):
        many = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], draws, 0), row)
        return algorithm.sample_local(key, state, beta, many)

    guesses = jax.vmap(guess)(jax.random.split(k_z, size), beta, rows._replace(x=x))
    flat = [leaf.reshape(size, draws, -1) for leaf in jax.tree.leaves(guesses)]
    made = [leaf.reshape(size, -1) for leaf in jax.tree.leaves(z)] if flat else []
    empty = jnp.zeros((size, draws, 0))
    return jnp.concatenate([empty[:, 0], *made], -1), jnp.concatenate([empty, *flat], -1)
