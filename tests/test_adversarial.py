"""Joint matching against gradients known in closed form, factor analysis, and its own recursion."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from scipy import integrate, stats
from toys import count_traces, within

from himlib import (
    Data,
    HierarchicalImplicitModel,
    ImplicitConditional,
    Network,
    Outcome,
    fit,
    fit_seeds,
    ratio_network,
)
from himlib._checkpoints import Checkpoint
from himlib.adversarial import joint_matching
from himlib.networks import straight_through
from himlib.random import normal

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(0)
SGD = {"ratio_optimizer": optax.sgd(1.0), "posterior_optimizer": optax.sgd(1.0)}

# Without noise a step can be done by hand: z is one number and x another, on either side.
FIXED = HierarchicalImplicitModel(
    dist.Normal(0.5, 2.0),
    generate=lambda noise, beta, covariate: (0.4, jnp.sin(beta) + 0 * noise),
    noise_shape=(),
)
SAME = Data(jnp.full(8, 1.5))


class Shift:
    """q(z | x): the point x + phi."""

    @staticmethod
    def init(key, z, x, beta, covariate):
        assert beta is None and z.shape == x.shape
        return jnp.array(0.3)

    @staticmethod
    def sample(params, key, x, beta, covariate):
        assert beta is None
        return x + params


def curved(x, z):
    return jnp.sin(x) * z + x**2


def scaled(start=0.7, function=curved):
    """r = a f(x, z), with a to be learned."""

    def apply(a, x, z, beta, covariate, center):
        assert beta is None and center is None
        return a * function(x, z)

    return Network(lambda key, *batch: jnp.array(start), apply)


def fixed(penalty=0.0, **options):
    options = {"local": Shift(), "ratio": scaled(), "batch_size": 4, **SGD, **options}
    ratio = options.pop("ratio")
    return joint_matching(FIXED, ratio, start=lambda key: jnp.array(-0.2), penalty=penalty, **options)


def one_step(algorithm, data=SAME, key=KEY):
    state = algorithm.init(KEY, data)
    after, info = jax.jit(algorithm.step)(key, state, data)
    return state, after, info


def softplus(r):
    return np.logaddexp(0, r)


def slope(function, at, width=1e-5):
    return (function(at + width) - function(at - width)) / (2 * width)


def f(x, z):
    return np.sin(x) * z + x**2


@pytest.mark.parametrize("penalty", [0.0, 0.6])
def test_ratio_goes_down_the_penalized_loss(penalty):
    def steepness(a, x, z):
        return slope(lambda x: a * f(x, z), x) ** 2 + slope(lambda z: a * f(x, z), z) ** 2

    def loss(a):
        p, q = (np.sin(-0.2), 0.4), (1.5, 1.8)
        value = softplus(-a * f(*p)) + softplus(a * f(*q))
        return value + penalty / 2 * (steepness(a, *p) + steepness(a, *q))

    state, after, info = one_step(fixed(penalty))
    assert state.ratio - after.ratio == pytest.approx(slope(loss, 0.7, 1e-3), rel=1e-3)
    assert abs(info.ratio_gradient) == pytest.approx(abs(slope(loss, 0.7, 1e-3)), rel=1e-3)
    penalty = 0.0  # the loss is reported without it
    assert info.ratio_loss == pytest.approx(loss(0.7), rel=1e-4)
    # r is positive on both sides: right on those of the model only.
    assert info.accuracy == 0.5 * (f(np.sin(-0.2), 0.4) > 0)


def test_weights_and_q_go_down_their_loss():
    def log_prior(beta):
        return stats.norm.logpdf(beta, 0.5, 2)

    def loss(beta, phi):
        value = softplus(0.7 * f(np.sin(beta), 0.4)) - 0.7 * f(1.5, 1.5 + phi)
        return value - log_prior(beta) / 8

    state, after, info = one_step(fixed())
    # The prior's scale is the unit in which the weights are learned, and enters twice.
    moved = after.posterior["beta"]["location"] - state.posterior["beta"]["location"]
    assert 2 * moved == pytest.approx(-4 * slope(lambda beta: loss(beta, 0.3), -0.2), rel=1e-3)
    assert after.posterior["z"] - 0.3 == pytest.approx(-slope(lambda phi: loss(-0.2, phi), 0.3), rel=1e-3)
    assert info.elbo == pytest.approx(log_prior(-0.2) + 8 * 0.7 * f(1.5, 1.8), rel=1e-4)
    assert info.posterior_gradient > 0 and info.spread == 0


def test_moments_and_refit_are_added():
    plain = one_step(fixed())[1].posterior
    weight = optax.linear_schedule(0.3, 0.0, 10)
    _, matched, _ = one_step(
        fixed(moments=lambda x: jnp.stack([x, x**2]), moment_weight=lambda step: weight(step + 5))
    )
    moved = 2 * (matched.posterior["beta"]["location"] - plain["beta"]["location"])

    def distance(beta):
        x = np.sin(beta)
        return 0.15 * ((x - 1.5) ** 2 + (x**2 - 1.5**2) ** 2)

    assert moved == pytest.approx(-4 * slope(distance, -0.2), rel=1e-3)
    assert matched.posterior["z"] == plain["z"]

    def refit(beta, x, z, covariate):
        return (x - beta * z) ** 2

    after = one_step(fixed(refit=refit))[1].posterior
    moved = 2 * (after["beta"]["location"] - plain["beta"]["location"])
    assert moved == pytest.approx(-4 * slope(lambda b: (1.5 - b * 1.8) ** 2, -0.2), rel=1e-3)
    moved = after["z"] - plain["z"]
    assert moved == pytest.approx(-slope(lambda phi: (1.5 + 0.2 * (1.5 + phi)) ** 2, 0.3), rel=1e-3)


def test_moments_of_weight_zero_change_nothing():
    plain = one_step(fixed())
    zero = one_step(fixed(moments=lambda x: x[None], moment_weight=lambda step: 0.0))
    # They are two programs, and may round differently.
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), plain, zero)


def test_without_a_path_through_x_there_is_no_gradient():
    for stop in (False, True):
        model = HierarchicalImplicitModel(
            dist.Normal(0.0, 1.0),
            generate=lambda noise, beta, c, stop=stop: (
                None,
                noise + (jax.lax.stop_gradient(beta) if stop else beta),
            ),
            noise_shape=(),
        )
        algorithm = joint_matching(
            model, scaled(function=lambda x, z: x), start=lambda key: jnp.array(0.0), **SGD
        )
        _, after, _ = one_step(algorithm, Data(jnp.ones(200)))
        assert (after.posterior["beta"]["location"] == 0) == stop  # and the prior is at its mode


def test_weights_move_towards_the_data():
    # Known r of N(0, 1) and N(1, 1): the slope of E_p softplus(r) in the mean of p is an integral.
    model = HierarchicalImplicitModel(
        dist.Normal(0.0, 1.0), generate=lambda noise, beta, covariate: (None, beta + noise), noise_shape=()
    )
    ratio = scaled(1.0, lambda x, z: 0.5 - x)
    algorithm = joint_matching(model, ratio, start=lambda key: jnp.array(0.0), batch_size=500, **SGD)
    data = Data(1 + normal(KEY, (1000,)))
    state = algorithm.init(KEY, data)
    step = jax.jit(lambda keys: jax.lax.map(lambda key: algorithm.step(key, state, data)[0], keys))
    moved = step(jax.random.split(KEY, 50)).posterior["beta"]["location"]
    expected = integrate.quad(lambda x: stats.norm.pdf(x) / (1 + np.exp(x - 0.5)), -9, 9)[0]
    assert within(moved, expected) and not within(moved, expected + 0.05) and expected > 0.2


def test_averages_are_weighted_sums_of_the_steps():
    rates = {"ratio_optimizer": optax.set_to_zero(), "posterior_optimizer": optax.sgd(0.1)}
    algorithm = fixed(decay=0.8, **rates)
    step, state = jax.jit(algorithm.step), algorithm.init(KEY, SAME)
    path = []
    for _ in range(4):
        state, _ = step(KEY, state, SAME)
        path.append([float(state.posterior["beta"]["location"][0]), float(state.posterior["z"])])
        share = 0.8 ** np.arange(len(path))[::-1]
        average = share @ np.array(path) / share.sum()
        got = state.posterior["average"]
        np.testing.assert_allclose([got["beta"]["location"][0], got["z"]], average, rtol=1e-5)
    location, z = average
    # All that is asked of a state is the average's.
    assert len(set(np.round(np.array(path)[:, 0], 4))) == 4
    np.testing.assert_allclose(algorithm.moments(state), [[0.5 + 2 * location], [0]], rtol=1e-5)
    np.testing.assert_allclose(algorithm.sample(KEY, state, 3), np.full(3, 0.5 + 2 * location), rtol=1e-5)
    np.testing.assert_allclose(algorithm.sample_local(KEY, state, None, SAME), np.full(8, 1.5 + z), rtol=1e-5)
    prior = stats.norm.logpdf(0.5 + 2 * location, 0.5, 2)
    expected = prior + 8 * 0.7 * f(1.5, 1.5 + z)
    assert algorithm.elbo(KEY, state, SAME) == pytest.approx(expected, rel=1e-4)
    assert algorithm.log_ratio(state, 0.3, 2.0, None) == pytest.approx(0.7 * f(0.3, 2.0), rel=1e-4)


def test_the_last_step_without_averaging():
    _, after, _ = one_step(fixed())
    posterior = dict(after.posterior)
    jax.tree.map(np.testing.assert_array_equal, posterior.pop("average"), posterior)


# Factor analysis: x = w z + b + s e, where all is normal and known.


def factors(noise, beta, covariate):
    z = noise[0]
    return z, beta["w"] * z + beta["b"] + jnp.exp(beta["log_s"]) * noise[1:]


PRIOR = {
    "w": dist.Normal(jnp.zeros(2), 1.0),
    "b": dist.Normal(jnp.zeros(2), 1.0),
    "log_s": dist.Normal(0.0, 1.0),
}
FACTORS = HierarchicalImplicitModel(PRIOR, generate=factors, noise_shape=(3,))
TRUE = {"w": jnp.array([1.0, -0.6]), "b": jnp.array([0.5, 0.2]), "log_s": jnp.array(-0.7)}


def begin(key):
    """Weights far from the truth; the sign of w is the data's own secret, and is given away."""
    return {"w": jnp.array([0.3, 0.0]), "b": jnp.array([-0.5, 0.0]), "log_s": 0.1 * normal(key)}


