r"""Likelihood-free variational inference (Tran, Ranganath and Blei 2017, section 3).

The objective is the evidence lower bound with a learned log ratio r in it (equation 7),

.. math::

    L(\lambda, \phi) = E_{q(\beta)}\Big[\log p(\beta) - \log q(\beta)
        + \sum_{n=1}^N E_{q(z_n | x_n, \beta)}\, r(x_n, z_n, \beta)\Big],

where r is trained to tell joint draws (x, z) of the model from x of a reference with z of q.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from himlib._checks import check_ratio
from himlib._options import check_family, check_optimizers, check_options, check_sizes
from himlib._problem import (
    check_draws,
    check_local,
    check_measured,
    check_problem,
    check_seen,
    measure,
    noted,
)
from himlib.base import Algorithm, Info, State, check_state, norm
from himlib.families import Family, LocalFamily
from himlib.losses import RatioLoss, get_loss
from himlib.models import Frame, HierarchicalImplicitModel, antithetic, check_frame, propose
from himlib.networks import Network
from himlib.random import check_key, draw_rows, row_numbers

__all__ = ["ALGORITHM_1", "lfvi"]

#: The settings of :func:`lfvi` that make it the paper's Algorithm 1 (with a mean-field q and an r
#: that sees all of x): the empirical distribution as reference, beta proposed from q itself.
ALGORITHM_1 = {
    "reference": "empirical",
    "proposal": "posterior",
    "width": 1.0,
    "ratio_steps": 1,
    "posterior_samples": 1,
    "center_score": False,
}

OVER_ROWS = (None, 0, 0, 0, 0, None)  # of params, x, z, beta, covariate and center


def spread_out(tree: Any, sharding: jax.sharding.Sharding | None) -> Any:
    """Lay a batch out over devices."""
    return tree if sharding is None else jax.lax.with_sharding_constraint(tree, sharding)


def contrast(
    keys, model, frame, data, size, *, reference="predictive", jitter=None, sharding=None, sample_z=None
) -> tuple:
    """Draw what r compares: joint draws of the model, and reference x with z of q, at the same beta.

    The rows of each come one after the other, as many as ``size``. Without a ``sample_z`` r sees no z.
    """
    k_index, k_beta, k_model, k_reference, k_z, k_jitter = keys
    half = size // 2
    index = row_numbers(k_index, (size,), jax.tree.leaves(data)[0].shape[0])
    if reference == "predictive":  # two draws at each covariate, each the other's reference
        index = jnp.tile(index[:half], 2)
    covariate = jax.tree.map(lambda leaf: leaf[index], data.covariate)
    if jitter is not None:
        covariate = jax.vmap(jitter)(jnp.tile(jax.random.split(k_jitter, half), 2), covariate)
    beta = jax.vmap(model.space.constrain)(propose(k_beta, frame, size))
    beta, covariate = spread_out((beta, covariate), sharding)
    z, x = model.simulate_batch(k_model, beta, covariate)
    if reference == "predictive":
        other = jax.tree.map(lambda leaf: jnp.roll(leaf, half, axis=0), x)
    elif reference == "empirical":
        other = jax.tree.map(lambda leaf: leaf[index], data.x)
    else:
        other = jax.vmap(reference)(jax.random.split(k_reference, size), covariate)
    z, other_z = (None, None) if sample_z is None else (z, sample_z(k_z, other, beta, covariate))
    joint, product = (x, z, beta, covariate), (other, other_z, beta, covariate)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), joint, product)


def start_ratio(key: jax.Array, ratio: Network, batch: tuple | list, center: Any) -> Any:
    """Give r its first parameters, by a batch of what it compares."""
    size = jax.tree.leaves(batch)[0].shape[0]
    centers = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (size, *leaf.shape)), center)
    with noted("Raised in the ratio network, a function of one datum's (x, z, beta, covariate, center)."):
        params = ratio.init(key, *batch, centers)
    check_ratio(jax.eval_shape(jax.vmap(ratio.apply, OVER_ROWS), params, *batch, center).shape)
    check_seen(ratio, params, batch, center)
    return params


def lfvi(
    model: HierarchicalImplicitModel,
    posterior: Family,
    ratio: Network,
    *,
    local: LocalFamily | None = None,
    ratio_optimizer: optax.GradientTransformation,
    posterior_optimizer: optax.GradientTransformation | dict,
    loss: str | RatioLoss = "log",
    reference: str | Callable = "predictive",
    proposal: str = "round",
    width: float = 3.0,
    ratio_batch: int = 1024,
    ratio_steps: int = 1,
    batch_size: int | None = None,
    posterior_samples: int = 8,
    center_score: bool = False,
    jitter: Callable | None = None,
    sharding: jax.sharding.Sharding | None = None,
) -> Algorithm:
    r"""Build likelihood-free variational inference for a model.

    Parameters
    ----------
    model
        The model; its ``simulate_batch`` gives the joint draws (x, z) that r learns from.
    posterior
        Family of q(beta): :class:`~himlib.families.MeanFieldNormal`,
        :class:`~himlib.families.FullRankNormal`, :class:`~himlib.families.SplineFlow`,
        :class:`~himlib.families.MixtureOfNormals`, :class:`~himlib.families.MeanFieldMixture`,
        :class:`~himlib.families.PointMass`, or one of your own, see :class:`~himlib.families.Family`.
    ratio
        Network of (x, z, beta, covariate, center), see :func:`himlib.networks.ratio_network`.
    local
        Family of q(z | x, beta), :class:`~himlib.families.ImplicitConditional` or one of your own, see
        :class:`~himlib.families.LocalFamily`, for a model with local latents. It learns at beta from the
        proposal: were it right at q's center alone, its error would grow away from there and make q(beta)
        too narrow.
    ratio_optimizer
        An optax transformation; it restarts with each round, as does the other.
    posterior_optimizer
        An optax transformation, or a dict of two for the parts of q: ``{"beta": ..., "z": ...}``.
    loss
        A name in :data:`himlib.losses.LOSSES` or a :class:`~himlib.losses.RatioLoss`.
    reference
        Where the x of the other class come from; any density of x that does not depend on q's
        parameters cancels from the gradient. ``"predictive"``: the model itself at an independent
        draw of beta from the proposal (our default). ``"empirical"``: the data (the paper's). Or a
        function ``reference(key, covariate) -> x`` for one datum.
    proposal
        Where r's beta come from: ``"round"``, a normal fixed within a round (in the first one the
        prior's location and scale), or ``"posterior"``, which follows q.
    width
        Proposal sds per sd of q. The paper's is 1, at which r hardly sees beta vary.
    ratio_batch
        Simulated pairs per step of r.
    ratio_steps
        Steps of r per step of q.
    batch_size
        M, data per step of q, drawn with replacement and scaled by N/M; None takes all.
    posterior_samples
        Draws of beta per step of q.
    center_score
        Subtract from each datum's gradient its expectation under the model at the same beta, which is
        zero for the exact ratio and removes the bias of an inexact one; by an antithetic pair where
        the model has ``generate``. It is not zero, and this not for you, where the range of x ends at a
        value that beta sets, as of a uniform x from 0 to beta.
    jitter
        ``jitter(key, covariate) -> covariate``: spreads the covariates that r is trained at.
    sharding
        How batches are laid out over the devices of a mesh, along their leading axis:
        ``NamedSharding(Mesh(jax.devices(), ("data",)), PartitionSpec("data"))``.

    Returns
    -------
    Algorithm
        Pure functions, to be run under jit, scan and vmap, or by :func:`himlib.training.fit`.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind, such as an implicit family (no density) for q(beta).
    ValueError
        If an option is unknown or out of range; in ``init``, if data and simulator do not agree, or x
        depends on neither key nor noise, or not on beta.

    Warns
    -----
    UserWarning
        In ``init``, if r sees no x or not all of beta, whose posterior would stay the prior.

    Notes
    -----
    The gradient of log q is taken through beta alone: the rest has expectation zero and only adds
    noise (Roeder, Wu and Duvenaud 2017), as in equation 8.

    Examples
    --------
    >>> import jax, optax
    >>> from himlib import Data, ImplicitConditional, MeanFieldNormal, ratio_network
    >>> from himlib.simulators.conjugate import ConjugateGaussian
    >>> algorithm = lfvi(ConjugateGaussian().model, MeanFieldNormal(), ratio_network(),
    ...     local=ImplicitConditional(), ratio_optimizer=optax.adam(1e-3),
    ...     posterior_optimizer=optax.adam(1e-3))
    >>> data = Data(jax.numpy.linspace(-1, 1, 10))
    >>> state = algorithm.init(jax.random.key(0), data)
    >>> state, info = jax.jit(algorithm.step)(jax.random.key(1), state, data)
    >>> int(state.step), bool(jax.numpy.isfinite(info.elbo))
    (1, True)
    """
    loss = get_loss(loss)
    check_options(model, posterior, ratio, local, reference, proposal, jitter, sharding)
    check_sizes(
        width=width, ratio_batch=ratio_batch, ratio_steps=ratio_steps, batch_size=batch_size,
        posterior_samples=posterior_samples,
    )  # fmt: skip
    check_optimizers(ratio_optimizer, posterior_optimizer, local)
    if isinstance(posterior_optimizer, dict):
        parts = {part: part for part in posterior_optimizer}
        posterior_optimizer = optax.partition(posterior_optimizer, parts)
    space = model.space
    check_family(posterior, space.frame)
    apply_ratio = jax.vmap(ratio.apply, OVER_ROWS)
    log_ratio_of = loss.log_ratio or (lambda output: output)  # the hinge's goes into the ELBO as it is

    def proposal_frame(state):
        if proposal == "round":
            return state.frame
        location, scale = posterior.moments(jax.lax.stop_gradient(state.posterior["beta"]))
        return Frame(state.frame.location + state.frame.scale * location, width * state.frame.scale * scale)

    def center(state):
        return space.constrain(proposal_frame(state).location)

    def sample_z(params, key, x, beta, covariate):
        return None if local is None else local.sample(params["z"], key, x, beta, covariate)

    def shown(keys, state, data):
        """Draw what r compares, and the center of the proposal."""
        rows = contrast(
            keys, model, proposal_frame(state), data, ratio_batch, reference=reference, jitter=jitter,
            sharding=sharding, sample_z=partial(sample_z, state.posterior),
        )  # fmt: skip
        return jax.lax.stop_gradient((*rows, center(state)))

    def ratio_step(carry, keys, state, data):
        params, optimizer = carry

        def objective(params):
            r = apply_ratio(params, *batch)
            value = loss(r[:ratio_batch], r[ratio_batch:])
            r = log_ratio_of(r)
            even = loss.offset(r[ratio_batch:])  # where the odds are even: at zero for all losses but one
            accuracy = (jnp.mean(r[:ratio_batch] > even) + jnp.mean(r[ratio_batch:] < even)) / 2
            return value, accuracy

        batch = shown(keys, state, data)
        (value, accuracy), gradient = jax.value_and_grad(objective, has_aux=True)(params)
        updates, optimizer = ratio_optimizer.update(gradient, optimizer, params)
        params = optax.apply_updates(params, updates)
        return (params, optimizer), (value, accuracy, norm(gradient))

    def estimate(keys, params, state, data, weight):
        """Estimate equation 7 with the data term weighted; its gradient is for q(beta) alone."""
        k_beta, *k_data = keys
        v = posterior.sample(params["beta"], k_beta, posterior_samples)
        u = state.frame.location + state.frame.scale * v
        value = jax.vmap(model.log_prior)(jax.vmap(space.constrain)(u)).mean()
        if posterior.distribution is not None:
            density = posterior.distribution(jax.lax.stop_gradient(params["beta"]))
            log_q = density.log_prob(v) - jax.vmap(space.log_jacobian)(u) - jnp.log(state.frame.scale).sum()
            value = value - log_q.mean()
        fixed = {**params, "z": jax.lax.stop_gradient(params.get("z"))}
        term = centered_term if center_score else data_term
        sums, identities = term(k_data, fixed, u, state, data)
        return value, weight * sums, identities

    def in_rows(data):
        """Every datum as often as there are draws of beta, which all go through r as one batch."""
        return jax.tree.map(lambda leaf: jnp.tile(leaf, (posterior_samples,) + (1,) * (leaf.ndim - 1)), data)

    def sum_of_r(state, x, z, betas, covariate):
        return log_ratio_of(apply_ratio(state.ratio, x, z, betas, covariate, center(state))).sum()

    def data_term(keys, params, u, state, data):
        """Sum r over the data, averaged over draws of u."""
        k_z, _ = keys
        size, (x, covariate) = jax.tree.leaves(data)[0].shape[0], in_rows(data)
        betas = jax.tree.map(lambda leaf: jnp.repeat(leaf, size, axis=0), jax.vmap(space.constrain)(u))
        z = sample_z(params, k_z, x, betas, covariate)
        return sum_of_r(state, x, z, betas, covariate) / posterior_samples, state.identities

    def centered_term(keys, params, u, state, data):
        """The same value; its gradient is that of r less its mean under the model, in r's own scale.

        The slopes of c log p hold c squared times the information of those of log p, and their mean falls
        c times as fast: A / I = 1 / c weighs them so that the prior beside them keeps its weight. Both are
        measured along the difference of two draws of u.
        """
        k_z, k_model = keys
        size, (x, covariate) = jax.tree.leaves(data)[0].shape[0], in_rows(data)
        rows = jax.lax.stop_gradient(jnp.repeat(u, size, axis=0))
        betas = jax.vmap(space.constrain)(rows)

        def of_model(rows, x, z, covariate):
            return sum_of_r(state, x, z, jax.vmap(space.constrain)(rows), covariate)

        def of_data(rows):
            z = sample_z(params, k_z, x, jax.vmap(space.constrain)(rows), covariate)
            return of_model(rows, x, z, covariate)

        draws = antithetic(k_model, model, betas, covariate)
        value, seen = jax.value_and_grad(of_data)(rows)
        made = [jax.grad(of_model)(rows, x, z, covariate) for z, x in draws]
        slope = (seen - sum(made) / len(made)).reshape(posterior_samples, size, -1).sum(1)
        identities = state.identities
        if posterior_samples > 1:  # what is simulated at the second draw, seen from the first
            here, there = slice(size), slice(size, 2 * size)
            (z, x), one = jax.tree.map(lambda leaf: leaf[there], draws[0]), rows[here]
            away = jax.grad(of_model)(one, x, z, jax.tree.map(lambda leaf: leaf[here], covariate))
            along = rows[there] - one
            away, *others = ((part[here] * along).sum(1) for part in (away, *made))
            home = jnp.stack(others)
            new = jnp.stack([away.mean() - home.mean(), home.var(), jnp.ones(())])
            identities = 0.99 * identities + 0.01 * new
        curvature, information, known = identities
        scale = jnp.clip(curvature / jnp.where(information > 0, information, 1.0), 1 / 8, 8.0)
        scale = jnp.where(information > 0, scale, 1.0) ** known**2  # a hundred steps say what it is
        pull = jnp.sum(scale * slope * u) / posterior_samples
        fixed = jax.lax.stop_gradient(value / posterior_samples - pull)
        return fixed + pull, identities

    def elbo(key, state, data):
        check_state(state)
        return sum(estimate(jax.random.split(check_key(key), 3), state.posterior, state, data, 1.0)[:2])

    def minibatch(key, data):
        if batch_size is None:
            return data
        return spread_out(draw_rows(key, data, batch_size), sharding)

    def posterior_step(keys, state, data):
        k_index, k_proposal, *keys = keys
        size = jax.tree.leaves(data)[0].shape[0]
        weight = 1.0 if batch_size is None else size / batch_size
        data = minibatch(k_index, data)

        def objective(params):
            prior_term, sums, identities = estimate(keys[:3], params, state, data, weight)
            loss = -prior_term - pace * sums
            if local is not None:  # at proposed beta, or it would be right at q's center alone
                fixed = {**params, "beta": None}
                loss = loss - weight * data_term(keys[3:], fixed, u, state, data)[0]
            return loss / size, (prior_term + sums, identities)

        wait = state.wait
        pace: jax.Array | float = 1.0
        if wait is not None:  # q(z) does not wait: it learns beside r
            left, steps = wait
            pace = jnp.clip(1 - left / jnp.maximum(steps, 1), 0.0, 1.0) ** 2  # none, and then more and more
            wait = jnp.stack([jnp.maximum(left - 1, 0), steps])
        u = propose(k_proposal, proposal_frame(state), posterior_samples)
        (_, (value, identities)), gradient = jax.value_and_grad(objective, has_aux=True)(state.posterior)
        updates, optimizer = posterior_optimizer.update(gradient, state.posterior_optimizer, state.posterior)
        updates = {**updates, "beta": jax.tree.map(lambda leaf: pace * leaf, updates["beta"])}
        state = state._replace(
            posterior=optax.apply_updates(state.posterior, updates), posterior_optimizer=optimizer,
            identities=identities, wait=wait,
        )  # fmt: skip
        return state, value, norm(gradient)

    def step(key, state, data):
        # All keys of a step from one split: each one more costs a tenth of a second to compile.
        keys = jax.random.split(check_key(key), 6 * ratio_steps + 7)
        (params, optimizer), reports = jax.lax.scan(
            lambda carry, keys: ratio_step(carry, keys, state, data),
            (state.ratio, state.ratio_optimizer),
            keys[7:].reshape(ratio_steps, 6),
            unroll=ratio_steps == 1,
        )
        state = state._replace(ratio=params, ratio_optimizer=optimizer, step=state.step + 1)
        state, value, gradient = posterior_step(keys[:7], state, data)
        _, scale = posterior.moments(state.posterior["beta"])
        info = Info(
            elbo=value,
            ratio_loss=reports[0][-1],
            accuracy=reports[1][-1],
            ratio_gradient=reports[2][-1],
            posterior_gradient=gradient,
            spread=jnp.exp(jnp.log(scale).mean()),
        )
        return state, info

    @jax.jit
    def restart(key, state, data):
        """Start r and the optimizers afresh, at the state's frame and q; init and refine share it."""
        k_ratio, *keys = jax.random.split(key, 7)
        *batch, middle = shown(keys, state, data)
        finite = jnp.stack([jnp.isfinite(leaf).mean() for leaf in jax.tree.leaves(batch)]).min()
        z, x = jax.tree.map(lambda leaf: leaf[:ratio_batch], (batch[1], batch[0]))
        params = start_ratio(k_ratio, ratio, batch, middle)
        state = state._replace(
            ratio=params,
            ratio_optimizer=ratio_optimizer.init(params),
            posterior_optimizer=posterior_optimizer.init(state.posterior),
        )
        return state, (finite, measure(z, x)[1])

    @jax.jit
    def start_local(key, frame, data):
        """Start q(z | x, beta) from a data set simulated at the first proposal."""
        assert local is not None
        k_beta, k_model, k_local = jax.random.split(key, 3)
        beta = jax.vmap(space.constrain)(propose(k_beta, frame, jax.tree.leaves(data)[0].shape[0]))
        z, x = model.simulate_batch(k_model, beta, data.covariate)
        params = local.init(k_local, z, x, beta, data.covariate)
        check_draws(z, jax.eval_shape(local.sample, params, k_local, x, beta, data.covariate))
        return params

    def init(key, data, frame=None):
        k_local, k_restart = jax.random.split(check_key(key))
        check_local(check_problem(model, data, batch_size=batch_size, least=None), local)
        frame = space.frame if frame is None else jax.tree.map(jnp.asarray, check_frame(frame, space.size))
        params = {"beta": posterior.init(space.size)}
        if local is not None:
            params["z"] = start_local(k_local, frame, data)
        count = jnp.zeros(3, jnp.int32)
        wait = count[1:] if proposal == "round" else None  # an r that follows q learns where q is
        state = State(None, params, None, None, frame, count[0], wait, jnp.zeros(3))
        state, measured = restart(k_restart, state, data)
        check_measured(measured)
        return state

    def moments(state):
        check_state(state)
        location, scale = posterior.moments(state.posterior["beta"])
        return jnp.stack([state.frame.location + state.frame.scale * location, state.frame.scale * scale])

    def refine(key, state, data):
        if posterior.distribution is None:
            raise ValueError("refine: a point mass has no width to propose from; fit it in one round.")
        location, scale = moments(state)
        frame = Frame(location, jnp.minimum(width * scale, state.frame.scale))
        beta = posterior.reframe(state.posterior["beta"], state.frame, frame)
        posterior_params, zero = {**state.posterior, "beta": beta}, jnp.zeros_like(state.identities)
        state = State(None, posterior_params, None, None, frame, state.step, state.wait, zero)
        return restart(check_key(key), state, data)[0]

    def sample_beta(key, state, size):
        check_state(state)
        v = posterior.sample(state.posterior["beta"], check_key(key), size)
        return jax.vmap(space.constrain)(state.frame.location + state.frame.scale * v)

    def sample_local(key, state, beta, data):
        check_state(state)
        size = jax.tree.leaves(data)[0].shape[0]
        betas = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (size, *jnp.shape(leaf))), beta)
        return sample_z(state.posterior, check_key(key), data.x, betas, data.covariate)

    def log_ratio(state, x, z, beta, covariate=None):
        check_state(state)
        return log_ratio_of(ratio.apply(state.ratio, x, z, beta, covariate, center(state)))

    def all_shown(key, state, data):
        """All that a step with this key shows r: the joint rows of its ratio steps, then the others."""
        check_state(state)
        keys = jax.random.split(check_key(key), 6 * ratio_steps + 7)[7:].reshape(ratio_steps, 6)
        *rows, middle = jax.vmap(lambda keys: shown(keys, state, data))(keys)

        def flat(leaf):
            leaf = leaf.reshape(ratio_steps, 2, ratio_batch, *leaf.shape[2:]).swapaxes(0, 1)
            return leaf.reshape(2 * ratio_steps * ratio_batch, *leaf.shape[3:])

        return (*jax.tree.map(flat, rows), jax.tree.map(lambda leaf: leaf[0], middle))

    def simulated(key, state, data):
        """All x that a step with this key simulates, for r and for the centering, and the beta of each."""
        x, _, beta, *_ = all_shown(key, state, data)
        made = [jax.tree.map(lambda leaf: leaf[: len(leaf) // 2], (x, beta))]
        if center_score:
            k_index, _, k_beta, _, k_model, *_ = jax.random.split(key, 6 * ratio_steps + 7)
            v = posterior.sample(state.posterior["beta"], k_beta, posterior_samples)
            rows = minibatch(k_index, data)
            u = jnp.repeat(
                state.frame.location + state.frame.scale * v, jax.tree.leaves(rows)[0].shape[0], axis=0
            )
            betas = jax.vmap(space.constrain)(u)
            made += [(x, betas) for _, x in antithetic(k_model, model, betas, in_rows(rows).covariate)]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *made)

    return Algorithm(
        init,
        step,
        refine,
        moments,
        sample_beta,
        sample_local,
        elbo,
        log_ratio,
        center_score,
        lambda state: jnp.stack(proposal_frame(state)),
        all_shown,
        simulated,
    )
