"""The algorithm against closed forms, with the exact ratio in place of a network wherever possible."""

from functools import cache, partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from scipy import stats
from toys import FLAT, GAUSSIAN, LinearConditional, X, count_traces, known_ratio, within

from himlib import (
    ALGORITHM_1,
    Data,
    FullRankNormal,
    HierarchicalImplicitModel,
    ImplicitConditional,
    MeanFieldNormal,
    Network,
    Outcome,
    PointMass,
    RatioLoss,
    State,
    cosine_adam,
    fit,
    lfvi,
    ratio_network,
)
from himlib.models import Frame, Space

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(17)
DATA = Data(jnp.asarray(X))
SGD = {"ratio_optimizer": optax.set_to_zero(), "posterior_optimizer": optax.sgd(1.0), "ratio_batch": 2}
Q = {"location": np.array([0.3], "float32"), "log_scale": np.array([-0.6], "float32")}
# log p(x | beta): what the exact log ratio of the flat model is, up to a term without beta.
FLAT_RATIO = known_ratio(lambda x, z, beta, covariate: GAUSSIAN.predictive(beta).log_prob(x))


def many_steps(algorithm):
    """A step from one state under each of many keys: in a loop, which is quicker to compile than vmap."""
    return jax.jit(lambda keys, *rest: jax.lax.map(lambda key: algorithm.step(key, *rest), keys))


class Stepper:
    """Single steps of LFVI from one state under many keys: estimates of the objective and of its gradient."""

    def __init__(self, model, ratio, data=DATA, **options):
        self.data = data
        self.algorithm = lfvi(model, options.pop("posterior", MeanFieldNormal()), ratio, **{**SGD, **options})
        self.state = self.algorithm.init(KEY, data)
        self.compiled = many_steps(self.algorithm)

    def __call__(self, posterior, count=1000, **ratio):
        parts = {**self.state.ratio, **ratio}, {**self.state.posterior, **posterior}
        ratio, posterior = jax.tree.map(partial(np.asarray, dtype="float32"), parts)
        state = self.state._replace(ratio=ratio, posterior=posterior)
        after, info = self.compiled(jax.random.split(KEY, count), state, self.data)
        # One step of gradient ascent at rate one moves q by the gradient of the objective over N.
        size = len(jax.tree.leaves(self.data)[0])
        gradient = jax.tree.map(lambda a, b: size * (np.asarray(a) - b), after.posterior, state.posterior)
        return np.asarray(info.elbo), gradient, info


@jax.jit
@partial(jax.value_and_grad, argnums=(0, 1))
def flat_elbo(location, log_scale):
    """The ELBO of N(location, scale^2) beside the exact local posterior, and its gradient."""
    return GAUSSIAN.elbo(location, jnp.exp(log_scale), DATA.x)


def closed_form(posterior):
    return flat_elbo(posterior["location"][0], posterior["log_scale"][0])


def agrees(result, expected):
    value, gradient, _ = result
    beta = np.concatenate([gradient["beta"]["location"], gradient["beta"]["log_scale"]], -1)
    return within(value, expected[0], tolerance=1e-4) and within(beta, np.array(expected[1]), tolerance=1e-4)


# The objective.

WEIGHT = 0.8**2  # of x in the exact posterior of z: the variances are 0.64 and 0.36
EXACT_LOCAL = LinearConditional(WEIGHT, 1 - WEIGHT, 0.0, float(np.log(0.6 * np.sqrt(WEIGHT))))
OTHER_LOCAL = LinearConditional(0.4, 0.7, 0.2, -0.3)


@jax.jit
@partial(jax.value_and_grad, argnums=tuple(range(6)))
def linear_elbo(location, log_scale, a, b, c, s):
    """The ELBO of normal q(beta) and LinearConditional q(z | x, beta), in closed form, and its gradient."""
    variance, x, q = jnp.exp(2 * log_scale), DATA.x, jnp.exp(2 * s)

    def expected_log_normal(mean, slope, scale):  # of a residual mean + slope * (beta - location) + N(0, q)
        return -jnp.log(2 * jnp.pi * scale**2) / 2 - (mean**2 + slope**2 * variance + q) / (2 * scale**2)

    local = expected_log_normal(a * x + c + (b - 1) * location, b - 1, GAUSSIAN.local_scale)
    noise = expected_log_normal((1 - a) * x - c - b * location, b, GAUSSIAN.noise_scale)
    entropy = jnp.log(2 * jnp.pi * jnp.e * q) / 2
    divergence = (variance + location**2 - 1) / 2 - log_scale
    return jnp.sum(local + noise + entropy) - divergence


