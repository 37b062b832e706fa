"""What a run compiles, once for a model, a summary and a distance; and how its pieces are put together."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from himlib.base import Data
from himlib.models import HierarchicalImplicitModel
from himlib.random import normal

CHUNK = 20  # batches, or steps of all chains, between two looks from outside


def simulate(model, summary, key, beta, data):
    """A data set for each row of beta: its summary, and whether it is finite."""
    size, rows = (jax.tree.leaves(tree)[0].shape[0] for tree in (beta, data.x))
    betas = jax.tree.map(lambda leaf: jnp.repeat(leaf, rows, axis=0), beta)
    covariate = jax.tree.map(lambda leaf: jnp.tile(leaf, (size,) + (1,) * (leaf.ndim - 1)), data.covariate)
    _, x = model.simulate_batch(key, betas, covariate)
    x = jax.tree.map(lambda leaf: leaf.reshape(size, rows, *leaf.shape[1:]), x)
    finite = [jnp.isfinite(leaf).reshape(size, -1).all(1) for leaf in jax.tree.leaves(x)]
    return jax.vmap(lambda x: summary(Data(x, data.covariate)))(x), jnp.stack(finite).all(0)


class Programs(NamedTuple):
    """What is compiled once for a model, a summary and a distance."""

    from_prior: Callable
    from_kernel: Callable
    walk: Callable
    log_density: Callable
    log_mixture: Callable


@lru_cache(maxsize=32)
def compiled(model: HierarchicalImplicitModel, summary: Callable, distance: Callable) -> Programs:
    def measure(key, beta, data):
        """Distances of data sets simulated at each row of beta; infinite where anything is not finite."""
        simulated, finite = simulate(model, summary, key, beta, data)
        distances = jax.vmap(distance, (0, None))(simulated, summary(data))
        return jnp.where(finite & jnp.isfinite(distances), distances, jnp.inf)

    def repeat(function, first, length, carry):
        """Run ``carry, out = function(i, carry)`` from i = first and stack what comes out, up to CHUNK."""
        shapes = jax.eval_shape(function, first, carry)[1]
        out = jax.tree.map(lambda leaf: jnp.zeros((CHUNK, *leaf.shape), leaf.dtype), shapes)

        def body(i, carried):
            carry, out = carried
            carry, new = function(first + i, carry)
            return carry, jax.tree.map(lambda all, one: all.at[i].set(one), out, new)

        # Of traced length, and not a scan: a shorter chunk needs no compilation of its own.
        return jax.lax.fori_loop(0, length, body, (carry, out))

    def proposing(propose):
        """Propose, simulate and measure batch after batch in one loop: nothing else is kept."""

        @partial(jax.jit, static_argnames="batch")
        def run(key, first, length, data, population, batch):
            def step(i, _):
                k_propose, k_simulate = jax.random.split(jax.random.fold_in(key, i))
                draws, beta = propose(k_propose, batch, population)
                return None, (draws, measure(k_simulate, beta, data))

            return repeat(step, first, length, None)[1]

        return run

    def prior(key, batch, _):
        beta = model.sample_prior(key, (batch,))
        return beta, beta

    def kernel(key, batch, population):
        u, factor, cumulative = population
        k_ancestor, k_noise = jax.random.split(key)
        ancestor = jnp.searchsorted(cumulative, jax.random.uniform(k_ancestor, (batch,)) * cumulative[-1])
        u = u[jnp.minimum(ancestor, len(u) - 1)] + normal(k_noise, (batch, u.shape[1])) @ factor.T
        return u, jax.vmap(model.space.constrain)(u)

    def log_density(u):
        return model.log_prior(model.space.constrain(u)) + model.space.log_jacobian(u)

    @jax.jit
    def walk(key, first, length, data, state, tolerance, step):
        """Metropolis-Hastings in unconstrained coordinates, all chains at once."""

        def move(i, state):
            u, log_p, distances = state
            k_propose, k_simulate, k_accept = jax.random.split(jax.random.fold_in(key, i), 3)
            proposal = u + step * normal(k_propose, u.shape)
            new = proposal, jax.vmap(log_density)(proposal)
            measured = measure(k_simulate, jax.vmap(model.space.constrain)(proposal), data)
            within = jnp.log(jax.random.uniform(k_accept, log_p.shape)) < new[1] - log_p
            accept = within & (measured <= tolerance) & jnp.isfinite(measured)
            state = (
                jnp.where(accept[:, None], proposal, u),
                jnp.where(accept, new[1], log_p),
                jnp.where(accept, measured, distances),
            )
            return state, (state[0], state[2], measured, accept)

        return repeat(move, first, length, state)

    @jax.jit
    def log_mixture(u, whitened, means, log_weights):
        """log prior density less log density of the mixture that u was proposed from, up to a constant."""

        def one(pair):
            u, v = pair
            square = jnp.sum((v - means) ** 2, -1)
            return log_density(u) - jax.nn.logsumexp(log_weights - square / 2)

        return jax.lax.map(one, (u, whitened), batch_size=256)

    return Programs(proposing(prior), proposing(kernel), walk, jax.jit(jax.vmap(log_density)), log_mixture)


def joined(pieces):
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)


def merged(tree):
    """The first two axes as one."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)


def take(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def nearest(found, count):
    """The draws of the smallest distances, nearest first."""
    return take(found, np.argsort(found[1], kind="stable")[:count])
