"""The deep implicit model against linear algebra, against quadrature, and against its own simulator."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from scipy import stats
from toys import within

from himlib import Data, ImplicitConditional, PointMass, lfvi, ratio_network
from himlib.random import normal
from himlib.simulators.deep_implicit import DeepImplicit, ImportanceSample

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(0)
BLOG = DeepImplicit()
# Without activations all is normal, and the posterior of the noises is known.
LINEAR = DeepImplicit(outputs=3, hidden=6, noise_sizes=(2, 2, 4), activation=lambda x: x)
# With one number for each noise, the integral over them is a sum over a grid.
SMALL = DeepImplicit(outputs=2, hidden=8, noise_sizes=(1, 1, 3))


def weights(simulator, seed=7):
    """Weights drawn by numpy around the start, so that no bias is zero."""
    rng = np.random.default_rng(seed)

    def move(leaf):
        scale = leaf.shape[0] ** -0.5 if leaf.ndim == 2 else 0.3
        return scale * rng.normal(size=leaf.shape).astype("float32")

    return jax.tree.map(move, jax.eval_shape(simulator.init, KEY))


def forward(beta, eps2, eps1, eps0, activation):
    """The blog's five lines, in numpy, float64."""

    def dense(name, x):
        layer = {key: np.asarray(value, np.float64) for key, value in beta[name].items()}
        return x @ layer["kernel"] + layer["bias"]

    z2 = activation(dense("first", eps2))
    h2 = activation(dense("second", z2))
    z1 = activation(dense("third", np.concatenate([eps1, h2], -1)))
    h1 = activation(dense("fourth", z1))
    return z2, h2, z1, h1, dense("last", np.concatenate([eps0, h1], -1))


def relu(x):
    return np.maximum(x, 0)


def test_the_network_is_that_of_the_blog():
    beta = weights(BLOG)
    sizes = {name: layer["kernel"].shape for name, layer in beta.items()}
    assert sizes == {
        "first": (100, 128),
        "second": (128, 128),
        "third": (228, 128),
        "fourth": (128, 128),
        "last": (228, 10),
    }
    noises = np.split(np.random.default_rng(1).normal(size=300), 3)
    layers = jax.jit(BLOG.network.apply)(beta, *map(jnp.float32, noises))
    for name, got, expected in zip(layers._fields, layers, forward(beta, *noises, relu), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5, err_msg=name)
    assert (np.asarray(layers.h1) == 0).any() and (np.asarray(layers.x) < 0).any()  # ReLU, but not at the end


@pytest.mark.parametrize("latent", ["noise", "hidden"])
def test_the_simulator_gives_what_the_network_computes(latent):
    simulator = DeepImplicit(outputs=2, hidden=8, noise_sizes=(1, 2, 3), latent=latent)
    model, beta = simulator.model, weights(simulator)
    many = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (5, *leaf.shape)), beta)
    z, x = jax.jit(model.simulate_batch)(KEY, many)
    noises = np.split(np.asarray(normal(KEY, (5, 6))), (1, 3), axis=1)
    z2, _, z1, _, expected = forward(beta, *noises, relu)
    np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(z, np.concatenate(noises[:2] if latent == "noise" else (z2, z1), 1), atol=1e-5)


def test_the_prior_keeps_x_of_one_size_and_the_papers_would_not():
    model = BLOG.model
    beta = jax.jit(model.sample_prior)(KEY)
    assert jax.tree.structure(beta) == jax.tree.structure(jax.eval_shape(BLOG.init, KEY))
    kernel, bias = np.asarray(beta["third"]["kernel"]), np.asarray(beta["third"]["bias"])
    assert stats.kstest(kernel.ravel() * np.sqrt(228), "norm").pvalue > 1e-3
    assert stats.kstest(bias, "norm").pvalue > 1e-3
    expected = sum(
        stats.norm.logpdf(leaf, 0, leaf.shape[0] ** -0.5 if leaf.ndim == 2 else 1).sum()
        for leaf in map(np.asarray, jax.tree.leaves(beta))
    )
    assert jax.jit(model.log_prior)(beta) == pytest.approx(expected, rel=1e-4)
    noise = normal(jax.random.key(1), (200, 300))
    run = jax.jit(lambda beta: jax.vmap(model.generate, (0, None, None))(noise, beta, None)[1].std(0).mean())
    assert 0.2 < run(beta) < 2
    standard = jax.tree.map(lambda leaf: leaf * (leaf.shape[0] ** 0.5 if leaf.ndim == 2 else 1), beta)
    assert run(standard) > 5_000


def test_scale_of_the_prior():
    wide = DeepImplicit(hidden=4, prior_scale=3.0).model.prior
    assert np.allclose(wide["last"]["bias"].scale, 3) and np.allclose(wide["second"]["kernel"].scale, 1.5)