def adam(rate, steps):
    return optax.flatten(optax.adam(optax.cosine_decay_schedule(rate, steps, 0.02), b1=0.5))


@pytest.fixture(scope="module")
def factor_runs():
    """Four seeds side by side, and the number of times that the simulator was traced."""
    steps, traces = 4000, []
    _, x = jax.jit(
        lambda key: jax.vmap(FACTORS.generate, (0, None, None))(normal(key, (4000, 3)), TRUE, None)
    )(jax.random.key(5))
    algorithm = joint_matching(
        count_traces(FACTORS, traces),
        ratio_network(hidden=(16,)),
        local=ImplicitConditional(noise_size=1, hidden=(16,)),
        start=begin,
        ratio_optimizer=adam(1e-2, steps),
        posterior_optimizer={"beta": adam(1e-2, steps), "z": adam(1e-2, steps)},
        batch_size=256,
        penalty=0.1,
        decay=0.99,
    )
    result = fit_seeds(jax.random.split(KEY, 4), algorithm, Data(x), steps, progress=False)
    return algorithm, x, result, traces


def test_factor_analysis_learns_the_distribution_of_x(factor_runs):
    algorithm, x, result, _ = factor_runs
    mean, covariance = np.mean(x, 0), np.cov(x.T)
    for seed in range(4):
        state = jax.tree.map(lambda leaf, seed=seed: leaf[seed], result.state)
        beta = jax.tree.map(lambda leaf: np.asarray(leaf[0]), algorithm.sample(KEY, state, 1))
        fitted = np.outer(beta["w"], beta["w"]) + np.exp(2 * beta["log_s"]) * np.eye(2)
        np.testing.assert_allclose(beta["b"], mean, atol=0.12)
        np.testing.assert_allclose(fitted, covariance, atol=0.2)
    start = begin(KEY)
    assert (
        abs(start["b"] - mean).max() > 0.5 and abs(np.outer(start["w"], start["w"]) - covariance).max() > 0.5
    )


