"""Hierarchical implicit models: priors, both forms of simulator, and pairs that are joint draws."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats
from toys import GAUSSIAN

from himlib import HierarchicalImplicitModel
from himlib.models import Space, antithetic
from himlib.random import normal

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(5)
SIZE = 20_000
EXACT = GAUSSIAN.local_scale / np.hypot(GAUSSIAN.local_scale, GAUSSIAN.noise_scale)  # corr(x, z) given beta


def simulate(key, beta, covariate):
    return GAUSSIAN.model.generate(normal(key, (2,)), beta, covariate)


MODELS = {
    "generate": GAUSSIAN.model,
    "simulate": HierarchicalImplicitModel(GAUSSIAN.prior, simulate=simulate),
}


def z_score(x, z, beta):
    """How many standard errors the correlation of x and z is from the exact one, by Fisher's transform."""
    correlation = np.corrcoef(np.asarray(x) - beta, np.asarray(z) - beta)[0, 1]
    return (np.arctanh(correlation) - np.arctanh(EXACT)) * np.sqrt(len(x) - 3)


@pytest.fixture(scope="module", params=MODELS)
def pairs(request):
    beta = np.linspace(-1, 1, SIZE, dtype="float32")
    z, x = jax.jit(MODELS[request.param].simulate_batch)(KEY, beta)
    return np.asarray(z), np.asarray(x), beta


def test_pairs_are_joint_draws_of_the_model(pairs):
    z, x, beta = pairs
    assert abs(z_score(x, z, beta)) < 4.5
    for values, scale in ((z - beta, 0.8), (x - z, 0.6), (x - beta, 1.0)):
        assert stats.kstest(values, stats.norm(0, scale).cdf).pvalue > 1e-4
    for values in (z - beta, x - z):  # rows are independent of each other, and of beta
        for other in (np.roll(values, 1), beta):
            assert abs(np.corrcoef(values, other)[0, 1]) < 4.5 / np.sqrt(SIZE)


def test_shuffled_pairs_are_told(pairs):
    z, x, beta = pairs
    shuffled = beta + np.random.default_rng(0).permutation(z - beta)  # the right law of each, not of the pair
    assert abs(z_score(x, shuffled, beta)) > 50


@pytest.mark.parametrize("name", MODELS)
def test_batch_is_a_function_of_its_key(name):
    beta, batch = np.zeros(4, "float32"), jax.jit(MODELS[name].simulate_batch)
    first, again, other = batch(KEY, beta), batch(KEY, beta), batch(jax.random.key(6), beta)
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.all(np.asarray(a) != np.asarray(c))


def test_generate_takes_standard_normals_of_the_given_shape():
    model = HierarchicalImplicitModel(
        dist.Normal(0, 1), generate=lambda noise, beta, covariate: (None, noise), noise_shape=(2, 3)
    )
    z, x = model.simulate_batch(KEY, jnp.zeros(1000))
    assert z is None and x.shape == (1000, 2, 3)
    assert stats.kstest(np.ravel(x), "norm").pvalue > 1e-4


def test_antithetic_pairs_are_two_batches_with_opposite_noise():
    model = HierarchicalImplicitModel(
        dist.Normal(0, 1), generate=lambda noise, beta, c: (noise, beta + c * noise.sum()), noise_shape=(2,)
    )
    beta, c = jnp.arange(4.0), jnp.arange(1.0, 5.0)
    pair = antithetic(KEY, model, beta, c)
    for got, expected in zip(pair[0], model.simulate_batch(KEY, beta, c), strict=True):
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(pair[1][0], -pair[0][0])
    np.testing.assert_allclose((pair[0][1] + pair[1][1]) / 2, beta, atol=1e-6)
    by_key = HierarchicalImplicitModel(
        dist.Normal(0, 1), simulate=lambda key, beta, c: (None, beta + c * normal(key))
    )
    (alone,) = antithetic(KEY, by_key, beta, c)
    np.testing.assert_array_equal(alone[1], by_key.simulate_batch(KEY, beta, c)[1])


def test_rows_get_their_own_beta_and_covariate():
    model = HierarchicalImplicitModel(
        {"a": dist.Normal(0, 1), "b": dist.Normal(jnp.zeros(2), 1).to_event(1)},
        simulate=lambda key, beta, covariate: ({"z": beta["a"]}, (beta["b"], covariate["c"] + beta["a"])),
    )
    beta = {"a": np.arange(3.0, dtype="float32"), "b": np.arange(6.0, dtype="float32").reshape(3, 2)}
    covariate = {"c": np.array([10.0, 20.0, 30.0], "float32")}
    z, x = model.simulate_batch(KEY, beta, covariate)
    np.testing.assert_array_equal(z["z"], beta["a"])
    np.testing.assert_array_equal(x[0], beta["b"])
    np.testing.assert_array_equal(x[1], [10, 21, 32])


