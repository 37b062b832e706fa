"""LFVI for labels: posteriors known by quadrature, counted labels, gradients by hand, wrong calls."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.polynomial.hermite_e import hermegauss
from scipy import optimize, special, stats

from himlib import (
    LOSSES,
    Data,
    FullRankNormal,
    MeanFieldNormal,
    Network,
    Outcome,
    PointMass,
    cosine_adam,
    fit,
    fit_seeds,
)
from himlib.classification import (
    Generator,
    bayesian_classifier,
    count_ratio,
    generator,
    margin_ratio,
    margins,
    noise_points,
    predict,
    subtract_baseline,
)
from himlib.random import normal

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, 3)
RNG = np.random.default_rng(0)
ROWS = Data(
    jnp.asarray(RNG.integers(3, size=12), jnp.int32), jnp.asarray(RNG.normal(size=(12, 2)), jnp.float32)
)
GENERATOR = Generator(features=2, classes=3, hidden=(4,))
SOFTMAX = replace(GENERATOR, noise_size=0, output="softmax")
STILL, SGD = optax.sgd(0.0), optax.sgd(1.0)
POINT = PointMass()


def build(generator=GENERATOR, posterior=POINT, ratio=None, **options):
    options = {"ratio_optimizer": STILL, "posterior_optimizer": STILL, **options}
    return bayesian_classifier(generator, posterior, ratio, **options)


def pick(tree, index=0):
    return jax.tree.map(lambda leaf: leaf[index], tree)


# The generator and its predictions.


def by_hand(generator, weights, covariate, noise):
    """A row's logits at each noise: the noise is one more input of the first layer."""
    w = jax.tree.map(np.float64, weights)
    sizes = (generator.features, *generator.hidden)
    scales = [1 / np.sqrt(size) if generator.fan_in else 1.0 for size in sizes]
    inputs = np.concatenate([np.tile(scales[0] * np.asarray(covariate), (len(noise), 1)), noise], axis=1)
    first_kernel = np.concatenate([w["kernel_0"], generator.noise_scale * w["noise"]])
    values = inputs @ first_kernel + w["bias_0"]
    for layer, scale in enumerate(scales[1:], 1):
        values = scale * np.maximum(values, 0) @ w[f"kernel_{layer}"] + w[f"bias_{layer}"]
    return values


@pytest.mark.parametrize("noise_size", [1, 2, 0])
@pytest.mark.parametrize("fan_in, hidden", [(False, (4,)), (True, (5, 3))], ids=["raw", "scaled"])
def test_generator_by_hand(noise_size, fan_in, hidden):
    generator = Generator(2, 3, hidden, noise_size=noise_size, fan_in=fan_in, output="softmax")
    weights, noise = generator.init(KEY), np.random.default_rng(1).normal(size=(6, noise_size))
    got = generator.apply(weights, jnp.array([0.3, -2.0]), jnp.asarray(noise, jnp.float32))
    np.testing.assert_allclose(got, by_hand(generator, weights, [0.3, -2.0], noise), atol=1e-5)


def test_weights_are_draws_of_the_prior():
    weights = Generator(30, 3, (40, 20)).init(KEY)
    assert sorted(weights) == ["bias_0", "bias_1", "bias_2", "kernel_0", "kernel_1", "kernel_2", "noise"]
    everything = np.concatenate([leaf.ravel() for leaf in weights.values()])
    assert stats.kstest(everything, "norm").pvalue > 1e-3
    assert len(np.unique(everything)) == everything.size


def test_generators_are_equal_by_value():
    assert Generator(2, 3, [4]) == GENERATOR and hash(Generator(2, 3, [4])) == hash(GENERATOR)
    assert replace(GENERATOR, noise_scale=1.0) != GENERATOR