def test_factor_analysis_learns_the_posterior_of_z(factor_runs):
    algorithm, _, result, _ = factor_runs
    at = np.float32([[0.5, 0.2], [1.5, -0.4], [-0.8, 1.0]])
    precision = 1 + np.sum(TRUE["w"] ** 2) / np.exp(2 * TRUE["log_s"])
    means = (at - TRUE["b"]) @ TRUE["w"] / np.exp(2 * TRUE["log_s"]) / precision
    data, right = Data(jnp.repeat(at, 2000, 0)), 0
    for seed in range(4):
        state = jax.tree.map(lambda leaf, seed=seed: leaf[seed], result.state)
        z = np.asarray(algorithm.sample_local(KEY, state, None, data)).reshape(3, 2000)
        np.testing.assert_allclose(z.mean(1), means, atol=0.3)
        right += np.allclose(z.std(1), precision**-0.5, rtol=0.3)
    assert right >= 3  # on a seed in ten or so q ends as a function of x, with next to no width
    assert precision**-0.5 < 0.5 and np.ptp(means) > 1  # the prior would not do


def test_one_compilation_for_all_seeds(factor_runs):
    algorithm, x, result, traces = factor_runs
    before = len(traces)
    assert 0 < before < 20
    fit_seeds(jax.random.split(jax.random.key(9), 4), algorithm, Data(x + 1), 1000, progress=False)
    assert len(traces) <= before + 2  # the shapes are looked at again
    assert result.history.accuracy.shape == (4, 4000) and np.isfinite(result.history.elbo).all()


