"""The normals of himlib.random against the normal distribution, JAX's own generator and themselves."""

import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32
from scipy import stats

from himlib import random
from himlib.random import check_key, draw_rows, normal, row_numbers

KEY = jax.random.key(20)
MANY = 2_000_000


@pytest.fixture(scope="module")
def draws():
    return np.asarray(normal(KEY, (MANY,)), np.float64)


def words_of(key, size):
    high, low = jnp.full(size, random.HIGH, jnp.uint32), jnp.arange(size, dtype=jnp.uint32)
    return random.threefry(jax.random.key_data(key), high, low)


def test_rows_are_drawn_evenly_and_together():
    tree = {"a": jnp.arange(7), "b": (10 * jnp.arange(7.0)[:, None],)}
    drawn = draw_rows(KEY, tree, 70_000)
    np.testing.assert_array_equal(10 * drawn["a"], drawn["b"][0][:, 0])
    assert stats.chisquare(np.bincount(drawn["a"], minlength=7)).pvalue > 1e-4


def test_rows_of_samples_of_two_sizes():
    rows = np.asarray(row_numbers(KEY, (2, 10_000), [[3], [1000]]))
    assert rows.min() == 0 and rows[0].max() == 2 and rows[1].max() == 999
    assert abs(np.corrcoef(rows)[0, 1]) < 0.05


@pytest.mark.parametrize("seed", [0, 1, 2**31 + 7])
def test_threefry_is_jaxs_own_bit_for_bit(seed):
    key = jax.random.key(seed)
    counters = jax.random.bits(jax.random.key(99), (2, 1000))
    ours = random.threefry(jax.random.key_data(key), *counters)
    theirs = threefry_2x32(jax.random.key_data(key), counters.ravel())
    np.testing.assert_array_equal(jnp.concatenate(ours), theirs)


def test_threefry_known_answer():
    # Salmon et al. (2011), the known-answer test of Threefry-2x32 with 20 rounds on zeros.
    zero = jnp.zeros((), jnp.uint32)
    assert [hex(word) for word in random.threefry(jnp.zeros(2, jnp.uint32), zero, zero)] == [
        "0x6b200159",
        "0x99ba4efe",
    ]


def box_muller_in_float64(radius, angle):
    """The pairs, and how far float32 may be off: the words are rounded near a radius of zero."""
    radius = np.sqrt(-2 * np.log((np.asarray(radius) // 2 + 0.5) / 2**31))
    turn = 2 * np.pi * np.asarray(angle, np.float64) / 2**32
    return np.stack([radius * np.cos(turn), -radius * np.sin(turn)], -1), 3e-7 * radius + np.minimum(
        1e-7 / radius, 3e-4
    )


def test_follows_box_and_muller_in_float64():
    expected, tolerance = box_muller_in_float64(*words_of(KEY, 50_000))
    assert np.all(np.abs(normal(KEY, (50_000, 2)) - expected) < tolerance[:, None])


@pytest.mark.parametrize(
    ("power", "moment", "variance"), [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)]
)
def test_moments(draws, power, moment, variance):
    assert abs(np.mean(draws**power) - moment) < 4 * np.sqrt(variance / MANY)


def test_distribution_and_both_halves_of_the_pairs(draws):
    for part in (draws, draws[::2], draws[1::2]):
        assert stats.kstest(part[:500_000], "norm").pvalue > 1e-3


@pytest.mark.parametrize("threshold", [1.0, 2.0, 3.0, 4.0, 4.5])
def test_tails(draws, threshold):
    expected = MANY * stats.norm.sf(threshold)
    for count in (np.sum(draws > threshold), np.sum(draws < -threshold)):
        assert abs(count - expected) < 4.5 * np.sqrt(expected) + 1


@pytest.mark.parametrize("radius", [0, 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1])
@pytest.mark.parametrize("angle", [0, 2**30, 2**31 - 1, 2**31, 3 * 2**30, 2**32 - 1])
def test_the_extreme_words_give_finite_numbers(monkeypatch, radius, angle):
    words = [np.uint32(radius), np.uint32(angle)]
    monkeypatch.setattr(
        random, "threefry", lambda _, high, low: [jnp.full_like(high, word) for word in words]
    )
    expected, tolerance = box_muller_in_float64(radius, angle)
    np.testing.assert_allclose(random.box_muller(None, (2,)), expected, rtol=0, atol=tolerance)
    assert np.linalg.norm(expected) < 6.67


def test_no_repeats(draws):
    # In float32 some of two million normals must coincide; pairs of neighbors must not.
    assert len(np.unique(draws.reshape(-1, 2), axis=0)) == MANY // 2
    assert len(np.unique(draws)) > 0.85 * MANY


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 7, 8, 1000])
def test_neighbors_are_independent(draws, lag):
    for transform in (np.asarray, np.square, np.abs):
        left, right = transform(draws[:-lag]), transform(draws[lag:])
        assert abs(np.corrcoef(left, right)[0, 1]) < 4.5 / np.sqrt(MANY)


def test_keys_are_independent():
    keys = [jax.random.key(seed) for seed in range(4)]
    keys += [jax.random.fold_in(keys[0], i) for i in range(10, 14)] + list(jax.random.split(keys[0], 4))
    samples = np.stack([normal(key, (50_000,)) for key in keys])
    correlations = np.corrcoef(samples) - np.eye(len(keys))
    assert np.abs(correlations).max() < 4.5 / np.sqrt(50_000)
    for sample in samples[1:]:
        assert stats.ks_2samp(samples[0], sample).pvalue > 1e-4