def local_ratio(params, x, z, beta, covariate, center):
    """The exact log ratio beside the local family whose parameters it holds, plus a slope in beta."""
    local = LinearConditional(**params["local"])
    return GAUSSIAN.log_joint(x, z, beta) - local.log_prob(z, x, beta) + params["slope"] * beta


@pytest.fixture(scope="module")
def with_local():
    ratio = Network(
        lambda key, *batch: {"local": EXACT_LOCAL.init(*5 * [None]), "slope": jnp.zeros(())}, local_ratio
    )
    return Stepper(GAUSSIAN.model, ratio, local=EXACT_LOCAL, posterior_samples=2)


def test_value_and_gradient_are_the_closed_form(with_local):
    assert agrees(with_local({"beta": Q}), closed_form(Q))
    assert not agrees(with_local({"beta": Q}, slope=0.2), closed_form(Q))


def test_with_every_answer_exact_nothing_is_random(with_local):
    # At the exact posterior the value is the evidence and the gradient zero, for every draw.
    answer = GAUSSIAN.posterior(DATA.x)
    posterior = {"location": answer.mean[None], "log_scale": jnp.log(answer.scale)[None]}
    value, gradient, _ = with_local({"beta": posterior})
    np.testing.assert_allclose(value, GAUSSIAN.evidence(DATA.x), rtol=1e-5)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) < 1e-3


def test_gradient_of_the_local_family_is_the_closed_form(with_local):
    local = vars(OTHER_LOCAL)
    value, gradient, _ = with_local({"beta": Q, "z": OTHER_LOCAL.init(*5 * [None])}, local=local)
    here = [Q["location"][0], Q["log_scale"][0], *local.values()]
    # q(z | x, beta) learns at beta of the proposal, here the standard normal prior; q(beta) learns at q.
    (expected, slopes), (_, proposed) = linear_elbo(*here), linear_elbo(0.0, 0.0, *local.values())
    assert within(value, expected, tolerance=1e-4)
    for part, names, expected in (
        ("beta", ["location", "log_scale"], slopes[:2]),
        ("z", "abcs", proposed[2:]),
    ):
        estimates = np.stack([np.ravel(gradient[part][name]) for name in names], -1)
        assert within(estimates, np.array(expected), tolerance=1e-4)
    assert not within(gradient["z"]["c"], slopes[4])
    best = [*here[:2], *vars(EXACT_LOCAL).values()]  # the closed form itself, at the exact local posterior
    assert linear_elbo(*best)[0] == pytest.approx(float(closed_form(Q)[0]), rel=1e-5)


def test_constrained_globals_carry_their_jacobian():
    # With u = log(beta) this is the flat model again: at its exact posterior nothing is random.
    model = HierarchicalImplicitModel(
        dist.LogNormal(0.0, 1.0),
        generate=lambda noise, beta, _: (None, jnp.log(beta) + noise),
        noise_shape=(),
    )
    ratio = known_ratio(lambda x, z, beta, _: GAUSSIAN.predictive(jnp.log(beta)).log_prob(x))
    algorithm, frame = lfvi(model, MeanFieldNormal(), ratio, **SGD), Space(model.prior).frame
    exact = GAUSSIAN.posterior(DATA.x)
    location, scale = (exact.mean - frame.location) / frame.scale, exact.scale / frame.scale
    q = {"beta": {"location": location, "log_scale": jnp.log(scale)}}
    state = State({"slope": jnp.zeros(())}, None, None, None, frame, None)
    objective = jax.jit(
        jax.value_and_grad(lambda q, key: algorithm.elbo(key, state._replace(posterior=q), DATA))
    )
    for key in jax.random.split(KEY, 3):
        value, gradient = objective(q, key)
        assert value == pytest.approx(float(GAUSSIAN.evidence(DATA.x)), rel=1e-5)
        np.testing.assert_allclose(jnp.concatenate(jax.tree.leaves(gradient)), 0, atol=1e-4)


@pytest.fixture(scope="module")
def minibatch():
    return Stepper(FLAT, FLAT_RATIO, batch_size=2, posterior_samples=2)