# As fit runs it.


def small(**options):
    options = {"ratio_optimizer": optax.adam(1e-2), "posterior_optimizer": optax.adam(1e-2), **options}
    local = ImplicitConditional(hidden=(4,))
    return joint_matching(
        FACTORS, ratio_network(hidden=(4,)), local=local, start=begin, batch_size=16, **options
    )


def test_goes_on_bit_for_bit_from_a_checkpoint(tmp_path, monkeypatch):
    data, algorithm = Data(normal(KEY, (64, 2))), small(decay=0.9)
    run = partial(fit, KEY, algorithm, data, chunk=3, progress=False)
    whole, path, calls = run(12), tmp_path / "run.npz", []

    def save(*args, original=Checkpoint.save):
        original(*args)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", save)
        stopped = run(12, checkpoint=path)
    assert stopped.outcome is Outcome.INTERRUPTED and stopped.state.step < 12
    resumed = run(12, checkpoint=path)
    jax.tree.map(
        np.testing.assert_array_equal, (whole.state, whole.history), (resumed.state, resumed.history)
    )


def test_same_under_jit_and_vmap_and_for_a_key():
    algorithm, data = small(), Data(normal(KEY, (64, 2)))
    keys = jax.random.split(KEY, 2)
    many = jax.jit(jax.vmap(lambda key: algorithm.step(key, algorithm.init(key, data), data)))(keys)
    state = algorithm.init(keys[1], data)
    step = jax.jit(algorithm.step)
    first, again, other = (step(key, state, data) for key in (keys[1], keys[1], keys[0]))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert first[1].elbo != other[1].elbo
    for a, b in zip(*map(jax.tree.leaves, (first, many)), strict=True):
        np.testing.assert_allclose(a, b[1], rtol=1e-3, atol=1e-4)


