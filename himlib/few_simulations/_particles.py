"""Draw from prior x exp(r / T) with particles that come from the prior, and so keep every mode."""

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from himlib.random import normal

STAGES, MOVES = 20, 10
LEAST, SHARE = 40, 0.02  # what simulations have to be worth for what comes next, or what share of them


def ess_share(log_weights: jax.Array) -> jax.Array:
    """The effective share of weighted draws."""
    n = log_weights.size
    return jnp.exp(2 * logsumexp(log_weights) - logsumexp(2 * log_weights)) / n


def next_power(r: jax.Array, power: jax.Array, last: jax.Array) -> jax.Array:
    """The power of exp(r) at which half of the particles are left, at most the last one."""

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        good = ess_share((middle - power) * r) > 0.5
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    reached = jax.lax.fori_loop(0, 30, halve, (power, last))[0]
    return jnp.where(ess_share((last - power) * r) > 0.5, last, reached)


@jax.jit
def attainable(log_ratio: jax.Array, log_weights: jax.Array, ok: jax.Array, power: jax.Array) -> jax.Array:
    """The power of exp(r), at most ``power``, at which what was simulated is worth enough to go on from.

    Where r was learned from few and is summed over many data, more would lead astray. Rows have r, and the
    weight of the prior beside what they were drawn from; those that failed do not count.
    """

    powers = power * 0.8 ** jnp.arange(24)
    shares = jax.vmap(lambda p: ess_share(jnp.where(ok, p * log_ratio + log_weights, -jnp.inf)))(powers)
    enough = shares > min(SHARE, LEAST / ok.size)
    return powers[jnp.where(enough.any(), jnp.argmax(enough), jnp.argmax(shares))]


def resample(key: jax.Array, log_weights: jax.Array) -> jax.Array:
    """Systematic resampling: indices."""
    n = log_weights.size
    steps = jnp.cumsum(jax.nn.softmax(log_weights))
    return jnp.minimum(jnp.searchsorted(steps, (jnp.arange(n) + jax.random.uniform(key)) / n), n - 1)


def temper(key, v, log_prior, log_ratio, last):
    """Move draws v of the prior, shape (n, d), to prior x exp(last r).

    Also give r there, the log of the mean of exp(last r) under the prior, and how often they moved in the
    end. Each stage raises the power until half of the particles are left, resamples, and makes ten moves of
    differential evolution (ter Braak 2006): along the difference of two others, of any length.
    """
    n, size = v.shape
    dtype = v.dtype

    def densities(v):
        return log_prior(v).astype(dtype), log_ratio(v).astype(dtype)

    def move(carry, key):
        v, p, r, power, _ = carry
        k_pair, k_length, k_noise, k_accept = jax.random.split(key, 4)
        shift = jax.random.randint(k_pair, (2, n), 1, n)
        other = (jnp.arange(n) + shift) % n
        length = jnp.exp(jax.random.uniform(k_length, (n, 1), dtype, minval=-3.0, maxval=0.5))
        proposed = v + length * (v[other[0]] - v[other[1]]) + 0.003 * normal(k_noise, (n, size), dtype)
        p_new, r_new = densities(proposed)
        gain = p_new - p + power * (r_new - r)
        yes = jnp.log(jax.random.uniform(k_accept, (n,))) < gain
        v = jnp.where(yes[:, None], proposed, v)
        return (v, jnp.where(yes, p_new, p), jnp.where(yes, r_new, r), power, yes.mean(dtype=dtype)), None

    def stage(carry):
        v, p, r, power, total, _, i = carry
        k_resample, k_moves = jax.random.split(jax.random.fold_in(key, i))
        new = jnp.where(i == STAGES - 1, last, next_power(r, power, last))
        total += logsumexp((new - power) * r) - jnp.log(n).astype(dtype)
        index = resample(k_resample, (new - power) * r)
        start = (v[index], p[index], r[index], new, jnp.zeros((), dtype))
        (v, p, r, power, moved), _ = jax.lax.scan(move, start, jax.random.split(k_moves, MOVES))
        return v, p, r, power, total, moved, i + 1

    last, zero = jnp.asarray(last, dtype), jnp.zeros((), dtype)
    start = (v, *densities(v), zero, zero, zero + 1, jnp.array(0))
    end = jax.lax.while_loop(lambda c: (c[3] < last) & (c[6] < STAGES), stage, start)
    v, _, r, _, total, moved, _ = end
    return v, r, total, moved
