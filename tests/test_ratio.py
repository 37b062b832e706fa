"""Log ratios from samples: exact answers, scikit-learn beside them, what saturates, and wrong calls."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from sklearn.linear_model import LogisticRegression

from himlib import LOSSES
from himlib.ratio import RatioOutcome, classifier, fit_ratio, telescope

KEY = jax.random.key(0)
SEEDS = range(5)
NETWORK = classifier((32, 32), quadratic=False, activation=jax.nn.gelu)


def gaussians(seeds, n, shift=0.0, scale_p=1.0, dimensions=()):
    """For each seed, draws of N(shift/2, scale_p^2) and of N(-shift/2, 1)."""
    normals = np.stack([np.random.default_rng(seed).normal(size=(2, n, *dimensions)) for seed in seeds])
    return (shift / 2 + scale_p * normals[:, 0]).astype("f4"), (normals[:, 1] - shift / 2).astype("f4")


def fit_all(function, p, q, **options):
    """One fit for each pair of samples; only the first one compiles."""
    pairs = zip(p, q, strict=True)
    fits = [function(jax.random.key(seed), *pair, **options) for seed, pair in enumerate(pairs)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *fits)


def evaluate(fits, x):
    return np.asarray(jax.vmap(lambda r, x: r(x))(fits.r, x))


def rmse(fits, truth, *samples):
    """Root mean square error over all samples together, for each seed."""
    squares = [(evaluate(fits, x) - truth(x)) ** 2 for x in samples]
    return np.sqrt(np.concatenate(squares, axis=1).mean(axis=1))


def sklearn_r(p, q, x):
    """r at x by scikit-learn's logistic regression on x and x^2, without a penalty."""
    both = np.concatenate([p, q]).astype(float)
    scale = both.std()
    features = [np.stack([v / scale, (v / scale) ** 2], axis=1) for v in (both, x.astype(float))]
    labels = np.repeat([1, 0], [len(p), len(q)])
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(features[0], labels)
    return model.decision_function(features[1])


@pytest.fixture(scope="module")
def logistic():
    """Twenty fits by quadratic features at s = 2 and n = 2,000, with fresh draws."""
    seeds = range(20)
    p, q = gaussians(seeds, 2000, shift=2.0)
    fits = fit_all(fit_ratio, p, q, log_ratio=lambda x: 2 * x)
    return fits, p, q, gaussians(range(100, 120), 2000, shift=2.0)


class TestQuadraticFeatures:
    def test_error_at_2000(self, logistic):
        fits, _, _, fresh = logistic
        assert np.median(rmse(fits, lambda x: 2 * x, *fresh)) < 0.20
        assert evaluate(fits, fresh[0]).mean() == pytest.approx(2.0, abs=0.10)
        assert np.mean(fits.kl) == pytest.approx(2.0, abs=0.10)  # held out, by four fifths

    def test_is_logistic_regression(self, logistic):
        fits, p, q, fresh = logistic
        for seed in SEEDS:
            reference = sklearn_r(p[seed], q[seed], fresh[0][seed])
            np.testing.assert_allclose(evaluate(fits, fresh[0])[seed], reference, atol=0.02)

    def test_reports_are_what_they_say(self, logistic):
        fits, p, q, _ = logistic
        np.testing.assert_allclose(fits.rmse_p, rmse(fits, lambda x: 2 * x, p), rtol=1e-4)
        np.testing.assert_allclose(fits.rmse_q, rmse(fits, lambda x: 2 * x, q), rtol=1e-4)
        weights = np.exp(evaluate(fits, q).astype(float))
        size = weights.sum(1) ** 2 / (weights**2).sum(1)
        np.testing.assert_allclose(fits.effective_sample_size, size, rtol=1e-3)
        accuracy = special.ndtr(1.0)  # of the best classifier; each fit is held to 800 draws
        assert abs(np.mean(fits.accuracy) - accuracy) < 4.5 * math.sqrt(accuracy * (1 - accuracy) / 16_000)
        assert not fits.saturated.any()
        assert fits.is_ratio.all()

    def test_held_out_loss_and_calibration(self, logistic):
        fits, *_ = logistic
        x = np.linspace(-8, 8, 4001)  # population value at the optimum
        p, q = (np.exp(-((x - m) ** 2) / 2) / math.sqrt(2 * math.pi) for m in (1, -1))
        value = np.trapezoid(p * np.logaddexp(0, -2 * x) + q * np.logaddexp(0, 2 * x), x)
        losses = np.asarray(fits.loss)
        assert abs(losses.mean() - value) < 4.5 * losses.std() / math.sqrt(20) + 0.005
        assert np.all(fits.calibration_error < 0.08)
        np.testing.assert_allclose(fits.reliability.weight.sum(axis=1), 1, rtol=1e-5)

    def test_error_at_20000_and_its_fall_with_the_root_of_n(self):
        pairs = gaussians(range(20), 20_000, shift=1.0), gaussians(SEEDS, 20_000, shift=2.0)
        fits = fit_all(fit_ratio, *(np.concatenate(samples) for samples in zip(*pairs, strict=True)))
        few = fit_all(fit_ratio, *gaussians(range(20), 200, shift=1.0))
        p, q = gaussians(range(100, 125), 2000, shift=1.0)
        assert np.median(rmse(fits, lambda x: 2 * x, p + 0.5, q - 0.5)[20:]) < 0.08
        errors = [rmse(few, lambda x: x, p[:20], q[:20]), rmse(fits, lambda x: x, p, q)[:20]]
        assert 5 < np.median(errors[0]) / np.median(errors[1]) < 15

    def test_units_do_not_matter(self, logistic):
        _, p, q, fresh = logistic
        p, q, x = p[0], q[0], fresh[0][0]
        plain = fit_ratio(KEY, p, q).r(x)
        np.testing.assert_allclose(fit_ratio(KEY, 1e4 * p, 1e4 * q).r(1e4 * x), plain, atol=0.02)
        np.testing.assert_allclose(fit_ratio(KEY, p + 100, q + 100).r(x + 100), plain, atol=0.02)
        np.testing.assert_allclose(fit_ratio(KEY, q, p).r(x), -plain, atol=0.02)

    def test_order_does_not_matter(self, logistic):
        fits, p, q, fresh = logistic
        fit = fit_ratio(KEY, np.sort(p[0]), np.sort(q[0]))
        np.testing.assert_allclose(fit.r(fresh[0][0]), evaluate(fits, fresh[0])[0], atol=0.02)
        assert abs(float(fit.accuracy - fits.accuracy[0])) < 0.03