def test_covariates_stay_with_their_rows():
    # z and x of both sides tell which row they are of, and so do the covariates that r sees.
    class Copy(Shift):
        @staticmethod
        def sample(params, key, x, beta, covariate):
            return covariate + 0 * params

    model = HierarchicalImplicitModel(
        dist.Normal(0.0, 1.0), generate=lambda noise, beta, c: (c, c + 0 * (beta + noise)), noise_shape=()
    )

    def apply(a, x, z, beta, covariate, center):
        return a * ((x - covariate) ** 2 + (z - covariate) ** 2)

    algorithm = joint_matching(
        model,
        Network(lambda key, *batch: jnp.array(1.0), apply),
        local=Copy(),
        start=lambda key: jnp.array(0.3),
        batch_size=32,
        **SGD,
    )
    rows = jnp.arange(50.0)
    state, after, info = one_step(algorithm, Data(rows, rows))
    assert info.ratio_loss == pytest.approx(2 * np.log(2), rel=1e-5) and after.ratio == state.ratio
    _, _, mixed = one_step(algorithm, Data(rows, rows + 1))
    assert mixed.ratio_loss > 1.5


def test_symbols_pass_a_gradient_on():
    # x is a symbol, one-hot, from logits and noise; a sharp ratio would know any soft one.
    def generate(noise, beta, covariate):
        return None, straight_through(beta + noise)

    model = HierarchicalImplicitModel(dist.Normal(jnp.zeros(3), 1.0), generate=generate, noise_shape=(3,))
    steps = 300
    algorithm = joint_matching(
        model,
        ratio_network(quadratic=False, hidden=(8,)),
        start=lambda key: jnp.zeros(3),
        ratio_optimizer=adam(2e-2, steps),
        posterior_optimizer=adam(2e-2, steps),
        batch_size=256,
        decay=0.95,
    )
    shares = np.array([0.6, 0.3, 0.1])
    data = Data(jax.nn.one_hot(np.repeat(np.arange(3), (600 * shares).astype(int)), 3))
    result = fit(KEY, algorithm, data, steps, progress=False)
    beta = algorithm.sample(KEY, result.state, 1)[0]
    _, x = jax.vmap(model.generate, (0, None, None))(normal(KEY, (5000, 3)), beta, None)
    assert set(np.unique(x)) <= {0.0, 1.0}
    np.testing.assert_allclose(x.mean(0), shares, atol=0.08)


def test_float64():
    with jax.enable_x64(True):
        data = Data(np.full(8, 1.5))
        model = HierarchicalImplicitModel(
            dist.Normal(0.5, 2.0),
            generate=lambda n, beta, c: (None, jnp.float64(beta) + 0 * n),
            noise_shape=(),
        )
        algorithm = joint_matching(
            model, scaled(function=lambda x, z: x), start=lambda key: jnp.float64(-0.2), batch_size=4, **SGD
        )
        _, after, info = one_step(algorithm, data)
        assert after.posterior["beta"]["location"].dtype == info.elbo.dtype == np.float64


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_lowers_for_accelerators(platform):
    algorithm, data = small(), Data(jnp.zeros((64, 2)))
    run = jax.jit(lambda key: algorithm.step(key, algorithm.init(key, data), data))
    jax.export.export(run, platforms=[platform])(KEY)


def call(data=SAME, key=KEY, **options):
    return fixed(**options).init(key, data)