def test_minibatches_are_scaled_to_the_full_data(minibatch):
    result = minibatch({"beta": Q})
    assert agrees(result, closed_form(Q))
    # What the data give, less the prior and entropy, is 2/5 as large without N/M: far outside the errors.
    with_prior_alone = float(-dist.kl_divergence(dist.Normal(0.3, np.exp(-0.6)), GAUSSIAN.prior))
    unscaled = with_prior_alone + 2 / 5 * (result[0] - with_prior_alone)
    assert not within(unscaled, closed_form(Q)[0])


def test_full_data_objective_is_the_mean_of_the_minibatched_one():
    # A point mass and batches of one leave the choice of the datum as all that is random: N values in all.
    stepper = Stepper(FLAT, FLAT_RATIO, posterior=PointMass(), batch_size=1, posterior_samples=1)
    point = {"beta": {"location": Q["location"]}}
    value, gradient, _ = stepper(point)
    values, index, counts = np.unique(value, return_index=True, return_counts=True)
    assert len(values) == len(X)

    @jax.jit
    @jax.value_and_grad
    def objective(posterior):
        return stepper.algorithm.elbo(KEY, stepper.state._replace(posterior=posterior), DATA)

    full, slope = objective(point)
    prior = float(GAUSSIAN.prior.log_prob(0.3))
    assert full == pytest.approx(prior + float(GAUSSIAN.predictive(0.3).log_prob(DATA.x).sum()), rel=1e-5)
    np.testing.assert_allclose(values.mean(), full, rtol=1e-5)
    slopes = gradient["beta"]["location"][index]
    np.testing.assert_allclose(slopes.mean(0), slope["beta"]["location"], rtol=1e-4)
    assert stats.chisquare(counts).pvalue > 1e-4  # and each is drawn equally often
    assert not np.isclose(prior + (values.mean() - prior) / len(X), full, rtol=0.1)  # without N/M


# Score centering.


def test_centering_changes_nothing_in_an_exact_ratio_and_mends_a_biased_one(minibatch):
    # With antithetic noise the correction of this model's exact ratio is zero, and not only on average.
    centered = Stepper(FLAT, FLAT_RATIO, batch_size=2, posterior_samples=2, center_score=True)
    plain, exact, mended = minibatch({"beta": Q}), centered({"beta": Q}), centered({"beta": Q}, slope=3.0)
    for a, b, c in zip(*(jax.tree.leaves(result[1]) for result in (plain, exact, mended)), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=2e-3)
        np.testing.assert_allclose(c, a, rtol=1e-3, atol=2e-3)
    biased = minibatch({"beta": Q}, slope=3.0)
    assert not agrees(biased, closed_form(Q))
    np.testing.assert_allclose(mended[0], biased[0], rtol=1e-5)  # the reported value is not centered


def test_the_expected_score_is_at_fixed_draws_of_the_model():
    # A slope of r in x alone moves no posterior: it would if beta went through the simulator as well.
    def leaning(x, z, beta, covariate):
        return GAUSSIAN.predictive(beta).log_prob(x) + 3 * x

    result = Stepper(FLAT, known_ratio(leaning), center_score=True)({"beta": Q})
    gradient = np.concatenate([result[1]["beta"]["location"], result[1]["beta"]["log_scale"]], -1)
    assert within(gradient, np.array(closed_form(Q)[1]), tolerance=1e-3)


def test_centering_has_mean_zero_for_a_simulator_without_antithetic_noise():
    model = HierarchicalImplicitModel(
        GAUSSIAN.prior, simulate=lambda key, beta, covariate: (None, beta + jax.random.normal(key))
    )
    stepper = Stepper(model, FLAT_RATIO, posterior_samples=2, center_score=True)
    for slope in (0.0, 3.0):
        _, gradient, _ = stepper({"beta": Q}, slope=slope)
        values = np.concatenate([gradient["beta"]["location"], gradient["beta"]["log_scale"]], -1)
        assert within(values, np.array(closed_form(Q)[1]), tolerance=1e-3)


# What the ratio network is given: a network whose first parameters are the batch itself.

SEEN = Network(
    lambda key, *batch: {"seen": batch},
    lambda params, *inputs: 0.0 * sum(map(jnp.sum, jax.tree.leaves(inputs))),
)
LARGE = 8192
REFERENCES = {
    "predictive": "predictive",
    "empirical": "empirical",
    "function": lambda key, covariate: covariate + 100,
}


