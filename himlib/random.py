r"""Random numbers that are quick inside a compiled loop: typed keys checked, normals, rows of a batch.

On one CPU core :func:`jax.random.normal` takes most of a simulator's time: a block of the generator
for every number, rounds that go through memory, and an inverse error function. The normals here
cost about a third of that, and are the same on every platform up to rounding.
"""

import math
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jax.typing import DTypeLike

__all__ = ["check_key", "normal"]

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
# The high half of every counter. jax.random.split and fold_in count from zero, so that normal(key)
# shares no block with the keys made from the same key.
HIGH = 0x6E6F726D
# Taylor's series of sin(pi y) / y up to y^10: for |y| <= 1/2 it errs by less than one rounding, 6e-8.
SINE = tuple((-1) ** k * math.pi ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(6))


def check_key(key: jax.Array) -> jax.Array:
    """Return ``key`` if it is a typed key of :mod:`jax.random`.

    Parameters
    ----------
    key
        What should be one, or an array of them.

    Returns
    -------
    jax.Array
        The key itself.

    Raises
    ------
    TypeError
        If it is anything else, such as the old-style key of ``jax.random.PRNGKey``.

    Examples
    --------
    >>> import jax
    >>> check_key(jax.random.key(0)).shape
    ()
    """
    dtype = getattr(key, "dtype", None)
    if dtype is None or not jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        got = type(key).__name__ if dtype is None else f"an array of {dtype}"
        if dtype == "uint32":
            got += "; likely cause: an old-style key, made by jax.random.PRNGKey(seed)"
        seed = key if isinstance(key, int) else "seed"
        raise TypeError(f"key: expected jax.random.key({seed}), got {got}.")
    return key


def threefry(key: jax.Array, high: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Encrypt the counters (high, low) under the key's two words: Threefry-2x32, 20 rounds unrolled."""
    words = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(0x1BD11BDA))
    high, low = high + words[0], low + words[1]
    for group in range(5):
        for shift in ROTATIONS[group % 2]:
            high = high + low
            low = ((low << shift) | (low >> (32 - shift))) ^ high
        high = high + words[(group + 1) % 3]
        low = low + words[(group + 2) % 3] + jnp.uint32(group + 1)
    return high, low


