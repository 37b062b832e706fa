"""The networks: pure functions equal to the flax modules behind them, and the identities of their parts."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats
from toys import within

from himlib import MLP, Network, pure, ratio_network
from himlib.networks import NoisyDense, Standardize, StochasticCell
from himlib.random import normal

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(3)
SIZE = 16


def build(rngs, batch):
    return MLP((batch.shape[-1], 8, 2), rngs=rngs)


def draw(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(3, 2, (SIZE, *shape)).astype("float32") for shape in shapes]


# x, z, beta, covariate and center, of several shapes.
BATCH = [*draw((2,), (), (3,), (1,)), np.full((SIZE, 3), 2.5, "float32")]
ROW = [leaf[5] for leaf in BATCH]


def perturbed(params):
    """Parameters moved off their start, where the last layer is near zero; the moments stay."""
    rng = np.random.default_rng(7)

    def move(path, leaf):
        moved = leaf + 0.3 * rng.normal(size=leaf.shape).astype("float32")
        return leaf if "standardize" in jax.tree_util.keystr(path) else moved

    return jax.tree.map_with_path(move, params)


class Compiled(NamedTuple):
    """A ratio network with its first parameters, others, and compiled calls."""

    network: Network
    start: dict
    params: dict
    apply: Callable
    rows: Callable


def compiled(*args, **options):
    network = ratio_network(*args, **options)
    start = jax.jit(network.init)(KEY, *BATCH)
    rows = jax.jit(jax.vmap(network.apply, (None, 0, 0, 0, 0, 0)))
    return Compiled(network, start, perturbed(start), jax.jit(network.apply), rows)


@pytest.fixture(scope="module")
def plain():
    return compiled(hidden=(8,))


@pytest.fixture(scope="module")
def baselined():
    return compiled(hidden=(8,), baseline=True)


@pytest.fixture(params=["plain", "baselined"])
def ratio(request):
    return request.getfixturevalue(request.param)


def test_pure_is_the_flax_module_itself():
    x = BATCH[0]
    network, module = pure(build), build(nnx.Rngs(KEY), x)
    params = network.init(KEY, x)
    jax.tree.map(np.testing.assert_array_equal, params, nnx.to_pure_dict(nnx.state(module)))
    np.testing.assert_array_equal(network.apply(params, x[5]), module(x[5]))
    other = jax.tree.map(lambda leaf: leaf + 1, params)  # apply uses the parameters it is given
    assert not np.allclose(network.apply(other, x[5]), module(x[5]))
    again, third = network.init(KEY, x), network.init(jax.random.key(4), x)
    jax.tree.map(np.testing.assert_array_equal, params, again)
    assert not np.allclose(jax.tree.leaves(params)[1], jax.tree.leaves(third)[1])


def test_parameters_are_a_plain_tree_of_arrays(ratio):
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(ratio.start))
    assert all(isinstance(path[0].key, str) for path, _ in jax.tree.leaves_with_path(ratio.start))


def test_same_under_jit_and_vmap(ratio):
    eager, rows = ratio.network.apply(ratio.params, *ROW), ratio.rows(ratio.params, *BATCH)
    assert rows.shape == (SIZE,) and rows.std() > 0
    np.testing.assert_allclose(eager, rows[5], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ratio.apply(ratio.params, *ROW), rows[5], rtol=1e-5, atol=1e-5)


def test_mlp_is_a_chain_of_affine_maps():
    layers = MLP((3, 5, 2), rngs=nnx.Rngs(0), activation=jnp.tanh)
    x, (first, last) = np.array([0.3, -1.0, 2.0], "float32"), layers.layers
    hidden = np.tanh(x @ np.asarray(first.kernel[...]) + np.asarray(first.bias[...]))
    expected = hidden @ np.asarray(last.kernel[...]) + np.asarray(last.bias[...])
    np.testing.assert_allclose(layers(x), expected, rtol=1e-5)


@pytest.mark.parametrize("last_scale", [0.01, 1.0])
def test_mlp_weights_keep_the_variance_and_the_last_layer_is_scaled(last_scale):
    first, last = MLP((400, 500, 200), rngs=nnx.Rngs(1), last_scale=last_scale).layers
    for layer, scale in ((first, 1.0), (last, last_scale)):
        weights = np.asarray(layer.kernel[...])
        weights = weights * np.sqrt(len(weights)) / scale
        assert abs(weights.mean()) < 4.5 / np.sqrt(weights.size)
        assert abs(weights.var() - 1) < 4.5 * np.sqrt(2 / weights.size)
        assert not np.asarray(layer.bias[...]).any()


def test_standardize_gives_mean_zero_and_sd_one():
    x = BATCH[0].copy()
    x[:, 1] = 7  # a constant column is shifted only
    values = jax.vmap(Standardize(jnp.asarray(x)))(x)
    np.testing.assert_allclose(values.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(values.std(0), [1, 0], rtol=1e-5, atol=1e-6)


def test_moments_are_not_trained(ratio):
    gradient = jax.jit(jax.grad(ratio.network.apply))(ratio.params, *ROW)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.any(leaf != 0) != ("standardize" in jax.tree_util.keystr(path)), path


def test_ratio_starts_near_zero_and_without_its_quadratic_form(plain):
    assert not plain.start["head"]["quadratic"].any()
    assert np.abs(plain.rows(plain.start, *BATCH)).max() < 0.2
    without = compiled(hidden=(8,), quadratic=False)
    assert "quadratic" not in without.start["head"]
    np.testing.assert_allclose(
        without.rows(without.start, *BATCH), plain.rows(plain.start, *BATCH), rtol=1e-5, atol=1e-6
    )


def test_quadratic_form_is_of_the_standardized_features(plain):
    head = plain.params["head"]
    moments = head["standardize"]
    values = (np.concatenate([np.ravel(leaf) for leaf in ROW[:4]]) - moments["shift"]) / moments["scale"]
    zero = {"head": {**head, "quadratic": np.zeros_like(head["quadratic"])}}
    difference = plain.apply(plain.params, *ROW) - plain.apply(zero, *ROW)
    np.testing.assert_allclose(difference, values @ head["quadratic"] @ values, rtol=1e-4)


def test_baseline_is_subtracted_at_the_center(plain, baselined):
    # r = a(x, z, beta) - b(x, z, center): beta changes a alone, and equal parts cancel at the center.
    x, z, beta, covariate, center = ROW

    def head(name, beta):
        return plain.apply({"head": baselined.params[name]}, x, z, beta, covariate, center)

    for value in (beta, center, beta + 1):
        expected = head("head", value) - head("baseline", center)
        r = baselined.apply(baselined.params, x, z, value, covariate, center)
        np.testing.assert_allclose(r, expected, rtol=1e-5, atol=1e-5)
    same = {"head": baselined.params["head"], "baseline": baselined.params["head"]}
    assert abs(baselined.apply(same, x, z, center, covariate, center)) < 1e-5
    assert abs(baselined.apply(same, x, z, beta + 1, covariate, center)) > 0.01


def test_features_see_the_center_and_the_default_does_not(plain):
    residual = compiled(lambda x, z, beta, covariate, center: beta - center, (8,))
    x, z, beta, covariate, center = ROW
    for ratio, sees_center in ((plain, False), (residual, True)):
        moved = ratio.apply(ratio.params, x, z, beta, covariate, center + 1)
        assert bool(moved != ratio.apply(ratio.params, *ROW)) == sees_center
    shifted = residual.apply(residual.params, x, z, beta + 1, covariate, center + 1)
    np.testing.assert_allclose(shifted, residual.apply(residual.params, *ROW), rtol=1e-4)


def test_trees_and_absent_parts():
    beta = {"a": np.linspace(0, 1, 4, dtype="float32"), "b": np.ones((4, 2), "float32")}
    x = (np.linspace(-1, 1, 4, dtype="float32"), np.arange(4, dtype="int32"))  # counts too
    network = ratio_network(hidden=(4,))
    params = jax.jit(network.init)(KEY, x, None, beta, None, beta)
    assert params["head"]["standardize"]["shift"].shape == (5,)
    one = jax.tree.map(lambda leaf: leaf[0], (x, None, beta, None, beta))
    assert jax.jit(network.apply)(params, *one).shape == ()


def test_float64_and_the_gradient_as_a_finite_difference(baselined):
    assert baselined.rows(baselined.params, *BATCH).dtype == np.float32
    x, z, beta, covariate, center = (leaf.astype("float64") for leaf in ROW)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: np.asarray(leaf, "float64"), baselined.params)
        slope = jax.jit(jax.value_and_grad(baselined.network.apply, 3))
        value, gradient = slope(params, x, z, beta, covariate, center)
        assert value.dtype == gradient.dtype == np.float64
        pairs = [
            [slope(params, x, z, beta + sign * step, covariate, center)[0] for sign in (1, -1)]
            for step in 1e-5 * np.eye(3)
        ]
        np.testing.assert_allclose(gradient, -np.diff(pairs)[:, 0] / 2e-5, rtol=1e-6, atol=1e-9)


def noisy(**options):
    """A layer from 3 inputs and 4 noises to 2 outputs, and its weights in numpy."""
    layer = NoisyDense(3, 4, 2, rngs=nnx.Rngs(0), **options)
    layer.bias[...] = jnp.array([0.4, -0.3])
    kernel = np.asarray(layer.kernel[...])
    return layer, kernel[:4], kernel[4:], np.asarray(layer.bias[...])


H = np.array([0.3, -1.0, 2.0], "float32")
NOISE = np.array([0.5, 1.5, -1.0, 0.2], "float32")


def test_noise_before_the_activation_is_concatenated_noise():
    layer, push, weight, bias = noisy()
    signs = set()
    for sign in (1, -1):
        expected = np.concatenate([sign * NOISE, H]) @ np.concatenate([push, weight]) + bias
        np.testing.assert_allclose(layer(sign * NOISE, H), np.maximum(expected, 0), rtol=1e-5, atol=1e-6)
        signs |= set(np.sign(expected))
    assert signs == {-1, 1}


def test_noise_after_the_activation_and_without_one():
    layer, push, weight, bias = noisy(activation=jnp.tanh, additive=True)
    expected = np.tanh(H @ weight + bias) + NOISE @ push
    np.testing.assert_allclose(layer(NOISE, H), expected, rtol=1e-5)
    for additive in (False, True):  # without an activation there is no before and after
        layer, *_ = noisy(activation=None, additive=additive)
        np.testing.assert_allclose(layer(NOISE, H), H @ weight + bias + NOISE @ push, rtol=1e-5)


@pytest.mark.parametrize(
    "options", [{"activation": jnp.tanh, "additive": True}, {"activation": None}], ids=["additive", "linear"]
)
def test_transition_is_normal_where_it_says_so(options):
    layer, push, weight, bias = noisy(**options)
    mean, covariance = layer.transition(H)
    drift = H @ weight + bias
    np.testing.assert_allclose(mean, np.tanh(drift) if "additive" in options else drift, rtol=1e-5)
    np.testing.assert_allclose(covariance, push.T @ push, rtol=1e-5)
    draws = np.asarray(jax.jit(jax.vmap(layer, (0, None)))(normal(KEY, (20_000, 4)), H))
    assert within(draws, mean) and not within(draws, mean + 0.1)
    products = (draws - mean)[:, :, None] * (draws - mean)[:, None, :]
    assert within(products, covariance) and not within(products, 1.1 * covariance)
    for direction in ([1, 0], [0, 1], [0.6, -0.8]):  # all projections of a normal are normal
        along = np.asarray(draws - mean) @ direction
        along = along / np.sqrt(direction @ np.asarray(covariance) @ direction)
        assert stats.kstest(along, "norm").pvalue > 1e-3


def test_transition_through_an_activation_is_not_normal():
    layer, push, *_ = noisy()
    draws = np.asarray(jax.jit(jax.vmap(layer, (0, None)))(normal(KEY, (20_000, 4)), 0 * H))
    # At h = 0 the ReLU cuts a normal N(b, V V^T) off at zero: an atom of known size, and half a normal.
    mean, sd = np.array([0.4, -0.3]), np.linalg.norm(push, axis=0)
    assert within(draws == 0, stats.norm.cdf(-mean / sd))
    for column, center, scale in zip(draws.T, mean, sd, strict=True):
        above = stats.truncnorm(-center / scale, np.inf, center, scale)
        assert stats.kstest(column[column > 0], above.cdf).pvalue > 1e-3
        assert stats.kstest(column, stats.norm(column.mean(), column.std()).cdf).pvalue < 1e-9
    with pytest.raises(ValueError, match="transition: noise that goes through an activation is not normal"):
        layer.transition(H)


def test_noisy_weights_keep_the_variance():
    kernel = np.asarray(NoisyDense(300, 100, 500, rngs=nnx.Rngs(1)).kernel[...]) * np.sqrt(400)
    assert stats.kstest(kernel.ravel(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("name", ["inputs", "noise", "outputs"])
@pytest.mark.parametrize("size", [0, 2.0, (3,)])
def test_sizes_of_a_noisy_layer(name, size):
    sizes = {"inputs": 3, "noise": 4, "outputs": 2, name: size}
    with pytest.raises(ValueError, match=f"{name}: expected a positive integer, got"):
        NoisyDense(**sizes, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module", params=[False, True], ids=["concatenated", "additive"])
def cell(request):
    """A cell of x in R^2, z in R^8 and noises in R^3, with weights off their start, and noises of 5 steps."""

    def build(rngs, z, x, noise):
        return StochasticCell(2, 8, 3, rngs=rngs, additive=request.param)

    network, noise = pure(build), np.asarray(normal(jax.random.key(1), (5, 2, 3)))
    params = network.init(KEY, np.zeros((1, 8)), np.zeros((1, 2)), noise[:1])
    return request.param, network, perturbed(params), noise


def unroll(network, params, noise):
    def step(carry, noise):
        z, x = network.apply(params, *carry, noise)
        return (z, x), (z, x)

    return jax.lax.scan(step, (jnp.zeros(8, noise.dtype), jnp.zeros(2, noise.dtype)), noise)[1]


def numpy_step(params, z, x, noise, additive):
    """z_t = relu(LN(W [e, x, z])), x_t = W_2 relu(LN(W_1 [e', z_t])), or with the noise added at the end."""

    def layer(part, noise, h):
        norm = part["activation"]["layers"][0]
        drift = h @ part["kernel"][3:] + part["bias"] + (0 if additive else noise @ part["kernel"][:3])
        scaled = (drift - drift.mean()) / np.sqrt(drift.var() + 1e-6)
        return np.maximum(scaled * norm["scale"] + norm["bias"], 0) + additive * noise @ part["kernel"][:3]

    z = layer(params["state"], noise[0], np.concatenate([x, z]))
    return z, layer(params["output"], noise[1], z) @ params["last"]["kernel"] + params["last"]["bias"]


def test_cell_is_the_recurrence_of_the_paper(cell):
    additive, network, params, noise = cell
    z_all, x_all = jax.jit(lambda params, noise: unroll(network, params, noise))(params, noise)
    z, x = np.zeros(8), np.zeros(2)
    for epsilon, expected_z, expected_x in zip(noise, z_all, x_all, strict=True):
        z, x = numpy_step(jax.tree.map(np.float64, params), z, x, epsilon, additive)
        np.testing.assert_allclose(z, expected_z, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(x, expected_x, rtol=1e-4, atol=1e-4)
    assert (z < 0).any() == additive  # a ReLU ends the one kind, noise the other


def test_cell_is_normal_given_the_past_only_with_noise_added(cell):
    additive, network, params, _ = cell
    noise = np.asarray(normal(KEY, (5_000, 2, 3)))
    z, x = np.full(8, 0.5, "float32"), np.float32([1.0, -1.0])
    draws = np.asarray(jax.jit(jax.vmap(network.apply, (None, None, None, 0)))(params, z, x, noise)[0])
    pvalues = [stats.kstest(c, stats.norm(c.mean(), c.std() + 1e-9).cdf).pvalue for c in draws.T]
    assert (min(pvalues) > 1e-3) if additive else (max(pvalues) < 1e-6)


def test_gradient_reaches_every_weight_of_a_cell(cell):
    _, network, params, noise = cell
    many = jnp.stack([noise, -noise, noise[::-1]])

    def last(params):
        return jax.vmap(lambda noise: unroll(network, params, noise)[1][-1] @ jnp.array([1.0, 2.0]))(
            many
        ).sum()

    gradient = jax.jit(jax.grad(last))(params)
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


def test_cell_in_float64(cell):
    _, network, params, noise = cell
    single = unroll(network, params, noise)[1]
    with jax.enable_x64(True):
        double = unroll(network, jax.tree.map(np.float64, params), noise.astype("float64"))[1]
        assert double.dtype == np.float64
    np.testing.assert_allclose(single, double, rtol=1e-3, atol=1e-4)