def test_probabilities_given_logits():
    logits = jnp.array([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    np.testing.assert_array_equal(GENERATOR.probabilities(logits), [[0, 1, 0], [1, 0, 0]])
    np.testing.assert_allclose(SOFTMAX.probabilities(logits), special.softmax(logits, axis=1), rtol=1e-5)


@pytest.fixture(scope="module")
def weights():
    return jax.vmap(GENERATOR.init)(jax.random.split(KEY, 4))


def test_prediction_is_the_smoothed_count(weights):
    p = predict(KEY, GENERATOR, weights, ROWS.covariate, noises=10)
    counts = np.zeros((12, 3))
    for key, draw in zip(jax.random.split(KEY, 4), range(4), strict=True):
        noise = noise_points(10, 1, jax.random.uniform(key, (1,)))
        beta = pick(weights, draw)
        for row in range(12):
            chosen = by_hand(GENERATOR, beta, ROWS.covariate[row], noise).argmax(1)
            counts[row] += np.bincount(chosen, minlength=3)
    np.testing.assert_allclose(p, (counts + 0.5) / (40 + 1.5), atol=1e-6)
    assert p.min() > 0 and np.abs(predict(KEYS[1], GENERATOR, weights, ROWS.covariate) - p).max() > 1e-3


def test_prediction_of_a_softmax_is_its_average(weights):
    weights = {**weights, "noise": jnp.zeros((4, 0, 4))}
    rows = [[by_hand(SOFTMAX, pick(weights, i), c, np.zeros((1, 0)))[0]
             for c in ROWS.covariate] for i in range(4)]  # fmt: skip
    p = predict(KEY, SOFTMAX, weights, ROWS.covariate)
    np.testing.assert_allclose(p, special.softmax(rows, axis=2).mean(0), atol=1e-5)


def test_prediction_goes_through_rows_in_pieces(weights, monkeypatch):
    whole = predict(KEY, GENERATOR, weights, ROWS.covariate)
    monkeypatch.setattr(generator, "ROWS", 5)
    pieces = predict.__wrapped__(KEY, GENERATOR, weights, ROWS.covariate)
    np.testing.assert_allclose(pieces, whole, atol=1e-6)


# The objective and its gradient.


def log_joint(flat, unravel, kl_weight=1.0):
    """Of a Bayesian neural network, in full."""
    logits = jax.vmap(SOFTMAX.apply, (None, 0, None))(unravel(flat), ROWS.covariate, jnp.zeros((1, 0)))[:, 0]
    likelihood = jnp.take_along_axis(jax.nn.log_softmax(logits), ROWS.x[:, None], axis=1).sum()
    return kl_weight * jax.scipy.stats.norm.logpdf(flat).sum() + likelihood + len(ROWS.x) * jnp.log(3)


@pytest.fixture(scope="module")
def unravel():
    return jax.flatten_util.ravel_pytree(SOFTMAX.init(KEY))[1]


@pytest.mark.parametrize("kl_weight", [1.0, 0.2])
def test_step_climbs_the_log_joint(unravel, kl_weight):
    """A point mass under plain gradient ascent: MAP of a Bayesian neural network."""
    algorithm = build(SOFTMAX, kl_weight=kl_weight, posterior_optimizer=SGD)
    state = algorithm.init(KEY, ROWS)
    after, info = jax.jit(algorithm.step)(KEYS[1], state, ROWS)
    before, step = state.posterior["beta"]["location"], after.posterior["beta"]["location"]
    value, gradient = jax.value_and_grad(log_joint)(before, unravel, kl_weight)
    np.testing.assert_allclose(step - before, gradient / 12, atol=1e-5)
    np.testing.assert_allclose(info.elbo, value, rtol=1e-5)
    np.testing.assert_allclose(algorithm.elbo(KEY, state, ROWS), value, rtol=1e-5)
    assert info.spread == 0 and after.ratio == {} and int(after.step) == 1
    assert algorithm.sample_local(KEY, state, None, ROWS) is None


@pytest.mark.parametrize("family", [MeanFieldNormal(), FullRankNormal()], ids=["mean field", "full rank"])
def test_elbo_by_hand(unravel, family):
    algorithm = build(SOFTMAX, family, posterior_samples=3, kl_weight=0.5)
    state = algorithm.init(KEY, ROWS)
    params = state.posterior["beta"]
    draws = family.sample(params, KEY, 3)
    data_term = jax.vmap(lambda flat: log_joint(flat, unravel, 0.0))(draws).mean()
    location, scale = np.float64(algorithm.moments(state))
    kl = (scale**2 + location**2 - 1 - 2 * np.log(scale)).sum() / 2
    np.testing.assert_allclose(algorithm.elbo(KEY, state, ROWS), data_term - 0.5 * kl, rtol=1e-4)
    np.testing.assert_allclose(scale, 0.1, rtol=1e-5)


def test_minibatches_are_scaled():
    whole, part = (build(posterior_samples=4, batch_size=size) for size in (None, 5))
    state = whole.init(KEY, ROWS)
    expected = whole.elbo(KEY, state, ROWS)  # the same for every key: a point mass
    keys = jax.random.split(KEYS[1], 1000)
    values = np.asarray(jax.jit(jax.vmap(lambda key: part.step(key, state, ROWS)[1].elbo))(keys))
    assert values.std() > 0.1
    assert abs(values.mean() - expected) < 4.5 * values.std() / np.sqrt(1000)


@pytest.mark.parametrize("loss", ["log", "least_squares", "hinge"])
def test_the_exact_ratio_is_where_a_proper_loss_is_flat(loss):
    """With labels from the softmax, the count at s = 1 and b = t = 0 is exact: D has no slope there."""
    algorithm = build(SOFTMAX, ratio=count_ratio(), loss=loss, initial_spread=1.0)
    state = algorithm.init(KEY, ROWS)
    step = jax.jit(algorithm.step)
    at = float(step(KEY, state, ROWS)[1].ratio_gradient)
    away = state._replace(ratio={**state.ratio, "log_slope": jnp.float32(0.3)})
    assert (at < 1e-6) == (loss != "hinge")
    assert step(KEY, away, ROWS)[1].ratio_gradient > 1e-3


@pytest.mark.parametrize("reference", ["uniform", "empirical"])
def test_enumerated_loss_is_the_mean_over_drawn_labels(reference):
    algorithm = build(GENERATOR, reference=reference, fakes=400, initial_spread=1.0)
    state = algorithm.init(KEY, ROWS)
    info = jax.jit(algorithm.step)(KEY, state, ROWS)[1]
    beta, noise = pick(algorithm.sample(KEY, state, 1)), normal(KEYS[2], (400, 1))

    @jax.jit
    @jax.vmap
    def look(covariate):
        r = jax.vmap(lambda label: algorithm.log_ratio(state, label, None, beta, covariate))(jnp.arange(3))
        return r, GENERATOR.apply(beta, covariate, noise).argmax(1)

    r, drawn = map(np.asarray, look(ROWS.covariate))
    made = np.take_along_axis(r, drawn, axis=1)
    other = r if reference == "uniform" else np.take_along_axis(r, np.asarray(ROWS.x)[:, None], axis=1)
    expected = np.logaddexp(0, -made).mean() + np.logaddexp(0, other).mean()
    np.testing.assert_allclose(info.ratio_loss, expected, atol=0.02)
    np.testing.assert_allclose(info.accuracy, (np.mean(made > 0) + np.mean(other < 0)) / 2, atol=0.02)


def test_reference_and_baseline_leave_the_gradient_of_the_weights_alone():
    plain = build(posterior_optimizer=SGD)
    other = build(
        ratio=subtract_baseline(count_ratio(), (3,)), reference="empirical", posterior_optimizer=SGD
    )
    steps = [
        jax.jit(a.step)(KEY, a.init(KEY, ROWS), ROWS)[0].posterior["beta"]["location"] for a in (plain, other)
    ]
    start = plain.init(KEY, ROWS).posterior["beta"]["location"]
    np.testing.assert_allclose(*steps, atol=1e-6)
    assert np.abs(steps[0] - start).max() > 1e-3


# Posteriors known by quadrature: two weights, and noise that makes a logistic or a probit regression.


@dataclass(frozen=True)
class TwoWeights(Generator):
    """The second label leads by a slope times the feature, plus an intercept, plus the noise."""

    def init(self, key):
        return {"beta": normal(key, (2,))}

    def apply(self, weights, covariate, noise):
        lead = weights["beta"] @ jnp.append(covariate, 1.0) + noise.sum(-1)
        return jnp.stack([jnp.zeros_like(lead), lead], axis=-1)


C = np.linspace(-2, 2, 40)
Y = (C + np.random.default_rng(3).logistic(size=40) > 0.3).astype(int)
TWO = Data(jnp.asarray(Y, jnp.int32), jnp.asarray(C[:, None], jnp.float32))
LOGISTIC = TwoWeights(1, 2, noise_size=0, output="softmax")
PROBIT = TwoWeights(1, 2, noise_size=1, output="argmax")
LIKELIHOODS = {"softmax": lambda lead: -np.logaddexp(0, -lead), "argmax": special.log_ndtr}


def exact_moments(log_likelihood):
    """Mean and sd of the posterior on a grid."""
    grid = np.stack(np.meshgrid(*2 * [np.linspace(-4, 4, 201)], indexing="ij"), axis=-1).reshape(-1, 2)
    lead = (2 * Y - 1) * (grid[:, :1] * C + grid[:, 1:])
    log_p = log_likelihood(lead).sum(1) - (grid**2).sum(1) / 2
    weight = np.exp(log_p - log_p.max())
    mean = weight @ grid / weight.sum()
    return mean, np.sqrt(weight @ (grid - mean) ** 2 / weight.sum())


def best_mean_field(log_likelihood, kl_weight):
    """Mean and sd of the mean-field normal of the largest ELBO, by Gauss-Hermite quadrature."""
    nodes, masses = hermegauss(30)

    def loss(params):
        mean, sd = params[:2], np.exp(params[2:])
        center, spread = mean[0] * C + mean[1], np.sqrt(sd[0] ** 2 * C**2 + sd[1] ** 2)
        lead = (2 * Y - 1) * (center + nodes[:, None] * spread)
        data_term = masses @ log_likelihood(lead).sum(1) / masses.sum()
        return kl_weight * (mean**2 + sd**2 - 1 - 2 * np.log(sd)).sum() / 2 - data_term

    best = optimize.minimize(loss, np.zeros(4)).x
    return best[:2], np.exp(best[2:])


def fitted(generator, family, steps=400, **options):
    optimizer = cosine_adam(0.05, steps)
    options = {"ratio_optimizer": optax.adam(1e-2), "posterior_samples": 16, "initial_sd": 0.5, **options}
    algorithm = build(generator, family, posterior_optimizer=optimizer, **options)
    result = fit_seeds(KEYS, algorithm, TWO, steps, progress=False)
    assert set(result.outcome) == {Outcome.AT_REST}
    return algorithm, result.state, np.asarray(jax.vmap(algorithm.moments)(result.state))


def test_logistic_regression_has_the_best_mean_field_posterior():
    *_, moments = fitted(LOGISTIC, MeanFieldNormal(), kl_weight=0.1)
    mean, sd = best_mean_field(LIKELIHOODS["softmax"], 0.1)
    np.testing.assert_allclose((moments[:, 0] - mean) / sd, 0, atol=0.15)
    np.testing.assert_allclose(moments[:, 1] / sd, 1, atol=0.1)
    _, untempered = best_mean_field(LIKELIHOODS["softmax"], 1.0)  # which the test can tell from it
    assert np.abs(moments[:, 1] / untempered - 1).min() > 0.2


def test_logistic_regression_has_the_exact_posterior():
    algorithm, state, moments = fitted(LOGISTIC, FullRankNormal())
    mean, sd = exact_moments(LIKELIHOODS["softmax"])
    np.testing.assert_allclose((moments[:, 0] - mean) / sd, 0, atol=0.2)
    np.testing.assert_allclose(moments[:, 1] / sd, 1, atol=0.12)
    beta = algorithm.sample(KEY, pick(state), 500)
    p = predict(KEY, LOGISTIC, beta, jnp.array([[-1.0], [1.5]]))
    lead = np.asarray(beta["beta"]) @ np.array([[-1.0, 1.5], [1.0, 1.0]])
    np.testing.assert_allclose(p[:, 1], special.expit(lead).mean(0), atol=1e-5)


def test_implicit_probit_regression_has_the_best_mean_field_posterior():
    """Hard labels from normal noise: the likelihood is a probit, which the ratio never sees."""
    _, state, moments = fitted(PROBIT, MeanFieldNormal(), anchors=32, ratio_optimizer=optax.adam(5e-2))
    mean, sd = best_mean_field(LIKELIHOODS["argmax"], 1.0)
    np.testing.assert_allclose((moments[:, 0] - mean) / sd, 0, atol=0.35)
    np.testing.assert_allclose(moments[:, 1] / sd, 1, atol=0.15)
    wrong, _ = best_mean_field(LIKELIHOODS["softmax"], 1.0)  # what s = 1 would come near
    assert np.abs((moments[:, 0] - wrong) / sd)[:, 0].min() > 0.5
    assert np.exp(state.ratio["log_slope"]).min() > 1.5


# Ratios that were trained, held to counts.


def clusters(rows=300, features=20, classes=5):
    rng = np.random.default_rng(0)
    means, x = 0.45 * rng.normal(size=(classes, features)), rng.integers(classes, size=rows)
    return Data(
        jnp.asarray(x, jnp.int32), jnp.asarray(means[x] + rng.normal(size=(rows, features)), jnp.float32)
    )


NOISES = 512
FLOOR = np.log(0.5 / (NOISES + 2.5))  # a count sees nothing below


@pytest.fixture(scope="module", params=["count", "network"])
def trained(request):
    """Ratios, counts and slopes of three runs on clusters that overlap."""
    ratio = {"count": count_ratio(), "network": margin_ratio()}[request.param]
    data, generator = clusters(), Generator(20, 5, (16,), fan_in=True)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.03, 50, 300, 3e-4)
    algorithm = build(
        generator, MeanFieldNormal(), ratio, ratio_optimizer=optax.adam(1e-2), batch_size=64, kl_weight=0.1,
        posterior_optimizer=optax.adam(schedule), initial_spread=0.7,
    )  # fmt: skip
    state = fit_seeds(KEYS, algorithm, data, 300, progress=False).state
    rows, labels = data.covariate[:200], np.asarray(data.x[:200])

    def look(state):
        beta = pick(algorithm.sample(KEYS[1], state, 1))
        made = jax.vmap(generator.apply, (None, 0, None))(beta, rows, noise_points(NOISES, 1))
        anchors = jax.vmap(generator.apply, (None, 0, None))(beta, rows, noise_points(8, 1))

        def r(logits, covariate):
            return ratio.apply(state.ratio, margins(logits), covariate)

        slopes = jax.vmap(jax.jacobian(r))(anchors, rows)
        return jax.vmap(r)(anchors, rows), generator.probabilities(made).sum(1), slopes

    r, counts, slopes = map(np.asarray, jax.jit(jax.vmap(look))(state))
    own = slopes[:, np.arange(200), labels, :, labels]  # the label's r in its own logit at each anchor
    return request.param, r, counts, own


def test_trained_ratio_tells_the_counted_chance(trained):
    form, r, counts, _ = trained
    for seed in range(3):
        log_p = np.log((counts[seed] + 0.5) / (NOISES + 2.5))
        estimate = np.maximum(r[seed] - np.log(5), FLOOR)
        middle = (counts[seed] > 2) & (counts[seed] < NOISES - 2)
        assert np.corrcoef(estimate.ravel(), log_p.ravel())[0, 1] > 0.9
        assert middle.any(axis=1).mean() > 0.2
        assert np.corrcoef(estimate[middle], log_p[middle])[0, 1] > 0.8
        rolled = np.roll(log_p, 1, axis=0)  # of other rows
        assert np.corrcoef(estimate.ravel(), rolled.ravel())[0, 1] < 0.5
    if form == "count":
        assert abs(np.exp(r).mean() - 1) < 0.05


def test_what_fits_may_still_slope_the_wrong_way(trained):
    """The network fits the counts as well, and pushes a label away from itself at many anchors."""
    form, _, _, own = trained
    negative = np.mean(own < 0, axis=(0, 2))  # rows come first after such indexing
    assert negative.shape == (3,)
    assert np.all(negative == 0) if form == "count" else np.all(negative > 0.1)


# Runs.


def test_seeds_side_by_side_are_the_runs_one_by_one(tmp_path):
    traces = []

    @dataclass(frozen=True)
    class Noted(Generator):
        def apply(self, *inputs):
            traces.append(1)
            return super().apply(*inputs)

    algorithm = build(
        Noted(2, 3, (4,)),
        MeanFieldNormal(),
        ratio_optimizer=optax.adam(1e-2),
        posterior_optimizer=optax.adam(1e-2),
    )
    together = fit_seeds(KEYS, algorithm, ROWS, 25, progress=False)
    compiled = len(traces)
    fit_seeds(KEYS[::-1], algorithm, ROWS, 25, progress=False)
    assert len(traces) - compiled < compiled  # the step is not traced again
    path = tmp_path / "run.npz"
    for seed in range(2):
        alone = fit(KEYS[seed], algorithm, ROWS, 25, progress=False, checkpoint=None if seed else path)
        for one, all_seeds in zip(jax.tree.leaves(alone[:2]), jax.tree.leaves(together[:2]), strict=True):
            np.testing.assert_allclose(one, all_seeds[seed], atol=2e-4)
        assert alone.outcome is together.outcome[seed]
    again = fit(KEYS[0], algorithm, ROWS, 25, progress=False, checkpoint=path)
    np.testing.assert_array_equal(again.history.elbo.shape, (25,))


def test_seeds_have_their_own_outcomes(capsys):
    bad = build(SOFTMAX, posterior_optimizer=optax.adam(lambda step: jnp.where(step < 5, 1e-3, jnp.nan)))
    result = fit_seeds(KEYS[:2], bad, ROWS, 10)
    assert result.outcome == (Outcome.NOT_FINITE, Outcome.NOT_FINITE)
    assert "2 seeds: 100%" in capsys.readouterr().err
    assert result.history.elbo.shape == (2, 10) and np.isfinite(result.history.elbo[:, :5]).all()


def test_step_eager_jit_and_vmap():
    algorithm = build(posterior=MeanFieldNormal(), posterior_optimizer=SGD, ratio_optimizer=SGD)
    state = algorithm.init(KEY, ROWS)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state)
    results = [algorithm.step(KEY, state, ROWS), jax.jit(algorithm.step)(KEY, state, ROWS)]
    lifted = jax.vmap(algorithm.step, (0, 0, None))(jnp.stack([KEYS[1], KEY]), stacked, ROWS)
    results.append(pick(lifted, 1))
    for other in results[1:]:
        for a, b in zip(jax.tree.leaves(results[0]), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_double_precision():
    single = build(posterior_optimizer=SGD)
    expected = jax.jit(single.step)(KEY, single.init(KEY, ROWS), ROWS)[1].elbo
    with jax.enable_x64(True):
        double = build(posterior_optimizer=SGD)
        state = double.init(KEY, Data(ROWS.x, np.float64(ROWS.covariate)))
        state, info = jax.jit(double.step)(KEY, state, Data(ROWS.x, jnp.float64(ROWS.covariate)))
        assert state.posterior["beta"]["location"].dtype == info.elbo.dtype == jnp.float64
        np.testing.assert_allclose(info.elbo, expected, rtol=1e-4)


# Wrong calls.


def start(labels, covariate):
    return build().init(KEY, Data(labels, covariate))


def together(keys=KEYS, steps=10):
    return fit_seeds(keys, build(), ROWS, steps)


TWO_ROWS = jnp.zeros((2, 2))
OLD, X = jax.random.PRNGKey(0), ROWS.covariate
NO_OPTIMUM = LOSSES["log"]._replace(optimum=None)
SCALAR = Network(lambda *batch: {}, lambda params, margin, covariate: margin.sum())
CALLS = {
    "generator: hidden": (lambda: Generator(2, 3, 4), TypeError, "hidden: expected a sequence"),
    "generator: no features": (lambda: Generator(0, 3), ValueError, "features: expected a positive integer"),
    "generator: a width": (lambda: Generator(2, 3, (4, 0.5)), ValueError, r"hidden\[1\]: .* got 0.5"),
    "generator: one class": (lambda: Generator(2, 1), ValueError, "classes >= 2 .* got classes=1"),
    "generator: no layer": (lambda: Generator(2, 3, ()), ValueError, r"a hidden layer, got .* hidden=\(\)"),
    "generator: noise": (lambda: Generator(2, 3, noise_size=-1), ValueError, "noise_size: expected zero"),
    "generator: output": (lambda: Generator(2, 3, output="max"), ValueError, "'softmax', got 'max'"),
    "generator: no noise": (lambda: Generator(2, 3, noise_size=0), ValueError, "without noise an argmax"),
    "no generator": (lambda: build(GENERATOR.network), TypeError, "expected a Generator, got Network"),
    "posterior: a class": (lambda: build(posterior=PointMass), TypeError, "the class PointMass; likely"),
    "posterior: a network": (lambda: build(posterior=SCALAR), TypeError, "got Network without sample"),
    "ratio: a function": (lambda: build(ratio=count_ratio), TypeError, "expected a Network .* function"),
    "loss: unknown": (lambda: build(loss="l2"), ValueError, "loss: expected one of"),
    "loss: no mean": (lambda: build(loss="donsker_varadhan"), ValueError, "'donsker_varadhan' averages"),
    "loss: no optimum": (lambda: build(loss=NO_OPTIMUM), ValueError, "'log' does not say its optimum"),
    "reference": (lambda: build(reference="predictive"), ValueError, "'uniform' or 'empirical', got 'pred"),
    "kl_weight": (lambda: build(kl_weight=0), ValueError, "kl_weight: expected a positive number, got 0"),
    "initial_sd": (lambda: build(initial_sd=-1.0), ValueError, "initial_sd: expected a positive number"),
    "initial_spread": (lambda: build(initial_spread=0.0), ValueError, "initial_spread: expected a positive"),
    "anchors": (lambda: build(anchors=0), ValueError, "anchors: expected a positive integer, got 0"),
    "batch_size": (lambda: build(batch_size=2.5), ValueError, "batch_size: expected a positive integer"),
    "optimizer": (lambda: build(ratio_optimizer=0.1), TypeError, "ratio_optimizer: expected an optax"),
    "data: a pair": (lambda: build().init(KEY, (ROWS.x,)), TypeError, "data: expected Data"),
    "data: one-hot": (lambda: start(jnp.eye(2, dtype=int), TWO_ROWS), ValueError, r"integers, .* \(2, 2\)"),
    "data: floats": (lambda: start(jnp.zeros(2), TWO_ROWS), ValueError, "vector of integers, .* float32"),
    "data: features": (lambda: start(jnp.zeros(2, int), jnp.zeros((2, 5))), ValueError, r"\(rows, 2\).*5"),
    "data: labels from one": (lambda: start(jnp.array([1, 3]), TWO_ROWS), ValueError, "0 to 2, got 1 to 3"),
    "data: negative": (lambda: start(jnp.array([-1, 2]), TWO_ROWS), ValueError, "labels 0 to 2, got -1 to 2"),
    "ratio: one number": (lambda: build(ratio=SCALAR).init(KEY, ROWS), ValueError, r"3 labels, .* \(\)"),
    "refine": (lambda: fit(KEY, build(), ROWS, 10, rounds=2, progress=False), ValueError, "use rounds=1"),
    "old key": (lambda: build().init(OLD, ROWS), TypeError, "expected jax.random.key"),
    "one key": (lambda: together(KEY), ValueError, "keys: expected a vector of keys"),
    "old keys": (lambda: together(jnp.zeros((2, 2))), TypeError, "expected jax.random.key"),
    "steps": (lambda: together(steps=0), ValueError, "steps: expected a positive integer"),
    "predict: old key": (lambda: predict(OLD, GENERATOR, {"w": X}, X), TypeError, "expected jax.random.key"),
}  # fmt: skip


@pytest.mark.parametrize("call, error, message", CALLS.values(), ids=CALLS)
def test_wrong_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()
