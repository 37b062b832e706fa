"""c2st: equal samples are not told apart, and each kind of difference is."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from toys import within

from himlib.diagnostics import c2st, two_sample

KEY = jax.random.key(60)
FIRST, SECOND = 400, 300  # one shape for all tests: it is compiled once


def draw(seed):
    k_first, k_second = jax.random.split(jax.random.key(seed))
    return jax.random.normal(k_first, (FIRST, 2)), jax.random.normal(k_second, (SECOND, 2))


MIXING = jnp.linalg.cholesky(jnp.array([[1, 0.8], [0.8, 1]]))
DIFFERENCES = {
    "mean": lambda x: x + jnp.array([0.7, 0.0]),
    "narrow": lambda x: 0.6 * x,
    "wide": lambda x: 1.7 * x,
    "correlation": lambda x: x @ MIXING.T,
    "shape": lambda x: 0.95 * jnp.sign(x) + (1 - 0.95**2) ** 0.5 * x[::-1],  # mean 0, sd 1, correlation 0
}


def test_equal_samples_cannot_be_told_apart():
    results = [c2st(jax.random.key(seed), *draw(seed)) for seed in range(100, 125)]
    z = np.array([(result.accuracy - 0.5) / result.standard_error for result in results])
    # Mean 0 and sd 1, up to the draws that the folds' classifiers share.
    assert within(z, 0.0) and 0.5 < z.std() < 1.7
    expected = np.hypot(0.5 / FIRST**0.5, 0.5 / SECOND**0.5) / 2
    assert results[0].standard_error == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_each_difference_is_seen(difference):
    first, second = draw(1)
    result = c2st(KEY, first, DIFFERENCES[difference](second))
    assert result.accuracy > 0.5 + 4 * result.standard_error
    if difference == "mean":  # no classifier is better than Bayes's, and this one is nearly as good
        best = stats.norm.cdf(0.35)
        assert best - 0.05 < result.accuracy < best + 3 * result.standard_error


@pytest.mark.parametrize("units", [(2.0**66, 2.0**66), (2.0**-66, 2.0**-66), (2.0**66, 1.0), (1.0, 2.0**-66)])
def test_units_do_not_matter(units):
    first, second = draw(2)
    plain = c2st(KEY, first, DIFFERENCES["mean"](second))
    assert c2st(KEY, *(jnp.array(units) * x for x in (first, DIFFERENCES["mean"](second)))) == plain


def test_reports_are_of_rows_that_the_classifier_has_not_seen(monkeypatch):
    """With a known classifier in the place of those that are trained."""
    first, second = np.random.default_rng(0).normal(size=(2, 60)).astype("f4")
    second = second[:40] - 1

    def use(classify):
        def fit(key, p, q, network, **options):
            return SimpleNamespace(r=classify(p, q))

        monkeypatch.setattr(two_sample, "fit_ratio", fit)
        two_sample._c2st.clear_cache()
        return c2st(KEY, first, second, folds=2)

    shares = [(sample > np.append(first, second).mean()).mean() for sample in (first, second)]
    found = use(lambda p, q: lambda x: x[:, 0])  # cuts at the mean of all draws, where samples are shifted to
    assert found.accuracy == pytest.approx((shares[0] + 1 - shares[1]) / 2, abs=1e-6)
    variances = [share * (1 - share) / size for share, size in zip(shares, (60, 40), strict=True)]
    assert found.standard_error == pytest.approx(sum(variances) ** 0.5 / 2, rel=1e-5)
    seen = use(
        lambda p, q: lambda x: jnp.where(jnp.isin(x, p) | ~jnp.isin(x, jnp.append(p, q)), 1.0, -1.0)[:, 0]
    )
    assert seen.accuracy == 0.5  # all new rows are called first's: half of the truth, where no old one helps
    two_sample._c2st.clear_cache()


def test_units_and_trees_make_no_difference():
    first, second = draw(2)
    second = DIFFERENCES["correlation"](second)
    trees = [{"a": 1e3 * x[:, 0] + 7, "b": 1e-3 * x[:, 1:]} for x in (first, second)]
    plain = c2st(KEY, first, second)
    assert c2st(KEY, *trees).accuracy == pytest.approx(plain.accuracy, abs=0.02)
    assert c2st(KEY, first, second) == plain  # the same key, the same answer


def test_counts_are_numbers():
    rates = zip(jax.random.split(KEY), (3.0, 5.0), (FIRST, SECOND), strict=True)
    first, second = (jax.random.poisson(key, rate, (size, 2)) for key, rate, size in rates)
    assert c2st(KEY, first, second) == c2st(KEY, first.astype(float), second.astype(float))
    with pytest.raises(ValueError, match="first, second: a coordinate is constant"):
        c2st(KEY, first, second.at[:, 0].set(0))
    with pytest.raises(TypeError, match=r"first: expected an array of floating-point draws, got .* bool"):
        c2st(KEY, first > 2, second > 2)
