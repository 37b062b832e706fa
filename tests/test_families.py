"""The variational families against numpyro and NumPy twins, and the coordinates in which they live."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from himlib import FullRankNormal, ImplicitConditional, MeanFieldNormal, PointMass
from himlib.models import Frame, Space

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(11)
SIZE = 40_000
LOCATION = np.array([0.4, -1.2, 2.0], "float32")
TRIL = np.array([[-0.3, 0.0, 0.0], [0.6, 0.2, 0.0], [-0.4, 0.9, -0.7]], "float32")
CHOLESKY = np.tril(TRIL, -1) + np.diag(np.exp(np.diag(TRIL)))
PARAMS = {
    "mean field": (MeanFieldNormal(), {"location": LOCATION, "log_scale": np.diag(TRIL)}),
    "full rank": (FullRankNormal(), {"location": LOCATION, "tril": TRIL}),
    "point": (PointMass(), {"location": LOCATION}),
}
COVARIANCE = {
    "mean field": np.diag(np.exp(2 * np.diag(TRIL))),
    "full rank": CHOLESKY @ CHOLESKY.T,
    "point": np.zeros((3, 3)),
}
NORMALS = ["mean field", "full rank"]


@pytest.fixture(params=PARAMS)
def name(request):
    return request.param


@pytest.mark.parametrize("name", NORMALS)
def test_samples_have_the_moments_of_the_density(name):
    family, params = PARAMS[name]
    twin = stats.multivariate_normal(LOCATION, COVARIANCE[name])
    v = np.asarray(jax.jit(family.sample, static_argnums=2)(params, KEY, SIZE), np.float64)
    sd = np.sqrt(np.diag(COVARIANCE[name]))
    assert np.all(np.abs(v.mean(0) - LOCATION) < 4.5 * sd / np.sqrt(SIZE))
    error = np.sqrt((np.outer(sd, sd) ** 2 + COVARIANCE[name] ** 2) / SIZE)  # of a normal's sample covariance
    assert np.all(np.abs(np.cov(v.T) - COVARIANCE[name]) < 4.5 * error)
    log_prob = family.distribution(params).log_prob(v[:100].astype("float32"))
    np.testing.assert_allclose(log_prob, twin.logpdf(v[:100]), rtol=1e-4, atol=1e-4)
    # The average of log q over q's own samples is minus the entropy; its variance is d/2.
    entropy = -twin.logpdf(v).mean()
    assert abs(entropy - twin.entropy()) < 4.5 * np.sqrt(1.5 / SIZE)


def test_moments_are_the_distributions(name):
    family, params = PARAMS[name]
    location, scale = family.moments(params)
    np.testing.assert_array_equal(location, LOCATION)
    np.testing.assert_allclose(scale, np.sqrt(np.diag(COVARIANCE[name])), rtol=1e-6)


def test_starts_as_the_standard_normal_or_at_zero(name):
    family, _ = PARAMS[name]
    location, scale = family.moments(family.init(3))
    np.testing.assert_array_equal(location, np.zeros(3))
    np.testing.assert_array_equal(scale, np.full(3, float(name != "point")))


@pytest.mark.parametrize("name", NORMALS)
def test_reparameterized_gradient_is_a_finite_difference(name):
    family, params = PARAMS[name]

    @jax.jit
    def objective(params):
        v = family.sample(params, KEY, 5)
        return jnp.sum(jnp.sin(v) * jnp.arange(1.0, 4.0)) + family.distribution(params).log_prob(v).sum()

    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        gradient = jax.jit(jax.grad(objective))(params)
        for part, leaf in params.items():
            if part == "tril":
                assert not np.triu(gradient[part], 1).any()
            for index in np.ndindex(leaf.shape):
                step = np.zeros_like(leaf)
                step[index] = 1e-6
                pair = [objective({**params, part: leaf + sign * step}) for sign in (1, -1)]
                assert gradient[part][index] == pytest.approx(float(pair[0] - pair[1]) / 2e-6, 1e-6, 1e-6)


def test_reframing_leaves_the_distribution_in_u_unchanged(name):
    family, params = PARAMS[name]
    old = Frame(np.array([1.0, -2.0, 0.0], "float32"), np.array([0.5, 3.0, 1.0], "float32"))
    new = Frame(np.array([0.7, 1.0, 9.0], "float32"), np.array([2.0, 0.1, 4.0], "float32"))
    moved = family.reframe(params, old, new)
    assert jax.tree.structure(moved) == jax.tree.structure(params)
    for frame, values in ((old, params), (new, moved)):
        location, scale = family.moments(values)
        u = frame.location + frame.scale * family.sample(values, KEY, 4)
        if frame is old:
            expected = frame.location + frame.scale * location, frame.scale * scale, u
    result = frame.location + frame.scale * location, frame.scale * scale, u
    for a, b in zip(result, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    if name != "point":
        v_old, v_new = ((u[0] - frame.location) / frame.scale for frame in (old, new))
        before = family.distribution(params).log_prob(v_old) - np.log(old.scale).sum()
        after = family.distribution(moved).log_prob(v_new) - np.log(new.scale).sum()
        assert before.sum() == pytest.approx(float(after.sum()), rel=1e-4)


def test_same_under_jit_and_vmap_and_keeps_its_type(name):
    family, params = PARAMS[name]
    stacked = jax.tree.map(lambda leaf: np.stack([leaf, 2 * leaf]), params)
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            typed = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), stacked)
            v = jax.jit(jax.vmap(lambda params: family.sample(params, KEY, 4)))(typed)
            assert v.shape == (2, 4, 3) and v.dtype == dtype
            one = jax.tree.map(lambda leaf: leaf[1], typed)
            np.testing.assert_allclose(v[1], family.sample(one, KEY, 4), rtol=1e-5, atol=1e-5)


# The unconstrained coordinates.

PRIORS = {
    "normal": (dist.Normal(2.0, 3.0), 1),
    "integers as parameters": ({"a": dist.Normal(0, 1), "b": dist.LogNormal(0, 1)}, 2),
    "positive": (dist.HalfNormal(np.ones(2, "float32")), 2),
    "interval": (dist.Uniform(-1.0, 5.0), 1),
    "tree": ({"rate": dist.LogNormal(0.0, 1.0), "shift": [dist.Normal(np.zeros(2, "float32"), 1.0)]}, 3),
    "event": (dist.Normal(np.array([1.0, 4.0], "float32"), 2.0).to_event(1), 2),
    "correlated": (dist.MultivariateNormal(np.ones(2, "float32"), np.array([[4, 1], [1, 1]], "float32")), 2),
    "no variance": (dist.Cauchy(1.0, 3.0), 1),
}  # fmt: skip


def leaves_of(prior):
    return jax.tree.leaves(prior, is_leaf=lambda node: isinstance(node, dist.Distribution))


@pytest.fixture(params=PRIORS, scope="module")
def space_of(request):
    prior, size = PRIORS[request.param]
    return prior, size, Space(prior)


def test_space_comes_back_from_the_support(space_of):
    _, size, space = space_of
    u = np.random.default_rng(2).normal(0, 1.5, (50, size)).astype("float32")
    beta = jax.vmap(space.constrain)(u)
    back = jax.vmap(space.unconstrain)(beta)
    assert back.shape == u.shape
    np.testing.assert_allclose(back, u, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        jax.jit(space.unconstrain)(jax.tree.map(lambda b: b[0], beta)), back[0], rtol=1e-4, atol=1e-5
    )
    with jax.enable_x64(True):
        exact = np.asarray(u, np.float64)
        again = jax.vmap(space.unconstrain)(jax.vmap(space.constrain)(exact))
        np.testing.assert_allclose(again, exact, rtol=1e-5, atol=1e-5)


def test_space_maps_into_the_support(space_of):
    prior, size, space = space_of
    assert space.size == size and space.frame.location.shape == space.frame.scale.shape == (size,)
    u = np.random.default_rng(1).normal(0, 2, (50, size)).astype("float32")
    beta = jax.jit(jax.vmap(space.constrain))(u)
    values = jax.tree.leaves(beta)
    assert len(values) == len(leaves_of(prior))
    for leaf, value in zip(leaves_of(prior), values, strict=True):
        assert value.dtype == np.float32 and bool(np.all(leaf.support(value)))
        assert len(np.unique(value)) > 40  # no coordinate is lost or rounded


def test_frame_is_in_floating_point_and_of_a_definite_type(space_of):
    for values in space_of[2].frame:
        assert values.dtype == np.float32 and not values.weak_type


@pytest.mark.parametrize("name", ["positive", "interval", "tree", "event"])
def test_log_jacobian_is_that_of_the_map(name):
    space = Space(PRIORS[name][0])
    u = np.random.default_rng(2).normal(size=space.size).astype("float32")

    def flat(u):
        return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(space.constrain(u))])

    _, expected = np.linalg.slogdet(jax.jit(jax.jacobian(flat))(u))
    assert space.log_jacobian(u) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_frame_holds_the_moments_of_the_prior():
    frame = Space(dist.Normal(np.array([2.0, -1.0], "float32"), 3.0)).frame
    np.testing.assert_allclose(frame, [[2, -1], [3, 3]])
    np.testing.assert_allclose(Space(PRIORS["correlated"][0]).frame, [[1, 1], [2, 1]], rtol=1e-6)
    # Elsewhere quantiles of 1,000 draws: their standard errors are 0.04 and 0.033 sds of a normal.
    frame = Space(dist.LogNormal(1.0, 2.0)).frame
    assert abs(frame.location - 1) < 4.5 * 0.04 * 2 and abs(frame.scale - 2) < 4.5 * 0.033 * 2
    low, median, high = stats.cauchy(1, 3).ppf([0.16, 0.5, 0.84])
    frame = Space(PRIORS["no variance"][0]).frame
    assert abs(frame.location - median) < 4.5 * 0.05 * 3 and frame.scale == pytest.approx(
        (high - low) / 2, rel=0.25
    )


def test_change_of_variables_keeps_probability():
    # exp(log p(beta) + log Jacobian) is the density of u, and integrates to one.
    prior = dist.HalfNormal(2.0)
    space, u = Space(prior), np.linspace(-14, 4, 4001, dtype="float32")[:, None]

    @jax.jit
    @jax.vmap
    def density(u):
        return jnp.exp(prior.log_prob(space.constrain(u)) + space.log_jacobian(u))

    assert np.trapezoid(np.asarray(density(u), np.float64), u[:, 0]) == pytest.approx(1, abs=1e-4)


# q(z | x, beta): samples only.


def batches(shape, size=64):
    rng = np.random.default_rng(5)
    z = rng.normal(3, 2, (size, *shape)).astype("float32")
    x = {"image": rng.normal(size=(size, 2, 2)).astype("float32"), "count": rng.integers(0, 9, size)}
    return z, x, rng.normal(size=(size, 3)).astype("float32"), rng.normal(size=size).astype("float32")


@pytest.mark.parametrize(("shape", "size"), [((), 2), ((2,), 3), ((2, 3), 7)], ids=str)
def test_implicit_family_gives_one_z_for_each_row(shape, size):
    family = ImplicitConditional(shape, hidden=(8,))
    assert family.noise_size == size  # one more than z has dimensions
    z, *rest = batches(shape)
    params = jax.jit(family.init)(KEY, z, *rest)
    sample = jax.jit(family.sample)
    draws = sample(params, KEY, *rest)
    assert draws.shape == z.shape and draws.dtype == z.dtype and not hasattr(family, "distribution")
    np.testing.assert_array_equal(draws, sample(params, KEY, *rest))
    assert np.all(np.asarray(draws) != np.asarray(sample(params, jax.random.key(1), *rest)))
    assert len(np.unique(draws)) == draws.size


def test_implicit_family_fills_all_dimensions_of_z():
    # A slope of full rank in the noise is what gives z a density; with one normal less there is none.
    family = ImplicitConditional((2,), noise_size=2, hidden=(8,))
    z, *rest = batches((2,))
    params = jax.jit(family.init)(KEY, z, *rest)
    row = jax.tree.map(lambda leaf: leaf[0], rest)
    slope = jax.jacobian(lambda noise: family.network.apply(params["network"], noise, *row))(jnp.ones(2))
    assert np.linalg.svd(slope, compute_uv=False).min() > 1e-3
    assert np.linalg.matrix_rank(slope[:, :1]) == 1


def test_implicit_family_is_scaled_by_the_moments_of_z():
    family = ImplicitConditional((2,), hidden=(8,))
    z, *rest = batches((2,))
    z[:, 1] = 7  # a constant is shifted only
    params = jax.jit(family.init)(KEY, z, *rest)
    np.testing.assert_allclose(params["shift"], z.mean(0), rtol=1e-6)
    np.testing.assert_allclose(params["scale"], [z[:, 0].std(), 1], rtol=1e-5)
    draw = jax.jit(lambda params: family.sample(params, KEY, *rest))
    moved = {**params, "shift": params["shift"] + 10, "scale": 3 * params["scale"]}
    expected = moved["shift"] + 3 * (draw(params) - params["shift"])
    np.testing.assert_allclose(draw(moved), expected, rtol=1e-4, atol=1e-4)
    gradient = jax.jit(jax.grad(lambda params: draw(params).sum()))(params)
    assert not gradient["shift"].any() and not gradient["scale"].any()  # units are not trained
    assert np.abs(jax.tree.leaves(gradient["network"])[1]).max() > 0


def test_implicit_family_injects_noise_row_by_row():
    family = ImplicitConditional(noise_size=3, hidden=(8,))
    z, x, beta, covariate = batches((), 4000)
    x, beta, covariate = jax.tree.map(
        lambda leaf: np.broadcast_to(leaf[:1], leaf.shape), (x, beta, covariate)
    )
    params = jax.jit(family.init)(KEY, z, x, beta, covariate)
    draws = np.asarray(jax.jit(family.sample)(params, KEY, x, beta, covariate))
    assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 4.5 / np.sqrt(4000) and draws.std() > 0.1


def test_implicit_family_depends_on_all_it_is_given():
    family = ImplicitConditional(hidden=(8,))
    z, *rest = batches(())
    params, sample = jax.jit(family.init)(KEY, z, *rest), jax.jit(family.sample)
    draws = sample(params, KEY, *rest)
    for i in range(3):
        moved = [jax.tree.map(lambda leaf: leaf + 1, leaf) if i == j else leaf for j, leaf in enumerate(rest)]
        assert np.all(np.asarray(sample(params, KEY, *moved)) != np.asarray(draws))


@pytest.mark.parametrize("name", NORMALS)
def test_no_recompilation_for_other_parameters(name):
    family, params = PARAMS[name]
    traces = []
    sample = jax.jit(lambda params: traces.append(1) or family.sample(params, KEY, 2))
    jax.tree.map(
        np.shape, [sample(jax.tree.map(partial(np.multiply, np.float32(c)), params)) for c in (1, 2)]
    )
    assert len(traces) == 1
