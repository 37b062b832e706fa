"""Train classifiers on a bank of simulations: pairs that are there already, with each other's beta."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.special import logsumexp

from himlib.losses import softmax_losses
from himlib.networks import Network
from himlib.random import row_numbers

AMONG = 128  # a held-out x is told to which of so many beta it belongs
LOOKS = 10
# What two classifiers may count: the second a share of 0 to 1, and both together from .3, where they are too
# sure of what they have not seen (Guo et al. 2017: a temperature), to 1.2.
WEIGHTS = np.array([(t - t * w, t * w) for t in np.arange(3, 13) / 10 for w in np.arange(5) / 4], np.float32)


def all_pairs(network: Network, params: Any, s: jax.Array, v: jax.Array) -> jax.Array:
    """r of every row of s with every row of v, shape (n, m)."""
    center = jnp.zeros(v.shape[-1])
    if network.pairs is not None:
        return network.pairs(params, s, None, v, None, center)
    one = jax.vmap(network.apply, (None, None, None, 0, None, None))
    return jax.vmap(one, (None, 0, None, None, None, None))(params, s, None, v, None, center)


def mean_where(losses: jax.Array, ok: jax.Array) -> jax.Array:
    """The mean over the rows that count: those that have an x."""
    return jnp.sum(jnp.where(ok, losses, 0.0)) / jnp.maximum(ok.sum(), 1)


def held_out(network: Network, params: Any, held: tuple) -> jax.Array:
    """r of the held-out pairs, all against all in groups: shape (groups, AMONG, AMONG)."""
    s, v, _ = (part.reshape(-1, AMONG, *part.shape[1:]) for part in held)
    return jax.lax.map(lambda rows: all_pairs(network, params, *rows), (s, v))


def score(r: jax.Array, held: tuple, groups: jax.Array) -> jax.Array:
    """The softmax loss of held-out r, over as many groups as are filled."""
    ok = held[2].reshape(-1, AMONG) & (jnp.arange(len(r)) < groups)[:, None]
    return mean_where(softmax_losses(r), ok)


@partial(jax.jit, static_argnames=("network", "others", "batch", "rate"))
def train(key, bank, count, newest, held, groups, steps, *, network, others, batch, rate):
    """Train a classifier by the softmax loss, and keep the parameters that tell held-out pairs best.

    It tells which of the ``others`` and its own beta an x belongs to: ``batch - 1`` are all of a batch.
    How much of the bank is filled, and how many steps there are, is traced: one program serves every round.
    """
    s, v, ok = bank
    center = jnp.zeros(v.shape[-1])
    beside = jax.vmap(network.apply, (None, None, None, 0, None, None))
    some = jax.vmap(beside, (None, 0, None, 0, None, None))
    whose = (np.arange(batch)[:, None] + np.arange(others + 1)) % batch
    optimizer = optax.flatten(optax.chain(optax.clip_by_global_norm(5.0), optax.scale_by_adam()))

    def objective(params, s, v, ok):
        if others == batch - 1:
            return mean_where(softmax_losses(all_pairs(network, params, s, v)), ok)
        r = some(params, s, None, v[whose], None, center)
        return mean_where(logsumexp(r, axis=1) - r[:, 0], ok)

    def step(i, carry):
        params, state = carry
        rows = row_numbers(jax.random.fold_in(k_steps, i), (batch,), count)
        gradient = jax.grad(objective)(params, s[rows], v[rows], ok[rows])
        updates, state = optimizer.update(gradient, state, params)
        size = rate * (0.001 + 0.999 * 0.5 * (1 + jnp.cos(jnp.pi * i / steps)))
        return optax.apply_updates(params, jax.tree.map(lambda u: -size * u, updates)), state

    def look(carry, i):
        (params, state), (best, kept) = carry
        share = steps * (0.4 + 0.6 * jnp.stack([i, i + 1]) / LOOKS)
        start, stop = jnp.where(i == 0, 0, share[0].astype(jnp.int32)), share[1].astype(jnp.int32)
        params, state = jax.lax.fori_loop(start, stop, step, (params, state))
        loss = score(held_out(network, params, held), held, groups)
        better = loss < best
        kept = jax.tree.map(lambda new, old: jnp.where(better, new, old), params, kept)
        return ((params, state), (jnp.where(better, loss, best), kept)), loss

    k_init, k_steps = jax.random.split(key)
    rows = len(newest[1])
    params = network.init(k_init, newest[0], None, newest[1], None, jnp.zeros((rows, v.shape[-1])))
    start = ((params, optimizer.init(params)), (jnp.asarray(jnp.inf), params))
    (_, (best, params)), _ = jax.lax.scan(look, start, jnp.arange(LOOKS))
    return params, best


@partial(jax.jit, static_argnames="networks")
def mix(params, held, groups, *, networks):
    """The weights with which two classifiers together tell held-out pairs best, and the loss of that."""
    first, second = (held_out(n, p, held) for n, p in zip(networks, params, strict=True))
    losses = jax.lax.map(lambda w: score(w[0] * first + w[1] * second, held, groups), WEIGHTS)
    return jnp.asarray(WEIGHTS)[jnp.argmin(losses)], losses.min()
