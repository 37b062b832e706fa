"""What fits of a log ratio report of every loss, network, shape and size, and what they refuse."""

import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from himlib import LOSSES, Network
from himlib.ratio import RatioOutcome, classifier, fit_ratio, quadratic, telescope
from himlib.ratio._fitting import separation

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(0)


def gaussians(n=2000, shift=1.0, seed=0):
    """Draws of N(shift/2, 1) and of N(-shift/2, 1)."""
    p, q = np.random.default_rng(seed).normal(size=(2, n)).astype("f4")
    return p + shift / 2, q - shift / 2


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_finds_its_optimum(name):
    p, q = gaussians()
    # An output w = p/q = e^x is not linear in x and x^2, but in e^x; the variance of all x is 1.25.
    exponential = {"network": lambda u: jnp.exp(1.25**0.5 * u)[None]} if name == "least_squares" else {}
    fit = fit_ratio(KEY, p, q, loss=name, log_ratio=lambda x: x, **exponential)
    assert fit.is_ratio == LOSSES[name].is_ratio
    assert (fit.outcome is RatioOutcome.NO_RATIO) == (name == "hinge")
    assert abs(float(fit.accuracy) - special.ndtr(0.5)) < 0.05
    if name == "hinge":
        assert fit.rmse_p > 0.3
    else:
        # Least squares hardly sees where w is small: there its logarithm is poor.
        assert max(fit.rmse_p, fit.rmse_q) < (1.5 if name == "least_squares" else 0.35)
        assert float(fit.kl) == pytest.approx(0.5, abs=0.15)
        mean_weight = np.exp(np.asarray(fit.r(q))).mean()
        assert mean_weight == pytest.approx(1, abs=1e-4 if name == "donsker_varadhan" else 0.1)


def test_keeps_the_best_by_held_out_loss():
    p, q = gaussians(40)
    memory = classifier((64, 64), quadratic=False)  # can learn 64 draws by heart
    early = fit_ratio(KEY, p, q, memory, steps=1000)
    assert early.loss < 2 * math.log(2) + 0.1
    assert np.abs(early.r(p)).max() < 10


def test_diverging_is_said():
    explosive = Network(lambda key, x: jnp.full((), jnp.nan), lambda params, x: params * x)
    p, q = gaussians(40, shift=0.0)
    fit = fit_ratio(KEY, p, q, explosive, steps=1)
    assert fit.outcome is RatioOutcome.NOT_FINITE


def test_one_bridge_is_a_fit_and_the_mean_of_all_is_no_matter():
    p, q = (x + 50 for x in gaussians())
    one, fit = telescope(KEY, p, q, bridges=1), fit_ratio(KEY, p, q)
    np.testing.assert_allclose(one.r(p), fit.r(p), atol=5e-3)
    two = telescope(KEY, p, q, bridges=2, log_ratio=lambda x: x - 50)
    assert max(two.rmse_p, two.rmse_q) < 0.3 and two.outcome is RatioOutcome.OVERLAPPING


def test_same_under_jit_and_vmap():
    p, q = gaussians()
    plain = fit_ratio(KEY, p, q)
    lifted = jax.jit(jax.vmap(fit_ratio))(jax.random.split(KEY, 2), np.stack([p, q]), np.stack([q, p]))
    for row, sign in enumerate((1, -1)):
        fit = jax.tree.map(lambda leaf, row=row: leaf[row], lifted)
        np.testing.assert_allclose(fit.r(p), sign * plain.r(p), atol=5e-3)
        assert float(fit.accuracy) == pytest.approx(float(plain.accuracy), abs=0.003)


def test_double_precision():
    p, q = gaussians()
    single = fit_ratio(KEY, p, q).r(p)
    with jax.enable_x64(True):
        double = fit_ratio(jax.random.key(0), p.astype("f8"), q.astype("f8")).r(p.astype("f8"))
        assert double.dtype == np.float64
        np.testing.assert_allclose(double, single, atol=5e-3)


def test_few_weights_are_said():
    p, q = gaussians(400, shift=3.5)
    fit = fit_ratio(KEY, p, q)
    assert fit.effective_sample_size < 10
    assert fit.outcome is RatioOutcome.FEW_WEIGHTS