def jitter(key, covariate):
    return covariate + 0.01 * jax.random.normal(key)


def regression():
    """x ~ N(c beta, 1) with a covariate c; z is a noisy copy of x."""

    def generate(noise, beta, covariate):
        x = beta * covariate + noise[0]
        return x + 0.5 * noise[1], x

    return HierarchicalImplicitModel(dist.Normal(0.5, 2.0), generate=generate, noise_shape=(2,))


@cache
def seen_by_ratio(reference, proposal="round"):
    covariate = np.linspace(-1, 1, 7, dtype="float32")
    data = Data(50 + 10 * np.arange(7, dtype="float32"), covariate)
    local = LinearConditional(-2.0, 1.0, 3.0, -2.0)
    algorithm = lfvi(
        regression(), MeanFieldNormal(), SEEN, local=local, reference=REFERENCES[reference],
        proposal=proposal, width=2.0, jitter=jitter if reference == "predictive" else None,
        **{**SGD, "ratio_batch": LARGE},
    )  # fmt: skip
    state = algorithm.init(KEY, data)
    rows = [np.asarray(leaf) for leaf in state.ratio["seen"]]
    return algorithm, data, state, [leaf[:LARGE] for leaf in rows], [leaf[LARGE:] for leaf in rows]


@pytest.mark.parametrize("reference", REFERENCES)
def test_ratio_sees_joint_draws_and_reference_draws(reference):
    _, data, _, joint, product = seen_by_ratio(reference)
    x, z, beta, covariate, center = joint
    # The model's side: pairs of one call, at the covariates of the data and at beta of the proposal.
    noise, copy = x - beta * covariate, z - x
    for values, scale in ((noise, 1.0), (copy, 0.5), ((beta - 0.5) / 2, 1.0)):
        assert stats.kstest(values, stats.norm(0, scale).cdf).pvalue > 1e-4
    assert abs(np.corrcoef(noise, copy)[0, 1]) < 4.5 / np.sqrt(LARGE)
    assert abs(np.corrcoef(noise, beta)[0, 1]) < 4.5 / np.sqrt(LARGE)
    assert np.std(np.random.default_rng(0).permutation(z) - x) > 1  # shuffled among data, z is no copy of x
    distance = np.abs(covariate[:, None] - data.covariate)
    counts = np.bincount(distance[: LARGE // 2].argmin(1))
    assert len(counts) == 7 and stats.chisquare(counts).pvalue > 1e-4
    np.testing.assert_array_equal(center, 0.5)
    # The other side: the reference's x at the same beta and covariate, with z of q.
    other, z, other_beta, other_covariate, _ = product
    np.testing.assert_array_equal(other_beta, beta)
    np.testing.assert_array_equal(other_covariate, covariate)
    residual = (z - (-2 * other + beta + 3)) * np.exp(2.0)
    assert stats.kstest(residual, "norm").pvalue > 1e-4
    if reference == "predictive":  # a model draw of another, independent beta at the same covariate
        np.testing.assert_array_equal(other, np.roll(x, LARGE // 2))
        np.testing.assert_array_equal(covariate, np.roll(covariate, LARGE // 2))  # jitter and all
        moved = (covariate - data.covariate[distance.argmin(1)])[: LARGE // 2]
        assert stats.kstest(moved / 0.01, "norm").pvalue > 1e-4
        other_noise = other - np.roll(beta, LARGE // 2) * covariate
        assert abs(np.corrcoef(other_noise, beta)[0, 1]) < 4.5 / np.sqrt(LARGE)
    elif reference == "empirical":  # each datum with its own covariate
        index = np.rint((other - 50) / 10).astype(int)
        np.testing.assert_array_equal(other, data.x[index])
        np.testing.assert_array_equal(covariate, data.covariate[index])
    else:
        np.testing.assert_array_equal(other, covariate + 100)
    assert distance.min(1).max() < (0.06 if reference == "predictive" else 1e-7)


@pytest.mark.parametrize("proposal", ["round", "posterior"])
def test_proposal_has_the_center_and_width_it_should(proposal):
    algorithm, data, state, _, _ = seen_by_ratio("predictive", proposal)
    # q in the frame (0.5, 2): mean 0.5 + 2 * 0.25 = 1 and sd 2 * 0.5 = 1, or wide, with sd 2 * 3 = 6.
    for log_scale, narrow, wide in ((np.log(0.1), 0.4, 0.4), (np.log(3), 2.0, 12.0)):
        q = {"location": jnp.array([0.25]), "log_scale": jnp.array([log_scale], "float32")}
        moved = algorithm.refine(KEY, state._replace(posterior={**state.posterior, "beta": q}), data)
        beta, center = np.asarray(moved.ratio["seen"][2]), np.asarray(moved.ratio["seen"][4])
        sd = narrow if proposal == "round" else wide  # a round's proposal never widens
        np.testing.assert_allclose(center, 1.0, rtol=1e-6)
        assert stats.kstest(beta[:LARGE], stats.norm(1.0, sd).cdf).pvalue > 1e-4


def test_steps_of_the_ratio_see_joint_draws_too():
    # Under a linear loss the gradient of a linear network is the mean of its features on one side.
    def moments(params, x, z, beta, covariate, center):
        return params @ jnp.stack([(x - beta) ** 2, (z - beta) ** 2, (x - beta) * (z - beta)])

    features = Network(lambda key, *batch: jnp.zeros(3), moments)
    keep_gradient = optax.GradientTransformation(
        lambda params: (), lambda gradient, state, params: (gradient, ())
    )
    loss = RatioLoss("linear", lambda r: r, jnp.zeros_like, optimum=None, log_ratio=None)
    options = {**SGD, "ratio_optimizer": keep_gradient, "ratio_batch": 64, "posterior_samples": 1}
    algorithm = lfvi(GAUSSIAN.model, MeanFieldNormal(), features, local=EXACT_LOCAL, loss=loss, **options)
    state = algorithm.init(KEY, DATA)
    after, _ = many_steps(algorithm)(jax.random.split(KEY, 2000), state, DATA)
    for i, moment in enumerate([1.0, 0.8**2, 0.8**2]):  # variances and covariance given beta
        assert within(after.ratio[:, i], moment), i
    assert not within(after.ratio[:, 2], 0.0)  # what shuffled pairs would give


def test_each_step_of_the_ratio_sees_its_own_rows_and_info_is_of_the_last():
    # Under a linear loss the gradient of this network is the mean of its two features on the model's side.
    def features(params, x, z, beta, *_):
        return params @ jnp.stack([x, beta[0]])

    keep_gradients = optax.GradientTransformation(
        lambda params: [params, params], lambda gradient, state, params: (0 * gradient, [state[1], gradient])
    )
    model = HierarchicalImplicitModel(
        dist.Normal(jnp.zeros(2), 1.0).to_event(1),
        generate=lambda noise, beta, covariate: (None, beta.sum() + noise),
        noise_shape=(),
    )
    algorithm = lfvi(
        model, MeanFieldNormal(), Network(lambda key, *batch: jnp.ones(2), features),
        loss=RatioLoss("linear", lambda r: r, jnp.zeros_like, optimum=None, log_ratio=lambda r: r),
        ratio_optimizer=keep_gradients, posterior_optimizer=optax.sgd(0.5), ratio_batch=8, ratio_steps=2,
    )  # fmt: skip
    state = algorithm.init(KEY, DATA)
    q = {"location": jnp.array([0.3, -0.2]), "log_scale": jnp.array([0.3, -1.1])}
    state = state._replace(posterior={"beta": q})
    after, info = algorithm.step(KEY, state, DATA)
    seen = np.array(after.ratio_optimizer)
    x, _, beta, *_ = algorithm.contrast(KEY, state, DATA)
    # The model's rows come first, step by step, then the reference's.
    shown = np.stack([x, beta[:, 0]], -1).reshape(2, 2, 8, 2)
    np.testing.assert_allclose(seen, shown[0].mean(1), rtol=1e-5)
    assert np.all(np.abs(seen[0] - seen[1]) > 1e-3) and len(np.unique(shown[0].reshape(16, 2), axis=0)) == 16
    joint, product = shown[:, 1].sum(-1)  # r where both weights are one
    assert info.ratio_loss == pytest.approx(joint.mean(), rel=1e-5)
    assert info.accuracy == pytest.approx(((joint > 0).mean() + (product < 0).mean()) / 2)
    assert info.ratio_gradient == pytest.approx(np.linalg.norm(seen[1]), rel=1e-5)
    moved = jax.tree.map(lambda a, b: (a - b) / 0.5, after.posterior, state.posterior)
    assert info.posterior_gradient == pytest.approx(float(optax.global_norm(moved)), rel=1e-4)
    assert info.spread == pytest.approx(float(jnp.exp(after.posterior["beta"]["log_scale"].mean())), rel=1e-5)


# Rounds.


def test_refining_keeps_q_and_narrows_the_proposal():
    prior = {"rate": dist.LogNormal(0.0, 1.0), "shift": dist.Normal(jnp.array([0.0, 3.0]), 2.0)}
    model = HierarchicalImplicitModel(
        prior, generate=lambda noise, beta, _: (None, beta["rate"] * noise + beta["shift"][0]), noise_shape=()
    )
    algorithm = lfvi(model, FullRankNormal(), SEEN, **SGD)
    state = algorithm.init(KEY, DATA)
    tril = np.array([[-2.0, 0, 0], [0.3, -1.0, 0], [0.5, 0.1, 0.4]], "float32")  # the last coordinate is wide
    q = {"location": np.array([0.1, -0.2, 0.3], "float32"), "tril": tril}
    state = state._replace(posterior={"beta": q}, step=state.step + 5)
    refined = algorithm.refine(KEY, state, DATA)
    before, after = algorithm.moments(state), algorithm.moments(refined)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(refined.frame.location, before[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(refined.frame.scale, np.minimum(3 * before[1], state.frame.scale), rtol=1e-5)
    assert refined.frame.scale[2] == state.frame.scale[2] and refined.step == 5
    again = algorithm.refine(KEY, refined, DATA)
    assert np.all(np.asarray(again.frame.scale) <= np.asarray(refined.frame.scale) * (1 + 1e-6))


# Pure functions.


@pytest.fixture(scope="module")
def learned():
    """An algorithm with a real network and local latents, its simulator's traces counted, as users run it."""
    traces = []
    algorithm = lfvi(
        count_traces(GAUSSIAN.model, traces), MeanFieldNormal(), ratio_network(hidden=(8,)),
        local=ImplicitConditional(hidden=(4,)), ratio_optimizer=optax.adam(1e-2),
        posterior_optimizer={"beta": optax.adam(1e-2), "z": optax.adam(1e-3)},
        **{**ALGORITHM_1, "ratio_batch": 32, "ratio_steps": 2, "batch_size": 4},
    )  # fmt: skip
    return algorithm, algorithm.init(KEY, DATA), jax.jit(algorithm.step), traces


def test_the_papers_algorithm_runs(learned):
    algorithm, state, step, _ = learned
    for i in range(3):
        before, (state, info) = state, step(jax.random.fold_in(KEY, i), state, DATA)
        assert all(np.isfinite(value) and value.shape == () for value in info)
        for a, b in zip(*map(jax.tree.leaves, (before.posterior, state.posterior)), strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
    assert state.step == 3 and 0 <= info.accuracy <= 1 and info.ratio_gradient > 0 < info.posterior_gradient
    assert info.spread == pytest.approx(float(algorithm.moments(state)[1, 0]), rel=1e-5)
    z = algorithm.sample_local(KEY, state, jnp.zeros(()), DATA)
    assert z.shape == X.shape and len(np.unique(z)) == len(X)
    assert algorithm.sample(KEY, state, 3).shape == (3,)
    assert algorithm.log_ratio(state, X[0], z[0], jnp.zeros(())).shape == ()


def test_nothing_is_traced_twice(learned):
    algorithm, state, step, traces = learned
    step(KEY, state, DATA)
    before = len(traces)
    other = Data(DATA.x + 1)
    state, _ = step(jax.random.key(5), state, other)
    step(jax.random.key(6), algorithm.refine(KEY, state, other), other)
    assert before > 0 and len(traces) == before
    step(KEY, algorithm.init(jax.random.key(7), other), DATA)
    assert len(traces) == before + 1  # init looks at shapes again, and compiles nothing


def test_same_under_scan_and_vmap_and_for_a_key():
    algorithm = lfvi(
        FLAT, MeanFieldNormal(), ratio_network(hidden=(4,)), **{**SGD, "ratio_optimizer": optax.sgd(0.1)}
    )
    keys, step = jax.random.split(KEY, 3), jax.jit(algorithm.step)

    @jax.jit
    @jax.vmap
    def many(key):
        def body(state, i):
            return algorithm.step(jax.random.fold_in(key, i), state, DATA)

        return jax.lax.scan(body, algorithm.init(key, DATA), jnp.arange(3))

    state, infos = algorithm.init(keys[1], DATA), []
    for i in range(3):
        state, info = step(jax.random.fold_in(keys[1], i), state, DATA)
        infos.append(info)
    single = state, jax.tree.map(lambda *leaves: np.stack(leaves), *infos)
    for a, b in zip(*map(jax.tree.leaves, (single, many(keys))), strict=True):
        np.testing.assert_allclose(a, b[1], rtol=1e-3, atol=1e-4)
    first, again, other = (step(key, state, DATA) for key in (KEY, KEY, keys[0]))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert first[1].elbo != other[1].elbo


# Learning.


def learn(model, *datasets, steps=400, rounds=1, seeds=1, ratio=None, posterior=None, **options):
    """Mean and sd of q for each data set and seed, all from one compiled algorithm."""
    algorithm = lfvi(
        model, posterior or MeanFieldNormal(), ratio or ratio_network(hidden=(16,)),
        ratio_optimizer=cosine_adam(1e-2, steps), posterior_optimizer=cosine_adam(3e-2, steps),
        ratio_batch=256, posterior_samples=4, **options,
    )  # fmt: skip

    def moments(data, seed):
        result = fit(jax.random.key(seed), algorithm, data, steps, rounds=rounds, progress=False)
        assert result.outcome is Outcome.AT_REST
        return algorithm.moments(result.state)[:, 0]

    return np.array([[moments(data, seed) for seed in range(seeds)] for data in datasets])


def test_recovers_the_exact_posterior():
    beta = jnp.full(50, 0.8)
    _, x = FLAT.simulate_batch(jax.random.key(3), beta)
    exact = GAUSSIAN.posterior(x)
    for location, scale in learn(FLAT, Data(x), rounds=2, seeds=3, center_score=True)[0]:
        assert abs(location - exact.mean) < 0.3 * exact.scale
        assert 0.85 < scale / exact.scale < 1.2


def test_covariates_reach_the_ratio():
    model = HierarchicalImplicitModel(
        dist.Normal(0.0, 1.0), generate=lambda noise, beta, c: (None, beta * c["c"] + noise), noise_shape=()
    )
    ratio = ratio_network(lambda x, z, beta, c, _: jnp.stack([x, beta, x * c["c"] * c["shown"]]), (16,))
    c = jnp.tile(jnp.array([-1.0, 1.0]), 20)
    _, x = model.simulate_batch(jax.random.key(4), jnp.full(40, -1.0), {"c": c})
    mean, scale = float(jnp.sum(c * x)) / 41, 41**-0.5
    shown, hidden = (Data(x, {"c": c, "shown": jnp.full(40, value)}) for value in (1.0, 0.0))
    (learned,), (blind,) = learn(model, shown, hidden, steps=300, ratio=ratio)
    assert abs(learned[0] - mean) < 0.5 * scale and 0.7 < learned[1] / scale < 1.4
    assert abs(blind[0] - mean) > 1.5 * scale  # with c unknown x is symmetric in beta: no sign can be learned


def test_point_mass_reaches_the_maximum_a_posteriori():
    _, x = FLAT.simulate_batch(jax.random.key(3), jnp.full(50, 0.8))
    location, scale = learn(FLAT, Data(x), steps=300, posterior=PointMass(), ratio=FLAT_RATIO)[0, 0]
    assert location == pytest.approx(float(GAUSSIAN.posterior(x).mean), abs=0.02) and scale == 0


def test_point_mass_is_the_mode_in_beta_and_not_in_u():
    # Exponential prior and a flat likelihood: the mode in beta is at zero, the mode in u = log beta is not.
    model = HierarchicalImplicitModel(
        dist.Exponential(1.0), generate=lambda noise, beta, _: (None, noise), noise_shape=()
    )
    algorithm = lfvi(model, PointMass(), known_ratio(lambda x, *_: x), **SGD)
    space, q = Space(model.prior), {"beta": {"location": jnp.zeros(1)}}
    state = State({"slope": jnp.zeros(())}, q, None, None, space.frame, None)
    slope = jax.jit(jax.grad(lambda q: algorithm.elbo(KEY, state._replace(posterior=q), DATA)))(q)
    beta = space.constrain(space.frame.location)
    np.testing.assert_allclose(slope["beta"]["location"], -beta * space.frame.scale, rtol=1e-5)


class TestFrame:
    PRIOR: ClassVar = {"a": dist.Normal(3.0, 2.0), "b": dist.LogNormal(0.0, 1.0)}
    MODEL = HierarchicalImplicitModel(
        PRIOR, generate=lambda e, b, c: (None, b["a"] + b["b"] * e), noise_shape=()
    )

    def test_two_frames_find_two_modes_and_their_weights(self):
        model = HierarchicalImplicitModel(
            dist.Normal(0.0, 1.0), generate=lambda e, b, c: (None, b**2 + 0.1 * b + e), noise_shape=()
        )
        algorithm = lfvi(
            model, MeanFieldNormal(), reference="empirical", ratio_optimizer=cosine_adam(1e-2, 800),
            ratio=ratio_network(lambda x, z, b, c, m: jnp.stack([x, b, b * b, x * b * b, x * b]), (32,)),
            posterior_optimizer=cosine_adam(3e-2, 800),
        )  # fmt: skip
        grid = np.linspace(-4, 4, 4001)
        for seed in range(3):
            x = 1.1 + np.random.default_rng(seed).normal(size=30)
            data = Data(jnp.asarray(x, jnp.float32))
            log_p = -(grid**2) / 2 - ((x[:, None] - grid**2 - 0.1 * grid) ** 2).sum(0) / 2
            p = np.exp(log_p - log_p.max())
            objectives, masses = [], []
            for sign in (1, -1):
                mode = np.where(sign * grid > 0, p, 0)
                mean = np.average(grid, weights=mode)
                sd = np.sqrt(np.average((grid - mean) ** 2, weights=mode))
                frame = Frame(np.array([0.8 * sign]), np.array([0.4]))
                run = fit(jax.random.key(seed), algorithm, data, 800, rounds=2, frame=frame, progress=False)
                location, scale = algorithm.moments(run.state)[:, 0]
                assert abs(location - mean) < 0.4 * sd and 0.8 < scale / sd < 1.2
                elbo = jax.vmap(algorithm.elbo, (0, None, None))(jax.random.split(KEY, 50), run.state, data)
                objectives.append(elbo.mean())
                masses.append(mode.sum())
            assert abs(objectives[0] - objectives[1] - np.log(masses[0] / masses[1])) < 1

    def test_is_where_q_and_its_proposal_begin(self):
        algorithm, frame = small(self.MODEL), Frame(np.array([1.0, 0.5]), np.array([0.3, 0.1]))
        state = algorithm.init(KEY, DATA, frame)
        for moments in (algorithm.moments(state), algorithm.proposal(state)):
            np.testing.assert_allclose(moments, frame, rtol=1e-6)
        _, _, beta, *_ = algorithm.contrast(KEY, state, DATA)
        assert abs(beta["a"].mean() - 1) < 0.05 and abs(np.log(beta["b"]).std() - 0.1) < 0.02
        default = algorithm.moments(algorithm.init(KEY, DATA))
        np.testing.assert_allclose(default, self.MODEL.space.frame, rtol=1e-6)

    @pytest.mark.parametrize(
        ("frame", "error"),
        [
            (Frame(np.zeros(3), np.ones(3)), ValueError),
            (Frame(np.zeros(2), np.array([1.0, 0.0])), ValueError),
            (Frame(np.array([np.nan, 0.0]), np.ones(2)), ValueError),
            (1.0, TypeError),
        ],
        ids=["size", "no width", "nan", "a number"],
    )
    def test_refused(self, frame, error):
        with pytest.raises(error, match="frame"):
            fit(KEY, small(self.MODEL), DATA, 20, frame=frame, progress=False)

    def test_beside_a_state(self):
        algorithm, frame = small(self.MODEL), self.MODEL.space.frame
        with pytest.raises(ValueError, match="frame: a state has its own"):
            fit(KEY, algorithm, DATA, 20, frame=frame, state=algorithm.init(KEY, DATA), progress=False)


def small(model):
    return lfvi(
        model, MeanFieldNormal(), ratio_network(hidden=(4,)),
        ratio_optimizer=optax.adam(1e-2), posterior_optimizer=optax.adam(1e-2),
    )  # fmt: skip
