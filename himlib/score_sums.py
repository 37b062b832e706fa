"""What :mod:`himlib.centered_score` sums: scores in blocks of a core's cache, chunks of flat memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from himlib.algorithm import Data
from himlib.checks import check_counts, check_data, check_shapes
from himlib.random import normal

BLOCK = 5000  # data whose scores are in memory, and in a core's cache, at once
SPREAD = 16  # blocks at least, from which the noise of a chunk is judged
STEP = 0.05  # of the differences, in scales of the frame


@partial(jax.jit, static_argnames=("target", "impl", "pairs", "centered", "sharding"))
def block_sums(log_ratio, u, key, chunk, rows, data, *, target, impl, pairs, centered, sharding):
    """Sums of the centered scores and of their outer products over each block of a chunk."""
    model, space = target.value, target.space

    def one_block(log_ratio, u, key, chunk, rows, block):
        index, data = block
        size = len(jax.tree.leaves(data)[0])
        beta = space.constrain(u)
        x = jax.tree.map(lambda leaf: leaf[None], data.x)
        weight = jnp.ones(1)
        if centered:
            k_chunk = jax.random.fold_in(jax.random.wrap_key_data(key, impl=impl), chunk)
            noise = normal(jax.random.fold_in(k_chunk, index), (pairs, size, *model.noise_shape))
            generate = jax.vmap(jax.vmap(model.generate, (0, None, 0)), (0, None, None))
            _, simulated = generate(jnp.concatenate([noise, -noise]), beta, data.covariate)
            x = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), x, simulated)
            weight = jnp.append(weight, jnp.full(2 * pairs, -0.5 / pairs))

        def contrast(u, x, covariate):  # one pass backward for observed and simulated x together
            r = jax.vmap(log_ratio, (0, None, None, None))(x, None, space.constrain(u), covariate)
            return weight @ r

        score = jax.vmap(jax.grad(contrast), (None, 1, 0))(u, x, data.covariate)
        score = jnp.where((index * size + jnp.arange(size) < rows)[:, None], score, 0.0)
        return score.sum(0), score.T @ score

    def all_blocks(*arguments):
        *shared, blocks = arguments
        # A core wants one block at a time in its cache, an accelerator many blocks at once.
        at_once = None if jax.default_backend() == "cpu" else 64
        return jax.lax.map(lambda block: one_block(*shared, block), blocks, batch_size=at_once)

    blocks = jnp.arange(len(jax.tree.leaves(data)[0])), data
    shared = (log_ratio, u, key, chunk, rows)
    if sharding is None:
        return all_blocks(*shared, blocks)
    everywhere, apart = PartitionSpec(), sharding.spec
    specs = (*(everywhere,) * len(shared), apart)
    total = jax.shard_map(
        all_blocks, mesh=sharding.mesh, in_specs=specs, out_specs=apart, check_vma=False
    )(*shared, blocks)  # fmt: skip
    return jax.lax.with_sharding_constraint(total, NamedSharding(sharding.mesh, everywhere))


@partial(jax.jit, static_argnames="target")
def prior_terms(u, *, target):
    """Gradient of the prior's log density in unconstrained coordinates, and minus its Hessian."""

    def log_prior(u):
        return target.value.log_prior(target.space.constrain(u)) + target.space.log_jacobian(u)

    return jax.grad(log_prior)(u), -jax.hessian(log_prior)(u)


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
        check_shapes(model, self.example)
        self.capacity = len(jax.tree.leaves(first)[0])
        self.blocks = max(-(-self.capacity // BLOCK), min(SPREAD, self.capacity))
        self.block = -(-self.capacity // self.blocks)
        self.sharding = sharding
        if sharding is not None:
            self.blocks += -self.blocks % sharding.mesh.size

    def __call__(self, i: int) -> tuple[int, Data]:
        data = self.load(i)
        rows = len(jax.tree.leaves(data)[0])
        if rows > self.capacity:
            raise ValueError(f"data: chunk {i} has {rows} data, more than the first, {self.capacity}.")

        def lay_out(leaf):
            missing = self.blocks * self.block - rows
            leaf = np.asarray(leaf)
            leaf = leaf.astype(jax.dtypes.canonicalize_dtype(leaf.dtype), copy=False)
            leaf = np.concatenate([leaf, np.broadcast_to(leaf[:1], (missing, *leaf.shape[1:]))])
            leaf = leaf.reshape(self.blocks, self.block, *leaf.shape[1:])
            if self.sharding is None:
                return leaf
            return jax.make_array_from_callback(leaf.shape, self.sharding, lambda index: leaf[index])

        return rows, jax.tree.map(lay_out, data)


def canonical(u: np.ndarray) -> np.ndarray:
    """Round to what the devices compute with, and return to double precision."""
    return np.asarray(jnp.asarray(u), np.float64)


class Equation:
    """The centered score of all data and what it depends on, in units of the frame and double precision."""

    def __init__(self, key, log_ratio, load, scale, curvature_chunks, **options):
        # Arrays on no device yet, so that they may go to all of them.
        self.keys = np.asarray(jax.random.key_data(jax.random.split(key)))
        self.log_ratio = jax.tree.map(np.asarray, log_ratio)
        self.load, self.scale, self.curvature_chunks = load, scale, curvature_chunks
        self.options = {"impl": str(jax.random.key_impl(key)), **options}

    def sums(self, u, i, chunk, key=0):
        """Scores summed over each block of chunk i, and the sum of all their outer products."""
        found = block_sums(self.log_ratio, u, self.keys[key], i, *chunk, **self.options)
        score, outer = (np.asarray(part, np.float64) for part in found)
        return score * self.scale, outer.sum(0) * self.scale * self.scale[:, None]

    def differences(self, u, i, chunk):
        """Minus the derivative of chunk i's score, by central differences under the same noise."""
        columns = []
        for j, shift in enumerate(STEP * np.diag(self.scale)):
            above, below = canonical(u + shift), canonical(u - shift)
            falls = (self.sums(end, i, chunk)[0].sum(0) for end in (below, above))
            columns.append(np.subtract(*falls) * self.scale[j] / (above - below)[j])
        return np.stack(columns, axis=1)

    def run(self, u, count, progress):
        """Go once over so many chunks: score, information, curvature, and number of data."""
        score = outer = curvature = size = 0
        for i in tqdm(range(count), disable=not progress, desc=f"Newton, {count} chunks", leave=False):
            chunk = self.load(i)
            part, square = self.sums(u, i, chunk)
            score, outer, size = score + part.sum(0), outer + square, size + chunk[0]
            if i < self.curvature_chunks:
                few, curvature = size, curvature + self.differences(u, i, chunk)
        return score, outer - np.outer(score, score) / size, curvature * size / few, size

    def noise(self, u, size):
        """Covariance of the score of all data over repeated simulation, from the blocks of one chunk."""
        chunk = self.load(0)
        change = self.sums(u, 0, chunk)[0] - self.sums(u, 0, chunk, key=1)[0]
        return change.T @ change / 2 * size / chunk[0]