def test_an_overconfident_classifier_is_not_calibrated():
    p, q = gaussians()
    confident = Network(lambda key, x: jnp.zeros(()), lambda params, x: params + 8.0 * x)
    fit = fit_ratio(KEY, p, q, confident, steps=1)
    assert fit.calibration_error > 0.1
    bins = fit.reliability
    assert bins.predicted[-1] > bins.observed[-1] + 0.05 and bins.predicted[0] < bins.observed[0] - 0.05


@cache
def known(slope):
    """A network that is what it is: r = slope x, and nothing is learned at a learning rate of 1e-30."""
    network = Network(lambda key, x: jnp.zeros(()), lambda params, x: params + slope * jnp.ravel(x)[0])
    return {"network": network, "steps": 1, "learning_rate": 1e-30}


def reported(r_p, r_q, name):
    """What a fit should report of the rows held out, by NumPy, from r there."""
    r_p, r_q = (np.asarray(r, np.float64) for r in (r_p, r_q))
    loss = {
        "log": np.logaddexp(0, -r_p).mean() + np.logaddexp(0, r_q).mean(),
        "donsker_varadhan": np.log(np.exp(r_q).mean()) - r_p.mean(),
    }[name]
    accuracy = ((r_p > 0).mean() + (r_q < 0).mean()) / 2
    probability, label = special.expit(np.append(r_p, r_q)), np.append(0 * r_p + 1, 0 * r_q)
    weight = np.where(label, 0.5 / len(r_p), 0.5 / len(r_q))
    bins = np.full((3, 10), np.nan)
    for i in range(10):
        rows = (probability >= i / 10) & (probability < (i + 1) / 10)
        bins[2, i] = weight[rows].sum()
        if rows.any():
            bins[:2, i] = [np.average(y[rows], weights=weight[rows]) for y in (probability, label)]
    error = np.nansum(bins[2] * np.abs(bins[0] - bins[1]))
    return {"loss": loss, "accuracy": accuracy, "kl": r_p.mean(), "calibration_error": error}, bins


HELD = [np.arange(size) % 5 == 1 for size in (60, 200)]


@pytest.mark.parametrize("name", ["log", "donsker_varadhan"])
@pytest.mark.parametrize("kind", ["features", "network"])
def test_reports_are_of_the_rows_held_out(kind, name):
    x = np.random.default_rng(3).normal(size=(2, 200, 2)).astype("f4")
    p, q = x[0, :60] + 0.3, x[1] - 0.3
    options = {"loss": name, **({} if kind == "features" else known(0.7))}
    fit = fit_ratio(KEY, p, q, **options, log_ratio=lambda x: 0.6 * x.sum(1))
    # The report is of an r that never saw the rows held out. The features' optimum is unique, and found.
    if kind == "features":
        blind = fit_ratio(KEY, p[~HELD[0]], q[~HELD[1]], **options).r
    else:  # all that it learns is the constant of Donsker and Varadhan
        both = np.concatenate([p, q])[:, 0]
        slope = 0.7 / both.std()
        weights = np.exp(slope * (q[~HELD[1], 0] - both.mean()))
        constant = np.log(weights.mean()) if name == "donsker_varadhan" else 0.0

        def blind(x):
            return slope * (x[:, 0] - both.mean()) - constant

    expected, bins = reported(blind(p[HELD[0]]), blind(q[HELD[1]]), name)
    for field, value in expected.items():
        np.testing.assert_allclose(getattr(fit, field), value, atol=1e-3, err_msg=field)
    np.testing.assert_allclose(fit.reliability, bins, atol=1e-3)
    r_p, r_q = (np.asarray(fit.r(x), np.float64) for x in (p, q))  # from here on all draws
    weights = np.exp(r_q)
    np.testing.assert_allclose(fit.effective_sample_size, weights.sum() ** 2 / (weights**2).sum(), rtol=1e-4)
    for rmse, r, x in ((fit.rmse_p, r_p, p), (fit.rmse_q, r_q, q)):
        np.testing.assert_allclose(rmse, np.sqrt(np.mean((r - 0.6 * x.sum(1)) ** 2)), rtol=1e-4)
    if name == "donsker_varadhan":
        assert weights.mean() == pytest.approx(1, abs=1e-4)


