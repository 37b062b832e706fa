"""Sums of centered scores against a loop over the data, with noise drawn by the documented keys."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax.tree_util import Partial

from himlib import Data, HierarchicalImplicitModel
from himlib.many_data._sums import BLOCK, SPREAD, Chunks, Equation
from himlib.models import prior_terms
from himlib.random import normal

pytestmark = pytest.mark.usefixtures("quick_compilation")
MODEL = HierarchicalImplicitModel(
    {"a": dist.Normal(0.5, 2.0), "b": dist.LogNormal(0.0, 0.5)},
    generate=lambda noise, beta, c: (None, beta["a"] * c + beta["b"] * noise),
    noise_shape=(),
)
SCALE = np.array([0.5, 0.2])
U = np.array([0.3, -0.1])
KEY = jax.random.key(7)


def log_ratio(x, z, beta, c):
    return jnp.tanh(x - beta["a"]) * c - jnp.square(x - c) / beta["b"]


def data_of(size):
    rng = np.random.default_rng(size)
    return Data(np.float32(rng.normal(size=size)), np.float32(rng.normal(size=size)))


def equation(data, pairs=1, centered=True, chunk_size=1000, **options):
    chunks = Chunks(MODEL, data, None, chunk_size, None)
    settings = {"model": MODEL, "pairs": pairs, "centered": centered, "sharding": None}
    return Equation(KEY, Partial(log_ratio), chunks, SCALE, options.get("curvature_chunks", 1), **settings)


@jax.jit
def slope(u, x, c):
    return jax.grad(lambda u: log_ratio(x, None, MODEL.space.constrain(u), c))(u)


def by_hand(data, u, chunk, pairs, centered):
    """The centered score of each datum, one at a time."""
    size = len(data.x)
    blocks = max(-(-size // BLOCK), min(SPREAD, size))
    block = -(-size // blocks)
    key = jax.random.fold_in(jax.random.split(KEY)[0], chunk)

    u, scores = jnp.float32(u), []
    beta = MODEL.space.constrain(u)
    noises = [normal(jax.random.fold_in(key, b), (pairs, block)) for b in range(blocks)]
    for n in range(size):
        c = data.covariate[n]
        score = np.float64(slope(u, data.x[n], c))
        if centered:
            draws = noises[n // block][:, n % block]
            simulated = [MODEL.generate(s * e, beta, c)[1] for e in draws for s in (1, -1)]
            score = score - np.mean([slope(u, x, c) for x in simulated], axis=0)
        scores.append(score * SCALE)
    return np.array(scores)


@pytest.mark.parametrize("pairs, centered", [(1, True), (2, True), (1, False)])
def test_sums_against_a_loop(pairs, centered):
    data = data_of(37)  # sixteen blocks of three: eleven rows of padding
    whole = equation(data, pairs, centered)
    found, outer = whole.sums(U, 0, whole.load(0))
    expected = by_hand(data, U, 0, pairs, centered)
    assert found.shape == (SPREAD, 2)
    np.testing.assert_allclose(found.sum(0), expected.sum(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[1], expected[3:6].sum(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[13:], 0, atol=1e-12)  # padding only
    np.testing.assert_allclose(outer, expected.T @ expected, rtol=1e-4, atol=1e-4)


def test_noise_differs_from_chunk_to_chunk_and_stays_from_pass_to_pass():
    data = data_of(40)
    parts = equation(data, chunk_size=20)
    first, second = (parts.sums(U, i, parts.load(0))[0] for i in (0, 1))
    assert np.abs(first - second).max() > 0.01
    np.testing.assert_array_equal(first, parts.sums(U, 0, parts.load(0))[0])
    half = Data(data.x[:20], data.covariate[:20])
    np.testing.assert_allclose(second.sum(0), by_hand(half, U, 1, 1, True).sum(0), rtol=1e-4, atol=1e-4)


def test_a_pass_adds_its_chunks():
    data = data_of(50)
    parts = equation(data, chunk_size=20)
    assert parts.load.count == 3
    score, information, curvature, size, *_ = parts.run(U, 3, progress=False)
    assert size == 50
    sums = [parts.sums(U, i, parts.load(i)) for i in range(3)]
    np.testing.assert_allclose(score, sum(part.sum(0) for part, _ in sums))
    np.testing.assert_allclose(information, sum(outer for _, outer in sums) - np.outer(score, score) / 50)
    np.testing.assert_allclose(curvature, 2.5 * parts.differences(U, 0, parts.load(0)))


def test_differences_are_the_derivative_under_the_same_noise():
    data = data_of(30)
    one = equation(data)
    found = one.differences(U, 0, one.load(0))
    for j, step in enumerate(0.05 * np.diag(SCALE)):
        ends = [by_hand(data, U + sign * step, 0, 1, True).sum(0) for sign in (-1, 1)]
        np.testing.assert_allclose(found[:, j], (ends[0] - ends[1]) / 0.1, rtol=2e-2, atol=0.02)


def test_prior_terms():
    gradient, precision = prior_terms(jnp.float32(U), jnp.float32(SCALE), model=MODEL)
    np.testing.assert_allclose(gradient, SCALE * [(0.5 - 0.3) / 4, 0.1 / 0.25], rtol=1e-5)  # log b is normal
    np.testing.assert_allclose(precision, np.diag(SCALE**2 * [1 / 4, 1 / 0.25]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "prior",
    [
        dist.Normal(0.0, 1.0),
        dist.Normal(jnp.zeros(2), 3.0).to_event(1),
        dist.Normal(np.zeros(2), np.full(2, 3.0)).to_event(1),
        dist.Uniform(np.zeros(2), np.array([1.0, 2.0])).to_event(1),
        dist.MultivariateNormal(np.zeros(2), np.array([[2.0, 1.0], [1.0, 3.0]])),
        dist.Dirichlet(np.ones(3) * 2),
        {"a": dist.Gamma(2.0, np.ones(2) * 0.5).to_event(1), "b": dist.HalfCauchy(1.0)},
    ],
    ids=lambda prior: type(prior).__name__,
)
def test_prior_terms_after_a_use_in_single_precision(prior):
    """JAX remembers an array of NumPy in the precision in which it was used first."""
    model = HierarchicalImplicitModel(prior, generate=lambda e, b, c: (None, e), noise_shape=())
    space = model.space

    def log_prior(u):
        return model.log_prior(space.constrain(u)) + space.log_jacobian(u)

    u = space.frame.location + 0.3 * space.frame.scale
    jax.jit(log_prior)(u)
    gradient, precision = prior_terms(u, np.ones_like(u), model=model)
    assert gradient.dtype == precision.dtype == np.float64
    np.testing.assert_allclose(gradient, jax.grad(log_prior)(u), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(precision, -jax.hessian(log_prior)(u), rtol=1e-4, atol=1e-5)


def test_noise_of_a_score_is_that_of_repeated_simulation():
    """Over three hundred keys, so that a wrong factor of two or of its root would show."""
    data = data_of(64)
    chunks = Chunks(MODEL, data, None, 1000, None)
    settings = {"model": MODEL, "centered": True, "sharding": None}
    scores, told = [], []
    for seed in range(300):
        key = jax.random.key(seed)
        one = Equation(key, Partial(log_ratio), chunks, SCALE, 1, 1, **settings)
        score, *_, noise, _ = one.run(U, 1, progress=False)
        scores.append(score)
        told.append(noise)
    ratio = np.diag(np.mean(told, axis=0)) / np.var(scores, axis=0, ddof=1)
    # The variance of 300 keys errs by sqrt(2 / 299), that of 16 blocks for each by a quarter as much.
    assert np.abs(ratio - 1).max() < 4.5 * np.sqrt(2 / 299 * (1 + 1 / 16))


@pytest.mark.parametrize("size", [3, 40])
def test_information_and_curvature_of_data_that_the_model_makes(size):
    """For a score they are the same (Bartlett): here x is normal, with mean a c and log sd log b."""
    data = data_of(size)
    chunks = Chunks(MODEL, data, None, 1000, None)
    settings = {"model": MODEL, "centered": True, "sharding": None}

    def log_density(x, z, beta, c):
        return dist.Normal(beta["a"] * c, beta["b"]).log_prob(x)

    one = Equation(KEY, Partial(log_density), chunks, SCALE, 1, 1, **settings)
    found = one.expected(U, size)
    squares = np.sum(np.float64(data.covariate) ** 2)
    expected = np.diag(SCALE**2 * [squares * np.exp(-2 * U[1]), 2 * size])
    error = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    for matrix in found:
        assert np.max(np.abs(matrix - expected) / error) < 0.1  # 4.5 standard errors of z^4


def test_blocks_hold_no_more_simulations_where_pairs_are_many():
    chunks = Chunks(MODEL, data_of(9000), None, 10_000, None)
    for pairs, blocks in ((1, SPREAD), (8, SPREAD), (64, 116)):
        chunks.cut(pairs)
        assert chunks.blocks == blocks and chunks.blocks * chunks.block >= 9000
        assert chunks.block * pairs <= BLOCK
    chunks = Chunks(MODEL, data_of(200_000), None, 200_000, None)
    chunks.cut(64)
    assert len(chunks.few) < chunks.blocks / 2  # derivatives are measured on some of them
    rows, index = np.arange(3), np.arange(chunks.blocks)
    some = chunks.some((rows, (index, {"x": 2 * index})))
    assert some[0] is rows
    np.testing.assert_array_equal(some[1][0], chunks.few)
    np.testing.assert_array_equal(some[1][1]["x"], 2 * chunks.few)
