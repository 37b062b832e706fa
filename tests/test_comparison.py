"""c2st: equal samples are not told apart, and each kind of difference is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from toys import within

from himlib.comparison import c2st

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


def test_units_and_trees_make_no_difference():
    first, second = draw(2)
    second = DIFFERENCES["correlation"](second)
    trees = [{"a": 1e3 * x[:, 0] + 7, "b": 1e-3 * x[:, 1:]} for x in (first, second)]
    plain = c2st(KEY, first, second)
    assert c2st(KEY, *trees).accuracy == pytest.approx(plain.accuracy, abs=0.02)
    assert c2st(KEY, first, second) == plain  # the same key, the same answer