def test_prior_of_a_tree():
    prior = {"rate": dist.Exponential(2.0), "shift": [dist.Normal(jnp.zeros(2), 2.0)]}
    model = HierarchicalImplicitModel(prior, simulate=simulate)
    beta = jax.jit(model.sample_prior, static_argnums=1)(KEY, (4000,))
    assert beta["rate"].shape == (4000,) and beta["shift"][0].shape == (4000, 2)
    assert stats.kstest(np.asarray(beta["rate"]), stats.expon(scale=1 / 2).cdf).pvalue > 1e-4
    shift = np.asarray(beta["shift"][0])
    assert stats.kstest(shift.ravel(), stats.norm(0, 2).cdf).pvalue > 1e-4
    assert abs(np.corrcoef(shift.T)[0, 1]) < 4.5 / np.sqrt(4000)
    assert abs(np.corrcoef(beta["rate"], shift[:, 0])[0, 1]) < 4.5 / np.sqrt(
        4000
    )  # leaves have their own keys
    one = jax.tree.map(lambda leaf: leaf[0], beta)
    expected = stats.expon.logpdf(one["rate"], scale=1 / 2) + stats.norm.logpdf(one["shift"][0], 0, 2).sum()
    assert model.log_prior(one) == pytest.approx(expected, rel=1e-5)
    assert jax.tree.leaves(model.sample_prior(KEY))[0].shape == ()


@pytest.mark.parametrize(("shape", "length"), [((), 4000), ((4000,), 1)])
def test_equal_leaves_of_a_prior_are_drawn_apart(shape, length):
    leaf = dist.Normal(jnp.zeros(length), 1.0)
    model = HierarchicalImplicitModel({"a": leaf, "b": [leaf, leaf]}, simulate=simulate)
    draws = np.stack([np.ravel(draw) for draw in jax.tree.leaves(model.sample_prior(KEY, shape))])
    assert draws.shape == (3, 4000)
    assert np.abs(np.corrcoef(draws) - np.eye(3)).max() < 4.5 / np.sqrt(4000)


def test_noise_free_runs_and_gradients_go_through_generate():
    z, x = GAUSSIAN.model.generate(jnp.zeros(2), 0.7, None)
    assert z == x == pytest.approx(0.7)
    assert jax.grad(lambda beta: GAUSSIAN.model.generate(jnp.ones(2), beta, None)[1])(0.3) == 1


@pytest.mark.parametrize("unit", [1e-20, 1e-12, 1.0, 1e12, 1e20])
def test_frames_are_exact_in_any_unit(unit):
    prior = {
        "a": dist.Normal(jnp.array([0.0, 3.0]), jnp.array([1.0, unit])),
        "b": dist.Laplace(2 * unit, unit),
        "c": dist.MultivariateNormal(jnp.zeros(2), scale_tril=unit * jnp.eye(2)),
    }
    frame = Space(prior).frame
    np.testing.assert_allclose(frame.location, np.float32([0, 3, 2 * unit, 0, 0]), rtol=1e-6)
    scale = np.float32([1, unit, 2**0.5 * unit, unit, unit])
    np.testing.assert_allclose(frame.scale, scale, rtol=1e-6)


def test_a_frame_is_known_while_a_function_is_traced():
    model = HierarchicalImplicitModel(dist.Normal(0.0, 1e-20), simulate=simulate)
    assert jax.jit(lambda x: x * model.space.frame.scale)(1.0) == np.float32(1e-20)


class Spike(dist.Distribution):
    """Zero with probability 0.9, and a normal else."""

    support = dist.constraints.real

    def sample(self, key, sample_shape=()):
        k_spike, k_slab = jax.random.split(key)
        slab = jax.random.normal(k_slab, sample_shape)
        return jnp.where(jax.random.bernoulli(k_spike, 0.9, sample_shape), 0.0, slab)


class Endless(dist.Distribution):
    """No number at all."""

    support = dist.constraints.real

    def sample(self, key, sample_shape=()):
        return jnp.full(sample_shape, jnp.nan)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (
            {"a": dist.Normal(0, 1), "b": dist.Delta(2.0)},
            r"coordinate 1 has no width \(Delta\): a known number",
        ),
        (
            dist.Normal(jnp.zeros(3), jnp.array([1.0, 0.0, 1.0]), validate_args=False),
            r"coordinate 1 has no width \(Normal\)",
        ),
        (Spike(), r"coordinate 0 has no width \(Spike\)"),
        (Endless(), r"coordinate 0 has no finite width \(Endless\)"),
        (dist.Distribution(), "Distribution has no support"),
        (dist.ImproperUniform(dist.constraints.positive, (), ()), "ImproperUniform cannot be sampled"),
        (dist.ProjectedNormal(jnp.array([1.0, 0.0])), "ProjectedNormal has a support without a map"),
    ],
)
def test_priors_without_a_frame_are_refused(prior, message):
    with pytest.raises(ValueError, match=f"prior: {message}"):
        Space(prior)


def test_moments_that_are_not_known_are_measured():
    path = dist.EulerMaruyama(jnp.linspace(0, 1, 5), lambda x, t: (-x, 1.0), dist.Normal(0.0, 1.0))
    frame = Space(path).frame
    # x <- 0.75 x + 0.5 e, from variance one: five standard errors of quantiles of 1,000 draws
    variance = [1.0]
    for _ in range(4):
        variance.append(0.75**2 * variance[-1] + 0.25)
    np.testing.assert_allclose(frame.scale, np.sqrt(variance), rtol=0.15)
    np.testing.assert_allclose(frame.location, 0, atol=0.2)
