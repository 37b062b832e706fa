"""The banana and the ring against quadrature in one dimension, their own simulator, and LFVI."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate, optimize, stats
from toys import within

from himlib import Data, ImplicitConditional, PointMass, fit, lfvi, ratio_network
from himlib.diagnostics import sliced_wasserstein
from himlib.simulators.curved import BANANA, RING, CurvedLatent, GridPosterior

SHAPES = {"banana": BANANA, "ring": RING}
OBSERVED = {"banana": (-1.0, 0.7, 3.1), "ring": (0.4, 1.2, 2.2)}
CASES = [(name, x) for name in SHAPES for x in OBSERVED[name]]
posterior_of = {name: jax.jit(shape.posterior) for name, shape in SHAPES.items()}
KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures("quick_compilation")


def banana_density(z_1, x):
    """p(z_1 | x) up to a constant: z_2 is integrated out by hand."""
    return stats.norm.pdf(z_1) * stats.norm.pdf(x, z_1**2, np.hypot(1, 0.3))


def ring_density(radius, x):
    """p(|z| | x) up to a constant: the angle is uniform."""
    return radius * np.exp(-(radius**2) / 2) * stats.norm.pdf(x, radius, 0.2)


def by_quadrature(density, function, x, low):
    """The expectation of a function of the one coordinate that matters, in float64."""
    options = {"points": [0.0, x, np.sqrt(max(x, 0.0)), -np.sqrt(max(x, 0.0))], "limit": 300}
    total, _ = integrate.quad(lambda t: density(t, x), low, 8, **options)
    return integrate.quad(lambda t: function(t) * density(t, x), low, 8, **options)[0] / total


@pytest.mark.parametrize("x", OBSERVED["banana"])
def test_banana_moments_are_what_quadrature_gives(x):
    moment = partial(by_quadrature, banana_density, x=x, low=-8)
    expectation = posterior_of["banana"](x).expectation
    # Given z_1, the other coordinate is normal with mean (x - z_1^2) / 1.09 and variance 0.09 / 1.09.
    mean_2 = moment(lambda t: (x - t**2) / 1.09)
    square_2 = moment(lambda t: ((x - t**2) / 1.09) ** 2 + 0.09 / 1.09)
    np.testing.assert_allclose(expectation(lambda z: z), [0, mean_2], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        expectation(lambda z: z**2), [moment(lambda t: t**2), square_2], rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        expectation(lambda z: z[0] ** 2 * z[1]), moment(lambda t: t**2 * (x - t**2) / 1.09), rtol=1e-3
    )


@pytest.mark.parametrize("x", OBSERVED["ring"])
def test_ring_moments_are_what_quadrature_gives(x):
    moment = partial(by_quadrature, ring_density, x=x, low=0)
    expectation = posterior_of["ring"](x).expectation
    np.testing.assert_allclose(expectation(lambda z: z), 0, atol=1e-5)
    half = moment(lambda t: t**2) / 2
    second = expectation(lambda z: jnp.outer(z, z))
    np.testing.assert_allclose(second, half * np.eye(2), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(expectation(jnp.linalg.norm), moment(lambda t: t), rtol=1e-3)


@pytest.mark.parametrize(("name", "x"), CASES)
def test_posterior_is_a_distribution_within_its_grid(name, x):
    posterior = posterior_of[name](x)
    probability = np.asarray(posterior.probability)
    assert posterior.axis.shape == (401,) and probability.shape == (401, 401)
    assert probability.min() >= 0 and probability.sum() == pytest.approx(1, abs=1e-5)
    border = probability[[0, -1]].sum() + probability[:, [0, -1]].sum()
    assert border < 1e-6
    assert float(posterior.density.sum()) * 0.025**2 == pytest.approx(1, abs=1e-4)


@jax.jit
def sample_moments(posterior):
    def function(z):
        return jnp.concatenate([z, z**2, jnp.sin(3 * z), z[:1] * z[1]])

    return jax.vmap(function)(posterior.sample(KEY, 20_000)), posterior.expectation(function)


@pytest.mark.parametrize(("name", "x"), CASES)
def test_draws_have_the_moments_of_the_grid(name, x):
    posterior = posterior_of[name](x)
    values, expected = sample_moments(posterior)
    assert within(values, expected, tolerance=2e-4)


def test_draws_of_the_ring_have_the_right_radius_and_angle():
    x = 1.2
    z = np.asarray(posterior_of["ring"](x).sample(KEY, 5_000))
    radii = np.linspace(0, 4, 2_001)
    density = ring_density(radii, x)
    cumulative = integrate.cumulative_simpson(density, x=radii, initial=0)
    assert (
        stats.kstest(np.hypot(*z.T), partial(np.interp, xp=radii, fp=cumulative / cumulative[-1])).pvalue
        > 1e-3
    )
    angle = np.arctan2(*z.T) / (2 * np.pi) + 0.5
    assert stats.kstest(angle, "uniform").pvalue > 1e-3
    assert stats.kstest(angle**1.1, "uniform").pvalue < 1e-3  # the test can fail


@pytest.mark.parametrize("name", SHAPES)
def test_simulator_has_the_joint_distribution(name):
    shape = SHAPES[name]
    z, x = (np.asarray(values) for values in shape.simulate(jax.random.key(1), 20_000))
    assert z.shape == (20_000, 2) and x.shape == (20_000,)
    curve = z[:, 1] + z[:, 0] ** 2 if name == "banana" else np.hypot(*z.T)
    residual = (x - curve) / {"banana": 0.3, "ring": 0.2}[name]
    for column in (z[:, 0], z[:, 1], residual):
        assert stats.kstest(column, "norm").pvalue > 1e-3
    joint = np.stack([*z.T, residual])
    assert np.abs(np.corrcoef(joint) - np.eye(3)).max() < 4.5 / np.sqrt(len(x))
    expected = stats.norm.logpdf(joint).sum(0) - np.log({"banana": 0.3, "ring": 0.2}[name])
    log_joint = jax.vmap(shape.log_joint)(jnp.asarray(x[:50]), jnp.asarray(z[:50]))
    np.testing.assert_allclose(log_joint, expected[:50], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", SHAPES)
def test_posterior_is_calibrated(name):
    # The posterior's distribution function at the true z_2 is uniform over draws of (z, x).
    z, x = SHAPES[name].simulate(jax.random.key(2), 400)

    @jax.jit
    def level(x, z):
        posterior = SHAPES[name].posterior(x, limit=4.5, size=141)
        edges = posterior.axis + (posterior.axis[1] - posterior.axis[0]) / 2
        return jnp.interp(z[1], edges, jnp.cumsum(posterior.probability.sum(0)))

    assert stats.kstest(np.asarray(jax.vmap(level)(x, z)), "uniform").pvalue > 1e-3
    assert stats.kstest(np.asarray(jax.vmap(level)(x[::-1], 1.5 * z)), "uniform").pvalue < 1e-3


@pytest.mark.parametrize("name", SHAPES)
def test_same_under_jit_and_vmap(name):
    x = jnp.asarray(OBSERVED[name])
    small = partial(SHAPES[name].posterior, size=41)
    lifted = jax.jit(jax.vmap(small))(x).probability
    np.testing.assert_allclose(lifted[1], small(x[1]).probability, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(lifted[2], jax.jit(small)(x[2]).probability, rtol=1e-4, atol=1e-7)


def test_float64():
    small = partial(RING.posterior, size=101)
    with jax.enable_x64(True):
        double = jax.jit(small)(jnp.float64(1.2)).probability
        assert double.dtype == np.dtype("float64") and abs(double.sum() - 1) < 1e-12
    np.testing.assert_allclose(jax.jit(small)(jnp.float32(1.2)).probability, double, rtol=1e-3, atol=1e-7)


def test_sliced_wasserstein_of_a_shift_and_a_permutation():
    a = jax.random.normal(KEY, (50, 2))
    shift = jnp.array([0.6, -0.8])
    assert sliced_wasserstein(a, a[::-1]) == pytest.approx(0, abs=1e-6)
    # The mean of cos^2 over the half circle is one half, whatever the direction of the shift.
    assert sliced_wasserstein(a, a + shift) == pytest.approx(0.5**0.5, rel=1e-4)
    assert sliced_wasserstein(a + shift, a) == pytest.approx(0.5**0.5, rel=1e-4)


def test_sliced_wasserstein_is_the_cheapest_matching():
    a, b = np.random.default_rng(1).normal(size=(2, 12, 2)) * [[[1.0]], [[2.0]]]
    squares = []
    for angle in np.pi * (np.arange(5) + 0.5) / 5:
        direction = np.array([np.cos(angle), np.sin(angle)])
        cost = ((a @ direction)[:, None] - b @ direction) ** 2
        squares.append(cost[optimize.linear_sum_assignment(cost)].mean())
    assert sliced_wasserstein(a, b, directions=5) == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-5)


def test_lfvi_bends_where_a_normal_cannot():
    # A fifth of the chapter's steps: within 2.5 times the distance of two exact samples, where even the
    # best of all normals, with the exact mean and covariance, is 4 times as far away.
    steps, size = 600, 2_000
    leaky_relu = partial(jax.nn.leaky_relu, negative_slope=0.2)

    def adam(rate, steps, final):
        return optax.flatten(optax.adam(optax.cosine_decay_schedule(rate, steps, final), b1=0.5))

    algorithm = lfvi(
        BANANA.model,
        PointMass(),
        ratio_network(quadratic=False, activation=leaky_relu),
        local=ImplicitConditional(shape=(2,), noise_size=4, hidden=(64, 64), activation=leaky_relu),
        ratio_optimizer=adam(1.5e-3, 3 * steps, 0.2),
        posterior_optimizer={"beta": optax.set_to_zero(), "z": adam(5e-3, steps, 0.02)},
        ratio_batch=256,
        ratio_steps=3,
        batch_size=256,
        posterior_samples=1,
    )
    _, x = BANANA.simulate(KEY, 5_000)
    result = fit(KEY, algorithm, Data(x), steps, progress=False)
    at = jnp.quantile(x, jnp.array([0.1, 0.3, 0.5, 0.7, 0.9]))
    posteriors = [posterior_of["banana"](value) for value in at]
    k_exact, k_floor, k_q, k_normal = jax.random.split(KEY, 4)
    exact = [p.sample(k_exact, size) for p in posteriors]
    floor = [p.sample(k_floor, size) for p in posteriors]
    z = algorithm.sample_local(k_q, result.state, jnp.zeros(()), Data(jnp.repeat(at, size)))
    moments = [(p.expectation(lambda z: z), p.expectation(lambda z: jnp.outer(z, z))) for p in posteriors]
    noise = jax.random.normal(k_normal, (size, 2))
    normal = [
        mean + noise @ jnp.linalg.cholesky(square - jnp.outer(mean, mean)).T for mean, square in moments
    ]
    distance = {
        name: np.mean([sliced_wasserstein(a, b) for a, b in zip(draws, exact, strict=True)])
        for name, draws in {"floor": floor, "lfvi": z.reshape(5, size, 2), "normal": normal}.items()
    }
    print(distance)
    assert 0.02 < distance["floor"] < 0.08
    assert distance["lfvi"] < 2.5 * distance["floor"]
    assert distance["normal"] > 4 * distance["floor"]


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_lowers_for_accelerators(platform):
    def draw(key, x):
        return RING.posterior(x, size=11).sample(key, 3)

    jax.export.export(jax.jit(draw), platforms=[platform])(KEY, jnp.zeros(()))


SAMPLE = np.zeros((4, 2))
CALLS = {
    "function: a number": (
        lambda: CurvedLatent(3.0, 0.1),
        TypeError,
        "function: expected a function of z, got f",
    ),
    "function: a vector": (
        lambda: CurvedLatent(lambda z: z, 0.1),
        ValueError,
        r"function: expected one number for one z of shape \(2,\), got shape \(2,\)",
    ),
    **{
        f"noise: {value}": (
            lambda value=value: CurvedLatent(jnp.sum, value),
            ValueError,
            "noise_scale: expected a positive standard deviation, got",
        )
        for value in (0.0, -1.0, float("inf"), float("nan"))
    },
    "many x": (lambda: RING.posterior(jnp.ones(3)), ValueError, r"x: expected one number, got shape \(3,\)"),
    "an old key": (
        lambda: GridPosterior(jnp.zeros(2), jnp.ones((2, 2)) / 4).sample(jax.random.PRNGKey(0), 3),
        TypeError,
        "key",
    ),
    "samples of two sizes": (
        lambda: sliced_wasserstein(SAMPLE, SAMPLE[:3]),
        ValueError,
        r"a, b: expected two samples of the same shape \(n, 2\), got \(4, 2\) and \(3, 2\)",
    ),
    "samples on a line": (
        lambda: sliced_wasserstein(SAMPLE[:, 0], SAMPLE[:, 0]),
        ValueError,
        "a, b: expected",
    ),
    "samples in space": (
        lambda: sliced_wasserstein(np.zeros((4, 3)), np.zeros((4, 3))),
        ValueError,
        "a, b: expected",
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_wrong_calls(call):
    function, error, message = CALLS[call]
    with pytest.raises(error, match=message):
        function()


def test_sliced_wasserstein_in_space():
    a, b = np.random.default_rng(2).normal(size=(2, 12, 3)) * [[[1.0]], [[2.0]]]
    directions = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    shift = np.array([0.6, -0.8, 0.5])
    # Along three perpendicular directions the squares of a shift sum to its square length.
    expected = np.sqrt(np.sum(shift**2) / 3)
    assert sliced_wasserstein(a, a[::-1] + shift, directions) == pytest.approx(expected, rel=1e-5)
    squares = [stats.wasserstein_distance_nd(a @ u[:, None], b @ u[:, None]) for u in directions.T]
    along = [np.mean((np.sort(a @ u) - np.sort(b @ u)) ** 2) for u in directions.T]
    assert sliced_wasserstein(a, b, directions) == pytest.approx(np.sqrt(np.mean(along)), rel=1e-5)
    assert sliced_wasserstein(a, b, directions) >= np.sqrt(np.mean(np.square(squares)))  # W_2 is at least W_1
    plane = jnp.stack([jnp.cos(jnp.array([jnp.pi / 4, 3 * jnp.pi / 4])), jnp.full(2, 0.5**0.5)])
    two = sliced_wasserstein(a[:, :2], b[:, :2], 2)
    assert two == pytest.approx(float(sliced_wasserstein(a[:, :2], b[:, :2], plane)), rel=1e-5)
    with pytest.raises(ValueError, match=r"shape \(n, 2\), got .*; directions in any space but the plane"):
        sliced_wasserstein(a, b, plane)