NO_Z = HierarchicalImplicitModel(
    dist.Normal(0.0, 1.0), generate=lambda n, b, c: (None, b + 0 * n), noise_shape=()
)
CALLS = {
    "no model": (lambda: joint_matching(None, scaled(), start=begin, **SGD), TypeError, "model: expected"),
    "no generate": (
        lambda: joint_matching(
            HierarchicalImplicitModel(dist.Normal(0.0, 1.0), lambda key, beta, c: (None, beta)),
            scaled(),
            start=begin,
            **SGD,
        ),
        ValueError,
        "model: expected one with generate",
    ),
    "no network": (lambda: call(ratio=curved), TypeError, "ratio: expected a Network"),
    "a class": (lambda: call(local=ImplicitConditional), TypeError, "local: expected an instance"),
    "a rate": (lambda: call(ratio_optimizer=1e-3), TypeError, "ratio_optimizer: expected an optax"),
    "one part": (
        lambda: call(posterior_optimizer={"beta": optax.sgd(1.0)}),
        ValueError,
        r"posterior_optimizer: expected parts \['beta', 'z'\]",
    ),
    "a point": (
        lambda: joint_matching(FIXED, scaled(), start=0.0, **SGD),
        TypeError,
        "start: expected a function, got 0.0",
    ),
    "a weight": (lambda: call(moment_weight=1.0), TypeError, "moment_weight: expected a function, got 1.0"),
    "moments": (lambda: call(moments=2), TypeError, "moments: expected a function, got 2"),
    "refit": (lambda: call(refit=0.1), TypeError, "refit: expected a function, got 0.1"),
    "no batch": (lambda: call(batch_size=0), ValueError, "batch_size: expected a positive integer"),
    "a large batch": (lambda: call(batch_size=9), ValueError, "8 observations are fewer than batch_size=9"),
    "a reward": (lambda: call(penalty=-1.0), ValueError, "penalty: expected a number from 0 on, got -1.0"),
    "no penalty": (lambda: call(penalty=float("nan")), ValueError, "penalty: expected"),
    "for ever": (lambda: call(decay=1.0), ValueError, "decay: expected a number from 0 to below 1, got 1.0"),
    "an array": (lambda: call(data=jnp.zeros(9)), TypeError, "data: expected Data"),
    "two columns": (lambda: call(data=Data(jnp.zeros((9, 2)))), ValueError, "simulator: gives x of shape"),
    "no local": (lambda: call(local=None), ValueError, "local: the simulator gives a z"),
    "an old key": (lambda: call(key=jax.random.PRNGKey(0)), TypeError, "key: expected"),
    "vectors": (
        lambda: call(ratio=scaled(function=lambda x, z: jnp.stack([x, z]))),
        ValueError,
        r"ratio: expected one number for each datum, got shape \(2,\)",
    ),
    "two rounds": (
        lambda: fit(KEY, fixed(), SAME, 10, rounds=2, progress=False),
        ValueError,
        "refine: a point has no width",
    ),
    "integers": (
        lambda: joint_matching(
            HierarchicalImplicitModel(
                dist.Normal(0.0, 1.0), generate=lambda n, b, c: (None, jnp.int32(3)), noise_shape=()
            ),
            scaled(),
            start=lambda key: jnp.array(0.0),
            batch_size=4,
            **SGD,
        ).init(KEY, Data(jnp.arange(8))),
        ValueError,
        "data: expected x in floating point.*one_hot",
    ),
    "no numbers": (
        lambda: joint_matching(
            NO_Z, scaled(function=lambda x, z: x), start=lambda key: jnp.array(jnp.nan), **SGD
        ).init(KEY, Data(jnp.zeros(200))),
        ValueError,
        "simulator: 50.0% of some output is not finite",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_wrong_calls(name):
    function, error, message = CALLS[name]
    with pytest.raises(error, match=message):
        function()