class TestFeatures:
    def test_see_x_as_it_is(self):
        p, q = (np.exp(x[0]) for x in gaussians([0], 4_000, shift=1.0))  # log p/q = log x
        fit = fit_ratio(KEY, p, q, lambda x: jnp.log(x)[None], log_ratio=np.log)
        assert max(fit.rmse_p, fit.rmse_q) < 0.1

    def test_that_nearly_repeat_each_other(self):
        def steps(
            x,
        ):  # a dozen and a half, overlapping; draws of both classes between any two: a finite optimum
            return jnp.append(jax.nn.sigmoid(20 * (x - jnp.arange(-2, 2, 0.25))), x)

        p, q = (x[0] for x in gaussians([0], 2_000, shift=1.0))
        x = np.concatenate([p, q])
        features = np.asarray(jax.vmap(steps)(x), np.float64)
        model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10, max_iter=100)
        expected = model.fit(features, np.repeat([1, 0], 2_000)).decision_function(features)
        for rows in (np.arange(2_000), np.random.default_rng(0).permutation(2_000)):
            r = np.asarray(fit_ratio(KEY, p[rows], q[rows], steps).r(x))
            np.testing.assert_allclose(r, expected, atol=0.01)

    @pytest.mark.parametrize("scale", [0.5, 0.1, 0.01])
    @pytest.mark.parametrize("name", ["log", "exponential", "kl", "reverse_kl"])
    def test_end_where_the_slope_of_the_loss_is_zero(self, name, scale):
        """However narrow one of the two is, and to the digits of single precision."""
        narrow, wide = (x[0] for x in gaussians([0], 2_000, scale_p=scale))
        p, q = (wide, narrow) if name == "reverse_kl" else (narrow, wide)
        fit = fit_ratio(KEY, p, q, loss=name)

        def loss(change):
            return LOSSES[name](*(fit.r(x) + jnp.stack([x**0, x, x**2], 1) @ change for x in (p, q)))

        least = 5e-5 if "kl" in name else 1e-6  # its constant is set afterwards, by a mean of exp(r)
        slope = jax.grad(loss)(jnp.zeros(3))
        assert np.all(np.abs(slope) < least * np.array([1, scale, scale**2]))

    def test_of_single_precision_where_double_is_the_default(self):
        p, q = (x[0] for x in gaussians([0], 500))
        expected = fit_ratio(KEY, p, q).r(q)
        with jax.enable_x64(True):
            r = fit_ratio(KEY, p, q).r(q)
        assert r.dtype == np.float32
        np.testing.assert_allclose(r, expected, atol=1e-4)


