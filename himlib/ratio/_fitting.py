"""How a log ratio is fitted to two samples, by L-BFGS or by Adam with early stopping, and scored."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.nn import logsumexp

from himlib.losses import RatioLoss, log_mean_exp
from himlib.networks import Network, standardization
from himlib.random import row_numbers
from himlib.training import cosine_adam, descend

LOOKS = 40
MANY = 100  # features, of which a step of Newton's method costs more than many of the slope alone


def decorrelate(u: jax.Array) -> jax.Array:
    """Matrix that makes columns uncorrelated: L-BFGS stalls on features that nearly repeat each other."""
    values, vectors = jnp.linalg.eigh(u.T @ u / len(u))
    return vectors / jnp.sqrt(jnp.maximum(values, 1e-6))


def held_out(size: int) -> np.ndarray:
    """Choose every fifth row: at least one of two, and as good a choice for sorted rows."""
    return np.arange(size) % 5 == 1


def newton(look: Callable, ended: Callable, theta: jax.Array, steps: int) -> jax.Array:
    """Minimize a convex function by Newton's method, with a ridge that grows until a step falls.

    ``look(theta)`` returns value, slope and curvature. Near the optimum all values are the same up to
    rounding, which is not the same on all processors; of the slope several digits are left there. Without a
    finite optimum, ``ended(theta)`` says when to stop.
    """
    eps = jnp.finfo(theta.dtype).eps

    def step(carry):
        theta, value, slope, curvature, damping, gain, count = carry
        ridge = damping * jnp.trace(curvature) / theta.size * jnp.eye(theta.size, dtype=theta.dtype)
        factor = jax.scipy.linalg.cho_factor(curvature + ridge)
        move = jax.scipy.linalg.cho_solve(factor, slope)
        found = theta - move, *look(theta - move)
        # What the quadratic that is met here may still fall by, twice: in any units of theta.
        before, after = slope @ move, found[2] @ jax.scipy.linalg.cho_solve(factor, found[2])
        # All this is false for NaN: without curvature there is no such step.
        level = found[1] < value + 4 * eps * jnp.maximum(1.0, jnp.abs(value))
        falls = (found[1] < value - before / 10) | (level & (after < before))
        kept = jax.tree.map(partial(jnp.where, falls), found, (theta, value, slope, curvature))
        gain = jnp.where(jnp.isinf(value), gain, before)  # the first step only looks where it stands
        return *kept, jnp.where(falls, damping / 100, damping * 100), gain, count + 1

    def goes_on(carry):
        theta, *_, damping, gain, count = carry
        return (gain > eps**2) & (damping < 1e6) & (count < steps) & ~ended(theta)

    inf, damping = jnp.array([jnp.inf, 1e-6], theta.dtype)
    start = theta, inf, 0 * theta, jnp.eye(theta.size, dtype=theta.dtype), damping, inf, 0
    return jax.lax.while_loop(goes_on, step, start)[0]


def search(objective: Callable, ended: Callable, theta: jax.Array, steps: int) -> jax.Array:
    """Minimize a convex function by L-BFGS: one of many parameters, or with kinks and no curvature."""
    solver = optax.lbfgs(linesearch=optax.scale_by_backtracking_linesearch(20))
    eps = jnp.finfo(theta.dtype).eps

    def step(carry):
        theta, state, best, least, stalled, count = carry
        value, gradient = jax.value_and_grad(objective)(theta)
        updates, state = solver.update(gradient, state, theta, value=value, grad=gradient, value_fn=objective)
        stalled = jnp.where(value + 4 * eps * jnp.maximum(1.0, jnp.abs(value)) < least, 0, stalled + 1)
        best = jnp.where(value < least, theta, best)  # a line search may fail
        return optax.apply_updates(theta, updates), state, best, jnp.minimum(value, least), stalled, count + 1

    def goes_on(carry):
        *_, best, _, stalled, count = carry
        return (stalled < 3) & (count < steps) & ~ended(best)

    start = theta, solver.init(theta), theta, jnp.full((), jnp.inf, theta.dtype), 0, 0
    return jax.lax.while_loop(goes_on, step, start)[2]


def fit_features(features: Callable, loss: RatioLoss, samples: tuple, steps: int) -> tuple:
    """Fit an r that is linear in features: without the rows held out, and from there on all of them."""

    def apply(params, u):
        shift, whiten, theta = params
        return theta[0] + (features(u) - shift) @ whiten @ theta[1:]

    values = [jax.vmap(features)(u) for u in samples]
    if values[0].ndim != 2:
        raise ValueError(
            "network: expected a Network, or a function that makes a vector of features, "
            f"got shape {values[0].shape[1:]} for one draw."
        )
    (mean_p, sd_p), (mean_q, sd_q) = (standardization(f) for f in values)
    shift = jnp.where(sd_p < sd_q, mean_p, mean_q)  # where the two overlap, digits are kept
    _, scale = standardization(jnp.concatenate(values))
    whiten = decorrelate((jnp.concatenate(values) - shift) / scale) / scale[:, None]
    rows = (jnp.concatenate(values) - shift) @ whiten
    rows = jnp.concatenate([jnp.ones((len(rows), 1), rows.dtype), rows], axis=1)
    of_p = len(values[0])
    free = 1.0 if loss.mean_q is log_mean_exp else 0.0  # no constant changes that loss
    out = np.concatenate([held_out(len(f)) for f in values])

    def solve(theta, everything):
        used = everything | ~out

        def total(r):
            return jnp.mean(loss.on_p(r[:of_p]), where=used[:of_p]) + loss.mean_q(
                loss.on_q(r[of_p:]), where=used[of_p:]
            )

        def objective(theta):
            return total(rows @ theta) + free * theta[0] ** 2

        def look(theta):
            r = rows @ theta
            value, slope = jax.value_and_grad(total)(r)
            curved = jax.vmap(lambda row: jax.jvp(jax.grad(total), (r,), (row,))[1], 1, 1)(rows)
            pin = free * jnp.zeros_like(theta).at[0].set(1.0)
            return (
                value + pin @ theta**2, slope @ rows + 2 * pin * theta, rows.T @ curved + jnp.diag(2 * pin)
            )  # fmt: skip

        def separated(theta):  # by a nat at least: any multiple of such a theta is better still
            r = rows @ theta
            return jnp.all(r[:of_p] > 1, where=used[:of_p]) & jnp.all(r[of_p:] < -1, where=used[of_p:])

        if theta.size > MANY or not loss.is_ratio:
            theta = search(objective, separated, theta, steps)
        if loss.is_ratio:
            theta = newton(look, separated, theta, steps)
        return theta, theta

    start = jnp.zeros(rows.shape[1], rows.dtype)
    _, (first, final) = jax.lax.scan(solve, start, jnp.array([False, True]))
    lost = (~jnp.isfinite(jnp.concatenate(values)).all(1)).mean()
    return apply, (shift, whiten, first), (shift, whiten, final), lost


def check_features(lost: jax.Array) -> None:
    """Refuse features that are not finite at some share of the draws."""
    if not isinstance(lost, jax.core.Tracer) and lost > 0:  # a tracer has no value
        raise ValueError(
            f"network: features are not finite at {float(lost):.1%} of the draws; likely cause: powers "
            "or exponentials of large numbers, logarithms of zero. Bound them, or change the units of x."
        )


def fit_network(
    key: jax.Array, network: Network, loss: RatioLoss, samples: tuple, steps, batch_size, learning_rate
) -> tuple[Callable, Any]:
    """Train a network on minibatches by Adam, and keep the best of forty by its held-out loss."""
    k_init, k_steps = jax.random.split(key)
    optimizer = optax.chain(optax.clip_by_global_norm(5.0), cosine_adam(learning_rate, steps))
    p, q = (u[~held_out(len(u))] for u in samples)
    rest = [u[held_out(len(u))] for u in samples]

    def value_of(params, p, q):
        r = jax.vmap(network.apply, (None, 0))(params, jnp.concatenate([p, q]))
        return loss(r[: len(p)], r[len(p) :])

    def objective(params, key):
        rows = row_numbers(key, (2, batch_size), [[len(p)], [len(q)]])
        return value_of(params, p[rows[0]], q[rows[1]])

    def stretch(carry, keys):
        current, best, least = carry
        current, _ = descend(objective, optimizer, current, keys)
        value = value_of(current[0], *rest)
        better = value < least  # False for NaN
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), current[0], best)
        return (current, best, jnp.where(better, value, least)), None

    params = network.init(k_init, jnp.concatenate([p, q]))
    looks = min(LOOKS, steps)
    start = (params, optimizer.init(params)), params, jnp.full((), jnp.inf, p.dtype)
    (_, best, _), _ = jax.lax.scan(stretch, start, jax.random.split(k_steps, (looks, steps // looks)))
    return network.apply, best


def effective_sample_size(r: jax.Array) -> jax.Array:
    """How many equal weights those of exp(r) are worth."""
    return jnp.exp(2 * logsumexp(r) - logsumexp(2 * r))


def total(parts: list[Callable], x: jax.Array) -> jax.Array:
    """Sum the log ratios of the bridges."""
    return sum(r(x) for r in parts)


def correct(r_p: jax.Array, r_q: jax.Array) -> jax.Array:
    """Share of draws on their side of zero."""
    return (jnp.mean(r_p > 0) + jnp.mean(r_q < 0)) / 2


def bin_probabilities(r_p: jax.Array, r_q: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean probability of p in each of ten bins, share of p, and weight, both classes weighing the same."""
    probability = jax.nn.sigmoid(jnp.concatenate([r_p, r_q]))
    of_p = jnp.arange(probability.size) < r_p.size
    weight = jnp.where(of_p, 0.5 / r_p.size, 0.5 / r_q.size)
    inside = jnp.arange(10)[:, None] == jnp.clip((probability * 10).astype(int), 0, 9)
    total = inside @ weight
    return inside @ (weight * probability) / total, inside @ (weight * of_p) / total, total


def separation(r_p: jax.Array, r_q: jax.Array) -> jax.Array:
    """Share of draws on their side of the best cut, wherever along r that is."""
    order = jnp.argsort(jnp.concatenate([r_p, r_q]))  # stable: of equal values those of p come first
    step = jnp.where(order < len(r_p), -1 / len(r_p), 1 / len(r_q))
    return (1 + jnp.cumsum(step).max()) / 2


def errors(r: Callable, p: jax.Array, q: jax.Array, log_ratio: Callable | None) -> dict[str, jax.Array]:
    """Root mean square errors, if the truth is known."""
    found: dict[str, jax.Array] = {}
    if log_ratio is None:
        return found
    for name, sample in {"rmse_p": p, "rmse_q": q}.items():
        truth = log_ratio(sample)
        if jnp.shape(truth) != (len(sample),):
            shapes = f"got shape {jnp.shape(truth)} for {len(sample)} draws"
            raise ValueError(f"log_ratio: expected one number for each draw, {shapes}.")
        found[name] = jnp.sqrt(jnp.mean((r(sample) - truth) ** 2))
    return found