def test_what_was_learned_by_heart_is_not_believed():
    p, q = np.random.default_rng(0).normal(size=(2, 15, 5)).astype("f4")  # of one law; there are 20 features
    fit = fit_ratio(KEY, p, q)
    assert (fit.r(p) > 0).all() and (fit.r(q) < 0).all()
    assert fit.loss > 2 * math.log(2) and fit.accuracy < 0.85
    assert fit.outcome is RatioOutcome.SATURATED  # of the r that is given: no finite one is best


@pytest.mark.parametrize("sizes", [(200, 1000), (1000, 200)])
def test_saturation_is_a_share_of_both_classes(sizes):
    def apart(wrong_p, wrong_q):  # r = x with so many draws on the wrong side, and a cut that is not at zero
        x = [
            np.where(np.arange(n) < wrong, -0.5, 0.5)
            for n, wrong in zip(sizes, (wrong_p, wrong_q), strict=True)
        ]
        return 30 + x[0], 30 - x[1]

    one_percent = [size // 100 for size in sizes]
    for more_p, more_q, share in ((1, 2, 0.985), (2, 1, 0.985), (1, 4, 0.975), (4, 1, 0.975)):
        p, q = apart(more_p * one_percent[0], more_q * one_percent[1])
        assert float(separation(jnp.asarray(p), jnp.asarray(q))) == pytest.approx(share, abs=1e-5)
        fit = fit_ratio(KEY, p.astype("f4"), q.astype("f4"), **known(1.0))
        assert fit.saturated == (share > 0.98)
    few, many = np.random.default_rng(0).normal(size=(2, 50)).round(1)  # with ties
    for r_p, r_q in ((many, few[:20]), (few[:20], many)):
        cuts = [((r_p > cut).mean() + (r_q <= cut).mean()) / 2 for cut in np.append(r_p, r_q)]
        assert float(separation(jnp.asarray(r_p), jnp.asarray(r_q))) == pytest.approx(max(cuts), abs=1e-5)


def test_reports_of_a_telescope():
    x = np.random.default_rng(0).normal(size=(2, 1000)).astype("f4")
    p, q = x[0] - 4, x[1, :100] + 4  # the mean of all draws is near p: the first bridge is the longer one
    found = telescope(KEY, p, q, bridges=2, log_ratio=lambda x: -8 * x)
    assert [bool(bridge.saturated) for bridge in found.bridges] == [True, False]
    assert found.saturated and found.is_ratio and found.outcome is RatioOutcome.SATURATED
    r_p, r_q = (sum(np.asarray(bridge.r(x), np.float64) for bridge in found.bridges) for x in (p, q))
    np.testing.assert_allclose(found.r(p), r_p, rtol=1e-5)
    np.testing.assert_allclose(found.kl, r_p.mean(), rtol=1e-5)
    weights = np.exp(r_q - r_q.max())
    np.testing.assert_allclose(
        found.effective_sample_size, weights.sum() ** 2 / (weights**2).sum(), rtol=1e-3
    )
    np.testing.assert_allclose(found.rmse_p, np.sqrt(np.mean((r_p + 8 * p) ** 2)), rtol=1e-4)
    np.testing.assert_allclose(found.rmse_q, np.sqrt(np.mean((r_q + 8 * q) ** 2)), rtol=1e-4)


@pytest.mark.parametrize("unit", [1e-20, 1e20])
@pytest.mark.parametrize("which", ["all", "one"])
@pytest.mark.parametrize("function", [fit_ratio, telescope])
def test_units_do_not_matter(function, which, unit):
    x = np.random.default_rng(1).normal(size=(2, 200, 2)).astype("f4")
    p, q = x[0] * [0.5, 1.0] + 0.5, x[1]
    units = np.float64([unit, unit if which == "all" else 1.0])
    plain = function(KEY, *(np.float32(x) for x in (p, q)))
    fit = function(KEY, *(np.float32(units * x) for x in (p, q)))
    np.testing.assert_allclose(fit.r(np.float32(units * p)), plain.r(np.float32(p)), atol=1e-3)
    parts = [(fit, plain)] if function is fit_ratio else zip(fit.bridges, plain.bridges, strict=True)
    for part, same in parts:
        for field in ("loss", "accuracy", "kl", "calibration_error"):
            assert float(getattr(part, field)) == pytest.approx(float(getattr(same, field)), abs=1e-3), field
    assert float(fit.kl) == pytest.approx(float(plain.kl), abs=1e-3)
    assert float(fit.effective_sample_size) == pytest.approx(float(plain.effective_sample_size), rel=1e-3)


def test_shapes_of_x():
    p, q = np.random.default_rng(0).normal(size=(2, 60, 2, 3)).astype("f4")
    p[:, 1, 2] = q[:, 1, 2] = 4.0  # the same constant in both samples says nothing, and does no harm
    r = fit_ratio(KEY, p, q[:50], steps=1).r(p)
    assert r.shape == (60,) and np.isfinite(r).all()
    assert quadratic(jnp.zeros((2, 3))).shape == (6 + 21,)


def test_two_draws_and_more_of_one_class_than_of_the_other():
    p, q = gaussians()
    fit = fit_ratio(KEY, p, q[:2], steps=3)
    assert np.isfinite(fit.r(p)).all() and np.isfinite(fit.loss)
    fit = fit_ratio(KEY, p, q[:500])  # the odds are those of densities, not of counts
    assert np.sqrt(np.mean((fit.r(p) - p) ** 2)) < 0.3


GOOD = np.random.default_rng(0).normal(size=(20, 2)).astype("f4")


def changed(row, value):
    sample = GOOD.copy()
    sample[row] = value
    return sample


def call(p=GOOD, q=GOOD[::-1], function=fit_ratio, key=KEY, **options):
    return lambda: function(key, p, q, **options)


WRONG = {
    "old-style key": (call(key=jax.random.PRNGKey(0)), TypeError, "key: expected jax.random.key"),
    "old-style key, telescope": (
        call(key=jax.random.PRNGKey(0), function=telescope),
        TypeError,
        "key: expected jax.random.key",
    ),
    "a list": (call(p=[0.0, 1.0]), TypeError, "p: expected an array of floating-point draws, got list"),
    "integers": (call(q=np.arange(5)), TypeError, "q: expected .* got an array of int64"),
    "a number": (
        call(p=np.float32(1)),
        ValueError,
        r"p: expected draws along the leading axis, got shape \(\)",
    ),
    "no coordinate": (call(p=GOOD[:, :0]), ValueError, r"p: expected draws .* got shape \(20, 0\)"),
    "empty": (call(q=GOOD[:0]), ValueError, "q: expected two draws or more, got 0"),
    "one row": (call(p=GOOD[:1]), ValueError, "p: expected two draws or more, got 1"),
    "dimensions": (call(q=GOOD[:, 0]), ValueError, r"expected draws of one shape, got \(2,\) and \(\)"),
    "types": (call(q=jnp.asarray(GOOD, jnp.float16)), TypeError, "one dtype, got float32 and float16"),
    "NaN": (call(p=changed(3, np.nan)), ValueError, "p: missing or infinite values"),
    "infinity": (call(q=changed(3, np.inf)), ValueError, "q: missing or infinite values"),
    "constant": (call(p=np.ones_like(GOOD)), ValueError, "p: all draws are the same"),
    "atom": (call(q=GOOD * [[1, 0]]), ValueError, "constant in one sample but not in the other"),
    "unknown loss": (call(loss="logistic"), ValueError, "loss: expected one of .* got 'logistic'"),
    "network": (call(network="quadratic"), TypeError, "network: expected a Network or a function"),
    "features": (call(network=lambda u: u[0]), ValueError, r"got shape \(\) for one draw"),
    "infinite features": (
        call(network=lambda x: jnp.exp(100 * x)),
        ValueError,
        r"network: features are not finite at \d+\.\d% of the draws; likely cause: powers or exponentials",
    ),
    "steps": (call(steps=0), ValueError, "steps: expected a positive integer, got 0"),
    "batch_size": (call(batch_size=1.5), ValueError, "batch_size: expected a positive integer, got 1.5"),
    "learning_rate": (
        call(learning_rate=-1),
        ValueError,
        "learning_rate: expected a positive number, got -1",
    ),
    "log_ratio": (
        call(log_ratio=lambda x: x, steps=1),
        ValueError,
        r"log_ratio: expected one number for each draw, got shape \(20, 2\) for 20 draws",
    ),
    "bridges": (
        call(function=telescope, bridges=0),
        ValueError,
        "bridges: expected a positive integer, got 0",
    ),
    "telescope: empty": (call(p=GOOD[:0], function=telescope), ValueError, "p: expected two draws or more"),
}


@pytest.mark.parametrize(("wrong", "error", "message"), WRONG.values(), ids=WRONG)
def test_wrong_calls(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()