class TestNetwork:
    """A network of two hidden layers; the book's chapter on ratios holds five seeds to the same bars."""

    @pytest.fixture(scope="class")
    def fits(self):
        def fit_both(near, far, **options):
            shifts = np.repeat([near, far], 2)
            pairs = [gaussians([seed], 5000, shift=s) for seed, s in zip([0, 1] * 2, shifts, strict=True)]
            p, q = (np.concatenate(samples) for samples in zip(*pairs, strict=True))
            fits = fit_all(fit_ratio, p, q, network=NETWORK, **options)
            fresh = gaussians(range(100, 104), 4000)
            fresh = [x + sign * shifts[:, None] / 2 for x, sign in zip(fresh, (1, -1), strict=True)]
            errors = rmse(fits, lambda x: shifts[:, None] * x, *fresh)
            return fits, errors, [evaluate(fits, x) for x in fresh]

        return {"log": fit_both(2.0, 8.0, loss="log"), "hinge": fit_both(2.0, 4.0, loss="hinge")}

    def test_log_loss_near(self, fits):
        _, errors, (r_p, _) = fits["log"]
        assert np.median(errors[:2]) < 0.25
        assert 1.75 < np.median(r_p[:2].mean(axis=1)) < 2.1

    def test_log_loss_saturates_far(self, fits):
        found, _, (r_p, _) = fits["log"]
        assert np.all(r_p[2:].mean(axis=1) < 26)  # the truth is 32
        assert found.saturated[2:].all() and not found.saturated[:2].any()
        far = jax.tree.map(lambda leaf: leaf[3], found)
        assert far.outcome is RatioOutcome.SATURATED and "Telescope" in far.outcome.value

    def test_hinge_finds_the_best_classifier_but_no_ratio(self, fits):
        _, errors, (r_p, r_q) = fits["hinge"]
        accuracy = ((r_p[:2] > 0).mean(axis=1) + (r_q[:2] < 0).mean(axis=1)) / 2
        assert np.median(accuracy) == pytest.approx(special.ndtr(1.0), abs=0.01)
        assert np.median(np.abs(np.stack([r_p, r_q])[:, :2]).max(axis=(0, 2))) < 3
        assert np.median(errors[2:]) > 5
        assert np.median(errors[:2]) > 5 * np.median(fits["log"][1][:2])


def correlated(seeds, n, d=20, rho=0.8):
    """d/2 pairs of correlated normals against independent ones."""
    p, q = gaussians(seeds, n, dimensions=(d,))
    p[..., 1::2] = rho * p[..., ::2] + math.sqrt(1 - rho**2) * p[..., 1::2]
    return p, q


def correlated_log_ratio(x, rho=0.8):
    a, b = x[..., ::2], x[..., 1::2]
    terms = (rho**2 * (a**2 + b**2) - 2 * rho * a * b) / (2 * (1 - rho**2))
    return -(terms + math.log(1 - rho**2) / 2).sum(axis=-1)


class TestTelescope:
    def test_chasm(self):
        sd, exact = 1e-6, math.log(1e6) - 0.5
        p, q = gaussians(SEEDS, 10_000, scale_p=sd)
        fresh, _ = gaussians(range(100, 105), 4000, scale_p=sd)
        single, four = fit_all(fit_ratio, p, q), fit_all(telescope, p, q)
        assert single.saturated.all(), single.accuracy  # where it stops is where its optimizer gave up
        assert np.median(evaluate(four, fresh).mean(axis=1)) == pytest.approx(exact, abs=0.4)
        assert not four.saturated.any()
        early = fit_all(fit_ratio, p, q, steps=8)  # r = 0 is not yet where it belongs
        assert early.accuracy.max() < 0.95 and early.saturated.all()
        late, soon = (evaluate(fits, fresh).mean(axis=1) for fits in (single, early))
        assert np.all(late - soon > 2)  # nats that the optimizer makes, and not the draws
        accuracies = np.stack([bridge.accuracy for bridge in four.bridges])
        assert accuracies.shape == (4, 5) and np.ptp(accuracies) < 0.05  # equal factors, equally hard
        np.testing.assert_allclose(four.kl, evaluate(four, p).mean(axis=1), rtol=1e-4)

    def test_correlated(self):
        p, q = correlated(SEEDS, 2000)
        fresh = correlated(range(100, 105), 4000)
        single = rmse(fit_all(fit_ratio, p, q), correlated_log_ratio, *fresh)
        four = rmse(fit_all(telescope, p, q), correlated_log_ratio, *fresh)
        assert np.median(four) < np.median(single) / 3
        assert np.all(four < single / 2)
