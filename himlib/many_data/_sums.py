"""What :func:`~himlib.many_data.solve_score` sums: blocks of a core's cache, chunks of flat memory."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from himlib._checks import check_counts
from himlib.base import Data, check_data
from himlib.random import even_normal, normal

BLOCK = 5000  # data whose scores are in memory, and in a core's cache, at once
SPREAD = 16  # blocks at least, from which the noise of a chunk is judged
MOST = 64  # numbers in a datum's noise, where a block fills their space evenly
ENOUGH = 20_000  # data on which derivatives and noise are measured at least, where there are many pairs
STEP = 0.05  # of the differences, in scales of the frame
LIKE = 40, 500  # blocks and rows that the model makes, to tell how the scores of few data vary


def independent_normal(key, size, shape):
    return normal(key, (size, *shape))


@partial(
    jax.jit,
    static_argnames=("model", "impl", "pairs", "even", "centered", "twins", "against", "at_once", "sharding"),
)
def block_sums(
    log_ratio, u, scale, key, chunk, rows, blocks, *,
    model, impl, pairs, even, centered, sharding, twins=True, against=False, at_once=None,
):  # fmt: skip
    """Sums of the centered scores, per scale of u, and of their outer products over each block of a chunk.

    Or, ``against``, of the simulated expectations under two keys, the second less the first.
    """
    space = model.space

    def one_block(log_ratio, u, scale, key, chunk, rows, block):
        index, data = block
        size = len(jax.tree.leaves(data)[0])
        beta = space.constrain(u)
        x = jax.tree.map(lambda leaf: leaf[None], data.x)
        weight = jnp.ones(1)
        if centered:
            generate = jax.vmap(jax.vmap(model.generate, (0, None, 0)), (0, None, None))

            def simulated(key):
                k_chunk = jax.random.fold_in(jax.random.wrap_key_data(key, impl=impl), chunk)
                draw = even_normal if even else independent_normal
                noise = draw(jax.random.fold_in(k_chunk, index), pairs * size, model.noise_shape)
                noise = noise.reshape(pairs, size, *model.noise_shape)
                noise = jnp.concatenate([noise, -noise]) if twins else noise
                return generate(noise, beta, data.covariate)[1]

            first = simulated(key[0])
            mean = jnp.full(len(jax.tree.leaves(first)[0]), 1 / len(jax.tree.leaves(first)[0]))
            x, weight = (simulated(key[1]), mean) if against else (x, weight)
            x = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), x, first)
            weight = jnp.append(weight, -mean)

        def contrast(v, x, covariate):  # one pass backward for observed and simulated x together
            r = jax.vmap(log_ratio, (0, None, None, None))(x, None, space.constrain(u + scale * v), covariate)
            return jnp.matmul(weight, r, precision="float32")  # on some GPUs the default has three digits

        score = jax.vmap(jax.grad(contrast), (None, 1, 0))(jnp.zeros_like(u), x, data.covariate)
        score = jnp.where((index * size + jnp.arange(size) < rows)[:, None], score, 0.0)
        return score.sum(0), jnp.matmul(score.T, score, precision="float32")

    def all_blocks(*arguments):
        *shared, blocks = arguments
        return jax.lax.map(partial(one_block, *shared), blocks, batch_size=at_once)

    shared = (log_ratio, u, scale, key, chunk, rows)
    if sharding is None:
        return all_blocks(*shared, blocks)
    everywhere, apart = PartitionSpec(), sharding.spec
    specs = (*(everywhere,) * len(shared), apart)
    total = jax.shard_map(
        all_blocks, mesh=sharding.mesh, in_specs=specs, out_specs=apart, check_vma=False
    )(*shared, blocks)  # fmt: skip
    return jax.lax.with_sharding_constraint(total, NamedSharding(sharding.mesh, everywhere))


@partial(jax.jit, static_argnames="model")
def simulated_like(key, u, covariate, *, model):
    """Data that the model makes at u, block by block."""
    beta = model.space.constrain(u)

    def block(row):
        noise = normal(row[0], (LIKE[1], *model.noise_shape))
        return jax.vmap(model.generate, (0, None, 0))(noise, beta, row[1])[1]

    return jax.lax.map(block, (jax.random.split(key, LIKE[0]), covariate))


class Chunks:
    """The data, chunk by chunk: padded to one shape, cut into blocks, and laid out over devices."""

    def __init__(self, model, data, chunks, chunk_size, sharding):
        if callable(data):
            check_counts(chunks=chunks)
            self.load, self.count = data, chunks
        elif chunks is not None:
            raise ValueError("chunks: only for data that are a function of the chunk; use chunk_size.")
        else:
            check_data(data, None)
            arrays = jax.tree.map(np.asarray, data)
            self.count = -(-len(jax.tree.leaves(arrays)[0]) // chunk_size)
            self.load = lambda i: jax.tree.map(lambda a: a[i * chunk_size : (i + 1) * chunk_size], arrays)
        first = self.load(0)
        check_data(first, None)
        self.example = jax.tree.map(lambda leaf: jnp.asarray(leaf[:1]), first)
        self.capacity = len(jax.tree.leaves(first)[0])
        self.sharding = sharding

    def cut(self, pairs):
        """Choose blocks that hold no more simulations with so many pairs than they would with one.

        With many pairs, fewer of the blocks than all are enough for derivatives and noise.
        """
        self.blocks = max(-(-self.capacity * pairs // BLOCK), min(SPREAD, self.capacity))
        self.block = -(-self.capacity // self.blocks)
        devices = 1 if self.sharding is None else self.sharding.mesh.size
        self.blocks += -self.blocks % devices
        few = max(-(-self.blocks // pairs), -(-ENOUGH // self.block), SPREAD)
        few = min(few + -few % devices, self.blocks)
        self.few = np.arange(few) * self.blocks // few

    def some(self, chunk: tuple) -> tuple:
        """Those blocks of a chunk on which derivatives and noise are measured, from first to last."""
        if len(self.few) == self.blocks:
            return chunk
        rows, (index, data) = chunk
        blocks = jax.tree.map(lambda leaf: self._place(np.asarray(leaf)[self.few]), (index, data))
        return rows, blocks

    def told(self, rows: int) -> int:
        """How many of a chunk's data these blocks hold."""
        return int(np.clip(rows - self.few * self.block, 0, self.block).sum())

    def _place(self, leaf):
        if self.sharding is None:
            return leaf
        return jax.make_array_from_callback(leaf.shape, self.sharding, lambda index: leaf[index])

    def __call__(self, i: int) -> tuple[int, tuple]:
        data = self.load(i)
        rows = len(jax.tree.leaves(data)[0])
        if rows > self.capacity:
            raise ValueError(f"data: chunk {i} has {rows} data, more than the first, {self.capacity}.")

        def lay_out(leaf):
            missing = self.blocks * self.block - rows
            leaf = np.asarray(leaf)
            leaf = leaf.astype(jax.dtypes.canonicalize_dtype(leaf.dtype), copy=False)
            leaf = np.concatenate([leaf, np.broadcast_to(leaf[:1], (missing, *leaf.shape[1:]))])
            return self._place(leaf.reshape(self.blocks, self.block, *leaf.shape[1:]))

        return rows, (self._place(np.arange(self.blocks)), jax.tree.map(lay_out, data))


