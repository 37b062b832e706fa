"""The networks: pure functions equal to the flax modules behind them, and the identities of their parts."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from himlib.networks import MLP, Network, Standardize, pure, ratio_network

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