def test_x_given_h1_is_normal():
    beta, d0 = weights(BLOG), 100
    noises = np.asarray(normal(KEY, (200,)))
    size = 20_000
    run = jax.jit(jax.vmap(lambda eps0: BLOG.network.apply(beta, noises[:100], noises[100:], eps0)))
    layers = run(normal(jax.random.key(1), (size, d0)))
    conditional = BLOG.conditional(layers.h1[0], beta)
    deviation = np.asarray(layers.x) - np.asarray(conditional.mean)
    assert within(deviation, 0)
    products = deviation[:, :, None] * deviation[:, None, :]
    assert within(products, conditional.covariance_matrix)
    assert not within(products, 1.05 * conditional.covariance_matrix)  # the test can fail
    kernel = np.asarray(beta["last"]["kernel"])[:d0]
    np.testing.assert_allclose(conditional.covariance_matrix, kernel.T @ kernel, rtol=1e-4, atol=1e-5)
    square = np.einsum("ni,ij,nj->n", deviation, np.linalg.inv(conditional.covariance_matrix), deviation)
    assert stats.kstest(square, "chi2", args=(10,)).pvalue > 1e-3
    hidden = layers.h1[:3]  # of several data at once
    np.testing.assert_allclose(
        BLOG.conditional(hidden, beta).log_prob(layers.x[:3]), conditional.log_prob(layers.x[:3]), rtol=1e-5
    )


class Exact:
    """The linear model in closed form: x = A e + B e0 + c, with e the inferred noises."""

    def __init__(self, beta):
        run = partial(forward, beta, activation=lambda x: x)
        self.center = run(np.zeros(2), np.zeros(2), np.zeros(4))[-1]
        slopes = np.array([run(*np.split(row, (2, 4)))[-1] - self.center for row in np.eye(8)]).T
        self.a, noise = slopes[:, :4], slopes[:, 4:] @ slopes[:, 4:].T
        self.evidence = stats.multivariate_normal(self.center, self.a @ self.a.T + noise)
        self.covariance = np.linalg.inv(np.eye(4) + self.a.T @ np.linalg.solve(noise, self.a))
        self.gain = self.covariance @ self.a.T @ np.linalg.inv(noise)

    def posterior(self, x):
        return self.gain @ (x - self.center), self.covariance


@pytest.fixture(scope="module")
def linear():
    beta = weights(LINEAR)
    exact = Exact(beta)
    x = exact.evidence.rvs(size=3, random_state=1).astype("float32")
    return beta, exact, x, jax.jit(lambda key, x: LINEAR.importance_sample(key, x, beta, 20_000))


@jax.jit
def moments(draws):
    """Posterior expectations of the noises and of their products."""
    return draws.expectation(lambda e: e), draws.expectation(lambda e: jnp.outer(e, e))


def test_linear_evidence_and_posterior(linear):
    _, exact, data, draw = linear
    for x in data:
        mean, covariance = exact.posterior(x)
        draws = draw(KEY, x)
        assert 200 < draws.effective_size < 20_000
        assert 0 < draws.standard_error < 0.07
        assert abs(draws.log_prob - exact.evidence.logpdf(x)) < 4.5 * draws.standard_error
        # Draws by weight behave as so many independent ones: a standard error from the effective size.
        error = np.sqrt(np.diag(covariance) / draws.effective_size)
        first, second = moments(draws)
        assert (abs(first - mean) < 6 * error).all()
        spread = covariance + np.outer(mean, mean)
        assert (abs(second - spread) < 6 * (1 + abs(mean).max()) * np.sqrt(2 / draws.effective_size)).all()
        assert abs(np.eye(4) - covariance).max() > 0.2  # the prior would not do


def test_draws_from_the_posterior(linear):
    _, _, data, draw = linear
    draws = draw(KEY, data[0])
    noise = draws.sample(jax.random.key(1), 20_000)
    assert noise.shape == (20_000, 4)
    # Given the weights, they are independent, with the weighted mean as expectation.
    assert within(noise, moments(draws)[0]) and not within(noise, 0)
    np.testing.assert_array_equal(draws.sample(KEY, 5), draws.sample(KEY, 5))


def test_the_error_is_what_repeated_runs_show(linear):
    beta, exact, data, _ = linear
    x = data[1]

    @jax.jit
    @jax.vmap
    def run(key):
        draws = LINEAR.importance_sample(key, x, beta, 500)
        return draws.log_prob, draws.standard_error

    log_prob, error = run(jax.random.split(KEY, 400))
    deviation = np.asarray(log_prob) - exact.evidence.logpdf(x)
    ratio = deviation.std() / np.sqrt(np.mean(np.asarray(error) ** 2))
    assert 0.8 < ratio < 1.2
    assert within(np.exp(deviation), 1)  # unbiased for p(x), low on average for its log
    bias = -np.mean(np.asarray(error) ** 2) / 2
    assert deviation.mean() == pytest.approx(bias, abs=4.5 * deviation.std() / 20)