def box_muller(words: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Turn blocks of two words into normals: radius times cosine, and radius times sine, side by side."""
    index = jax.lax.iota(jnp.uint32, math.prod(shape))
    radius, angle = threefry(words, jnp.full_like(index, HIGH), index >> 1)
    angle = jnp.where(index & 1, angle + jnp.uint32(1 << 30), angle)  # a quarter turn, modulo one turn
    # Signed integers, since few processors convert unsigned ones. Half a unit keeps the logarithm finite.
    uniform = ((radius >> 1).astype(jnp.int32).astype(jnp.float32) + 0.5) * 2.0**-31
    half_turns = jax.lax.bitcast_convert_type(angle, jnp.int32).astype(jnp.float32) * 2.0**-31
    y = 0.5 - jnp.abs(half_turns)  # cos(pi t) = sin(pi y) needs one polynomial and no cases
    sine = y * jnp.polyval(jnp.float32(SINE[::-1]), y * y, unroll=len(SINE))
    return (jnp.sqrt(-2.0 * jnp.log(uniform)) * sine).reshape(shape)


def box_muller_apart(words: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Do the same in a loop of one turn, whose end the compiler cannot foresee.

    On a CPU the compiler would otherwise draw the noise within whatever consumes it, several times
    over and, next to a stack or concatenate, without vector instructions: 20 ns a number in place of 3.
    """
    end = words[0] | 1
    start = (jnp.zeros_like(end), jnp.zeros(shape, jnp.float32))
    return jax.lax.while_loop(lambda c: c[0] < end, lambda c: (end, box_muller(words, shape)), start)[1]


@partial(jax.jit, static_argnames="shape")
def fast_normal(words: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.lax.platform_dependent(
        words, cpu=partial(box_muller_apart, shape=shape), default=partial(box_muller, shape=shape)
    )


def normal(key: jax.Array, shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> jax.Array:
    r"""Draw standard normals, as :func:`jax.random.normal` does, in about a third of its time.

    .. math:: \epsilon_{2i} = \sqrt{-2 \log u_i} \cos 2\pi v_i, \quad
              \epsilon_{2i+1} = -\sqrt{-2 \log u_i} \sin 2\pi v_i

    (Box and Muller 1958), where the words :math:`(u_i, v_i)` are block i of Threefry-2x32 with 20 rounds
    (Salmon et al. 2011): the generator of JAX, under the same key, at counters that JAX does not use.
    A shorter draw is the beginning of a longer one from the same key.

    Only float32 from threefry keys is drawn this way; any other type, kind of key, or a size beyond
    :math:`2^{32}` is left to :func:`jax.random.normal`.

    Parameters
    ----------
    key
        One typed key, ``jax.random.key(seed)``.
    shape
        Shape of the result.
    dtype
        A floating-point type.

    Returns
    -------
    jax.Array
        Normals of the given shape, none beyond 6.67 in size: a chance of 3e-11 each.

    Raises
    ------
    TypeError
        If the key is not a typed key, or the shape is a number.
    ValueError
        If the key is an array of keys.

    Examples
    --------
    >>> import jax
    >>> normal(jax.random.key(0), (2, 3)).shape
    (2, 3)
    """
    if check_key(key).ndim:
        raise ValueError(f"key: expected one key, got an array of keys of shape {key.shape}; use jax.vmap.")
    shape = tuple(shape)
    threefry_key = jax.random.key_impl(key) == "threefry2x32"
    if threefry_key and jnp.dtype(dtype) == jnp.float32 and math.prod(shape) <= 2**32:
        return fast_normal(jax.random.key_data(key), shape)
    return jax.random.normal(key, shape, dtype)


@lru_cache(maxsize=8)
def sobol(size: int, dimensions: int) -> np.ndarray:
    """The first points of Sobol's sequence (with the directions of Joe and Kuo 2008), as words of 32 bits."""
    from scipy.stats import qmc  # half a second, where it is needed

    points = qmc.Sobol(dimensions, scramble=False, bits=32).random_base2(max(size - 1, 1).bit_length())
    return (points[:size] * 2.0**32).astype(np.uint32)


def even_normal(key: jax.Array, size: int, shape: tuple[int, ...]) -> jax.Array:
    """Draw standard normals whose rows fill their space evenly, (size, *shape).

    Quasi-Monte Carlo, randomized: each row is normal, but all are Sobol's points, the bits of each coordinate
    flipped by a random word. The error of a mean of a smooth function falls nearly as 1 / size.

    Examples
    --------
    >>> rows = even_normal(jax.random.key(0), 4096, (2,))
    >>> bool(jnp.all(jnp.abs((rows[:, 0] * rows[:, 1]).mean()) < 2e-3))  # independent ones leave 2e-2
    True
    """
    points = sobol(size, math.prod(shape))
    words = points ^ jax.random.bits(key, points.shape[1:], jnp.uint32)
    uniform = ((words >> 9).astype(jnp.float32) + 0.5) * 2.0**-23
    return ndtri(uniform).reshape(size, *shape)


def row_numbers(key: jax.Array, shape: tuple[int, ...], size: Any) -> jax.Array:
    """Draw numbers of rows, of ``size`` of them, with replacement.

    Quicker to compile than :func:`jax.random.randint`; the first rows are likelier, by less than one part in
    2^32 / size.
    """
    return jax.random.bits(key, shape) % jnp.asarray(size, jnp.uint32)


def draw_rows(key: jax.Array, tree: Any, count: int) -> Any:
    """Draw so many rows of all arrays of a tree, the same of each, with replacement."""
    index = row_numbers(key, (count,), jax.tree.leaves(tree)[0].shape[0])
    return jax.tree.map(lambda leaf: leaf[index], tree)