def canonical(u: jax.Array | np.ndarray) -> np.ndarray:
    """Round to what the devices compute with, and return to double precision."""
    return np.asarray(jnp.asarray(u), np.float64)


class Equation:
    """The centered score of all data and what it depends on, in units of the frame and double precision."""

    def __init__(self, key, log_ratio, load, scale, curvature_chunks, pairs, **options):
        # Arrays on no device yet, so that they may go to all of them.
        self.keys = np.asarray(jax.random.key_data(jax.random.split(key)))
        self.log_ratio = jax.tree.map(np.asarray, log_ratio)
        self.load, self.scale, self.curvature_chunks = load, scale, curvature_chunks
        sharding = options["sharding"]
        devices = jnp.zeros(()).devices() if sharding is None else sharding.device_set
        # A core wants one block at a time in its cache, an accelerator many blocks at once.
        at_once = None if next(iter(devices)).platform == "cpu" else 64
        self.options = {"impl": str(jax.random.key_impl(key)), "at_once": at_once, "even": False, **options}
        self.set_pairs(pairs)

    def set_pairs(self, pairs):
        """Take so many antithetic pairs per datum from now on."""
        self.options["pairs"] = pairs
        self.load.cut(pairs)

    def even_out(self) -> bool:
        """Let noise fill its space evenly from now on, if it does not yet and is not too long; tell so."""
        change = not self.options["even"] and math.prod(self.options["model"].noise_shape) <= MOST
        self.options["even"] |= change
        return change

    def sums(self, u, i, chunk, **options):
        """Scores summed over each block of chunk i, and the sum of all their outer products."""
        scale = canonical(self.scale)
        found = block_sums(self.log_ratio, u, scale, self.keys, i, *chunk, **self.options | options)
        score, outer = (np.asarray(part, np.float64) for part in found)
        return score, outer.sum(0)

    def differences(self, u, i, chunk, **options):
        """Minus the derivative of chunk i's score, by central differences under the same noise."""
        columns = []
        for j, shift in enumerate(STEP * np.diag(self.scale)):
            above, below = canonical(u + shift), canonical(u - shift)
            falls = (self.sums(end, i, chunk, **options)[0].sum(0) for end in (below, above))
            columns.append(np.subtract(*falls) * self.scale[j] / (above - below)[j])
        return np.stack(columns, axis=1)

    def run(self, u, count, progress):
        """Go once over so many chunks: score, information, curvature, number of data, noise, and spread.

        The noise is the covariance of the score over repeated simulation, from the blocks of one chunk. The
        spread is the sum of such covariances of each datum, larger where noise fills its space evenly.
        """
        centered = self.options["centered"]
        score = outer = curvature = size = few = 0
        for i in tqdm(range(count), disable=not progress, desc=f"Newton, {count} chunks", leave=False):
            chunk = self.load(i)
            part, square = self.sums(u, i, chunk)
            score, outer, size = score + part.sum(0), outer + square, size + chunk[0]
            if i < max(1, self.curvature_chunks):
                some = self.load.some(chunk)
            if i == 0:
                change, square = self.sums(u, 0, some, against=True) if centered else (0 * part, 0 * outer)
                noise, spread = (what / 2 / self.load.told(chunk[0]) for what in (change.T @ change, square))
            if i < self.curvature_chunks:
                few, curvature = few + self.load.told(chunk[0]), curvature + self.differences(u, i, some)
        return (
            score,
            outer - np.outer(score, score) / size,
            curvature * size / few,
            size,
            noise * size,
            spread * size,
        )

    def expected(self, u, size):
        """Information and curvature of so many data that the model makes at u, with the data's covariates.

        An observation less another one scatters twice as much as one alone, and neither is averaged: nothing
        has to be known of the simulated noise.
        """
        covariate = self.load.load(0).covariate  # again and again
        covariate = jax.tree.map(lambda leaf: np.resize(leaf, (*LIKE, *np.shape(leaf)[1:])), covariate)
        key = jax.random.wrap_key_data(self.keys[1], impl=self.options["impl"])
        x = simulated_like(key, canonical(u), covariate, model=self.options["model"])
        chunk = math.prod(LIKE), (np.arange(LIKE[0]), Data(x, covariate))
        options = {"pairs": 1, "even": False, "twins": False, "sharding": None}
        _, outer = self.sums(u, 0, chunk, **options)
        share = size / math.prod(LIKE)
        return share * outer / 2, share * self.differences(u, 0, chunk, **options)