def test_the_posterior_itself_is_the_best_proposal(linear):
    beta, exact, data, _ = linear
    mean, covariance = map(jnp.float32, exact.posterior(data[2]))
    draw = jax.jit(
        lambda scale: LINEAR.importance_sample(
            KEY, data[2], beta, 10_000, dist.MultivariateNormal(mean, scale * covariance)
        )
    )
    best, wide = draw(1.0), draw(2.0)
    evidence = exact.evidence.logpdf(data[2])
    assert best.effective_size == pytest.approx(10_000, rel=1e-4) and best.standard_error < 1e-3
    assert best.log_prob == pytest.approx(evidence, abs=1e-3)
    assert 2_000 < wide.effective_size < 9_000
    assert abs(wide.log_prob - evidence) < 4.5 * wide.standard_error


@jax.jit
def small(key, x, beta):
    return SMALL.importance_sample(key, x, beta, 5_000)


def test_small_network_against_quadrature():
    beta = weights(SMALL)
    axis = np.linspace(-6, 6, 601)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    mean = forward(beta, grid[:, :1], grid[:, 1:], np.zeros((len(grid), 3)), relu)[-1]
    kernel = np.asarray(beta["last"]["kernel"], np.float64)[:3]
    prior = stats.norm.logpdf(grid).sum(1) + 2 * np.log(axis[1] - axis[0])
    noises = np.split(np.random.default_rng(2).normal(size=(3, 5)), (1, 2), axis=1)
    for x in np.float32(forward(beta, *noises, relu)[-1]):
        terms = prior + stats.multivariate_normal.logpdf(x - mean, np.zeros(2), kernel.T @ kernel)
        exact = np.logaddexp.reduce(terms)
        draws = small(KEY, x, beta)
        assert draws.effective_size > 500 and abs(draws.log_prob - exact) < 4.5 * draws.standard_error
        posterior = np.exp(terms - exact)
        first, second = moments(draws)
        assert (abs(first - posterior @ grid) < 6 / np.sqrt(draws.effective_size)).all()
        expected = np.einsum("n,ni,nj->ij", posterior, grid, grid)
        assert (abs(second - expected) < 6 * np.sqrt(3 / draws.effective_size)).all()


def test_many_x_share_their_draws():
    beta = weights(SMALL)
    x = np.float32([[0.3, -0.2], [0.5, 0.4], [-0.3, 0.1]])
    many = jax.jit(jax.vmap(small, (None, 0, None)))(KEY, x, beta)
    assert (many.noise[0] == many.noise[2]).all()
    np.testing.assert_allclose(many.log_weight[1], small(KEY, x[1], beta).log_weight, rtol=1e-4, atol=1e-4)
    eager = SMALL.importance_sample(KEY, x[1], beta, 3)
    assert eager.log_weight.shape == (3,)
    np.testing.assert_allclose(eager.log_weight, many.log_weight[1, :3], rtol=1e-4, atol=1e-4)


def test_float64():
    beta = weights(SMALL)
    x = np.array([0.3, -0.2])
    single = small(KEY, np.float32(x), beta).log_prob
    with jax.enable_x64(True):
        double = small(KEY, x, jax.tree.map(np.float64, beta))
        assert double.log_weight.dtype == np.float64
        assert double.log_prob == pytest.approx(float(single), rel=1e-4)


def test_hidden_units_have_atoms_and_noises_have_none():
    # Why the noises are inferred: nearly half of every hidden unit's mass is at zero, where densities end.
    shares = {}
    for latent in ("noise", "hidden"):
        simulator = DeepImplicit(outputs=2, hidden=8, noise_sizes=(1, 2, 3), latent=latent)
        noise = normal(KEY, (2_000, 6))
        run = jax.jit(jax.vmap(simulator.model.generate, (0, None, None)))
        shares[latent] = np.mean(np.asarray(run(noise, weights(simulator), None)[0]) == 0)
    assert shares["noise"] == 0 and 0.3 < shares["hidden"] < 0.7


class Blind(ImplicitConditional):
    """q(z | x) that does not look at beta: thousands of weights are no input for a network."""

    def init(self, key, z, x, beta, covariate):
        return super().init(key, z, x, None, covariate)

    def sample(self, params, key, x, beta, covariate):
        return super().sample(params, key, x, None, covariate)