def test_shares_no_block_with_the_keys_made_from_its_key():
    children = np.asarray(jax.random.key_data(jax.random.split(KEY, 1000)))
    used = np.stack(words_of(KEY, 1000), -1)
    assert not set(map(tuple, children)) & set(map(tuple, used))


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 3, 4), (0, 2)])
def test_shapes_and_prefixes(shape):
    sample = normal(KEY, shape)
    assert sample.shape == shape and sample.dtype == jnp.float32
    np.testing.assert_array_equal(sample.ravel(), normal(KEY, (100,))[: sample.size])


def test_few_optimizations_cost_no_more_than_a_rounding():
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        quick = np.asarray(normal(KEY, (100,)))
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
        jax.clear_caches()
    np.testing.assert_allclose(normal(KEY, (100,)), quick, rtol=1e-6)


def test_same_numbers_under_jit_vmap_scan_and_map():
    keys = jax.random.split(KEY, 5)
    draw = partial(normal, shape=(4, 3))
    expected = jnp.stack([draw(key) for key in keys])
    lifted = {
        "jit": jnp.stack([jax.jit(draw)(key) for key in keys]),
        "vmap": jax.vmap(draw)(keys),
        "vmap of vmap": jax.vmap(jax.vmap(draw))(keys.reshape(5, 1))[:, 0],
        "scan": jax.lax.scan(lambda carry, key: (carry, draw(key)), None, keys)[1],
        "map": jax.jit(lambda keys: jax.lax.map(draw, keys))(keys),
        "accelerator": jax.vmap(lambda key: random.box_muller(jax.random.key_data(key), (4, 3)))(keys),
    }
    for name, sample in lifted.items():
        np.testing.assert_allclose(sample, expected, rtol=0, atol=1e-6, err_msg=name)


def test_consumers_have_gradients():
    def loss(scale):
        return jnp.mean((scale * normal(KEY, (1000,))) ** 2)

    sample = np.asarray(normal(KEY, (1000,)), np.float64)
    for differentiate in (jax.grad, jax.jacfwd):
        assert jax.jit(differentiate(loss))(1.5) == pytest.approx(3 * np.mean(sample**2), rel=1e-5)


def test_a_second_call_does_not_compile_again():
    normal(KEY, (11,))
    compiled = random.fast_normal._cache_size()
    normal(jax.random.key(5), [11])
    assert random.fast_normal._cache_size() == compiled


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_other_types_are_jaxs(dtype):
    np.testing.assert_array_equal(normal(KEY, (9,), dtype), jax.random.normal(KEY, (9,), dtype))


def test_float64():
    single = normal(KEY, (9,))
    with jax.enable_x64(True):
        double = normal(KEY, (100_000,), jnp.float64)
        assert double.dtype == jnp.float64
        assert stats.kstest(np.asarray(double), "norm").pvalue > 1e-3
        again = normal(KEY, (9,))
    assert again.dtype == jnp.float32
    np.testing.assert_array_equal(again, single)


@pytest.mark.parametrize("implementation", ["rbg", "unsafe_rbg"])
def test_other_kinds_of_keys_are_jaxs(implementation):
    key = jax.random.key(0, impl=implementation)
    np.testing.assert_array_equal(normal(key, (9,)), jax.random.normal(key, (9,)))


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_lowers_for_every_platform(platform):
    exported = jax.export.export(jax.jit(partial(normal, shape=(4, 3))), platforms=[platform])(KEY)
    assert ("stablehlo.while" in exported.mlir_module()) == (platform == "cpu")


def test_shards_without_communication():
    program = """
import jax, numpy as np
from himlib.random import normal
mesh = jax.make_mesh((2,), ("data",))
rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
draw = jax.jit(lambda key: normal(key, (1024, 6)), out_shardings=rows)
text = draw.lower(jax.random.key(0)).compile().as_text()
assert not any(word in text for word in ("all-gather", "all-reduce", "collective-permute", "all-to-all"))
assert "f32[6144]" not in text and "f32[1024,6]" not in text  # no device draws it all
np.testing.assert_array_equal(draw(jax.random.key(0)), normal(jax.random.key(0), (1024, 6)))
"""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
    }
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=120)


@pytest.mark.parametrize("key", [jax.random.key(0), jax.random.split(jax.random.key(0), 3)])
def test_check_key_returns_typed_keys(key):
    assert check_key(key) is key


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (7, r"expected jax\.random\.key\(7\), got int\.$"),
        (None, r"expected jax\.random\.key\(seed\), got NoneType\.$"),
        (jnp.zeros(2, jnp.uint32), r"got an array of uint32; likely cause: an old-style key, .*PRNGKey"),
        (np.zeros(2), r"got an array of float64\.$"),
        ("key", r"got str\.$"),
    ],
)
def test_check_key_refuses_all_else(key, message):
    with pytest.raises(TypeError, match=message):
        check_key(key)
    with pytest.raises(TypeError, match=message):
        normal(key, (2,))


def test_check_key_names_the_old_style_key():
    with pytest.raises(TypeError, match="an array of uint32"):
        check_key(jax.random.PRNGKey(0))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((jax.random.split(KEY, 2), (3,)), ValueError, r"array of keys of shape \(2,\); use jax.vmap"),
        ((KEY, 3), TypeError, "not iterable"),
        ((KEY, (-1,)), TypeError, "nonnegative"),
        ((KEY, (2,), jnp.int32), ValueError, "float"),
    ],
)
def test_wrong_calls(arguments, error, message):
    with pytest.raises(error, match=message):
        normal(*arguments)