def test_lfvi_takes_the_model_but_teaches_a_point_mass_nothing():
    def see(x, z, beta, covariate, center):
        return jnp.concatenate([x, z])

    algorithm = lfvi(
        SMALL.model,
        PointMass(),
        ratio_network(see, (8,)),
        local=Blind((2,), noise_size=2, hidden=(8,)),
        ratio_optimizer=optax.adam(1e-2),
        posterior_optimizer=optax.sgd(1e-2),
        ratio_batch=16,
        posterior_samples=1,
    )
    data = Data(normal(KEY, (32, 2)))
    start = jax.jit(algorithm.init)(KEY, data)
    state, info = jax.jit(algorithm.step)(KEY, start, data)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, info)))
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), start.posterior, state.posterior)
    assert changed["z"]["network"]["mlp"]["layers"][0]["kernel"]
    # Neither r nor q sees the weights: only the prior would move them, and it is at its mode.
    assert changed["beta"] == {"location": False}
    beta = jax.tree.map(lambda leaf: leaf[0], algorithm.sample(KEY, state, 1))
    assert algorithm.sample_local(KEY, state, beta, data).shape == (32, 2)


def test_weights_that_are_equal_or_but_one():
    equal = ImportanceSample(jnp.ones((8, 1)), jnp.full(8, -700.0))
    assert equal.log_prob == pytest.approx(-700) and equal.effective_size == pytest.approx(8)
    assert equal.standard_error < 1e-3
    single = ImportanceSample(jnp.arange(8.0)[:, None], jnp.full(8, -jnp.inf).at[3].set(2.0))
    assert single.log_prob == pytest.approx(2 - np.log(8)) and single.effective_size == pytest.approx(1)
    assert single.standard_error == pytest.approx(np.sqrt(7 / 8))
    assert (single.sample(KEY, 4) == 3).all() and single.expectation(lambda e: e) == pytest.approx(3)


def test_gradients_reach_every_weight():
    beta, x, step = weights(SMALL), np.float32([0.3, -0.2]), np.float32([1e-2, 0])
    gradient = jax.jit(jax.grad(lambda beta: small(KEY, x, beta).log_prob))(beta)
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))
    # To move the last bias is to move x the other way.
    up, down = (small(KEY, x - sign * step, beta).log_prob for sign in (1, -1))
    assert gradient["last"]["bias"][0] == pytest.approx(float(up - down) / 2e-2, rel=0.01)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_lowers_for_accelerators(platform):
    beta = weights(SMALL)

    def draw(key, x):
        return SMALL.importance_sample(key, x, beta, 10).sample(key, 3)

    jax.export.export(jax.jit(draw), platforms=[platform])(KEY, jnp.zeros(2))


CALLS = {
    "no outputs": (lambda: DeepImplicit(outputs=0), "outputs: expected a positive integer, got 0"),
    "a real width": (lambda: DeepImplicit(hidden=1.5), "hidden: expected a positive integer, got 1.5"),
    "two noises": (
        lambda: DeepImplicit(noise_sizes=(4, 4)),
        r"noise_sizes: expected three sizes, got \(4, 4\)",
    ),
    "no noise": (
        lambda: DeepImplicit(noise_sizes=(4, 0, 9)),
        r"noise_sizes\[1\]: expected a positive integer",
    ),
    "latent": (lambda: DeepImplicit(latent="z"), "latent: expected 'noise' or 'hidden', got 'z'"),
    "no prior": (lambda: DeepImplicit(prior_scale=0.0), "prior_scale: expected a positive number, got 0.0"),
    "little noise": (
        lambda: DeepImplicit(noise_sizes=(2, 2, 9)).conditional(jnp.zeros(128), None),
        "noise_sizes: expected at least outputs=10 entries of the last noise, got 9; x given h1",
    ),
    "many x": (
        lambda: SMALL.importance_sample(KEY, jnp.zeros((5, 2)), None, 10),
        r"x: expected shape \(2,\), got \(5, 2\); jax.vmap lifts",
    ),
    "a small proposal": (
        lambda: SMALL.importance_sample(KEY, jnp.zeros(2), None, 10, dist.Normal()),
        r"proposal: expected one event of shape \(2,\), got batch shape \(\) and event shape \(\)",
    ),
    "a factorized proposal": (
        lambda: SMALL.importance_sample(KEY, jnp.zeros(2), None, 10, dist.Normal(jnp.zeros(2))),
        r"got batch shape \(2,\) and event shape \(\); see to_event",
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_wrong_calls(call):
    function, message = CALLS[call]
    with pytest.raises(ValueError, match=message):
        function()


def test_an_old_key():
    with pytest.raises(TypeError, match="key: expected"):
        SMALL.importance_sample(jax.random.PRNGKey(0), jnp.zeros(2), None, 10)
