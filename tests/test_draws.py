"""Importance weights against ArviZ's and theory, and draws in ArviZ."""

import arviz
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from himlib.draws import importance, to_arviz


@pytest.mark.parametrize("shape", [0.1, 0.5, 0.9])
def test_tails_of_known_shape(shape):
    found = [
        importance(np.log(stats.pareto(1 / shape).rvs(4_000, random_state=seed))).k_hat for seed in range(20)
    ]
    error = np.std(found, ddof=1) / 20**0.5
    assert abs(np.mean(found) - shape) < 0.08 + 3 * error  # the fit draws it a little to 1/2


@pytest.mark.skipif(int(arviz.__version__.split(".")[0]) > 0, reason="psislw is of ArviZ before 1")
@pytest.mark.parametrize("shape", [0.1, 0.5, 0.9])
def test_same_as_arviz(shape):
    log_weights = np.log(stats.pareto(1 / shape).rvs(4_000, random_state=0))
    ours, (log_theirs, k_hat) = importance(log_weights), arviz.psislw(log_weights)
    np.testing.assert_allclose(ours.k_hat, k_hat, rtol=1e-10)
    np.testing.assert_allclose(np.log(ours.weights), log_theirs, atol=1e-10)


def test_a_constant_changes_nothing_and_even_weights_are_even():
    log_weights = np.random.default_rng(0).normal(size=1_000)
    one, other = importance(log_weights), importance(jnp.asarray(log_weights) + 500)
    np.testing.assert_allclose(one.weights, other.weights, rtol=1e-3)
    assert abs(one.weights.sum() - 1) < 1e-12 and abs(one.ess - np.exp(-1)) < 0.1
    even = importance(np.zeros(500))
    assert even.ess == 1 and even.k_hat == -np.inf
    some = importance(np.where(np.arange(500) < 400, 0.0, -np.inf))
    assert abs(some.ess - 0.8) < 1e-12 and some.weights[450] == 0


def test_weights_are_blind_to_a_mode_that_has_no_draws():
    v = np.random.default_rng(1).normal(6, 1, 10_000)
    log_p = np.logaddexp(stats.norm(6, 1).logpdf(v), stats.norm(-6, 1).logpdf(v))
    found = importance(log_p - stats.norm(6, 1).logpdf(v))
    assert found.ess > 0.99


@pytest.mark.parametrize(
    "wrong", [np.zeros(50), np.zeros((200, 2)), np.full(200, np.nan), np.full(200, -np.inf)]
)
def test_wrong_weights(wrong):
    with pytest.raises(ValueError, match="log_weights: expected"):
        importance(wrong)


def test_arviz_takes_trees():
    draws = np.random.default_rng(0).normal(size=(500, 2))
    inference = to_arviz({"level": draws[:, 0], "rates": [draws, draws[:, 1]]})
    posterior = inference.posterior
    assert sorted(posterior.data_vars) == ["level", "rates.0", "rates.1"]
    np.testing.assert_array_equal(posterior["rates.0"].values, draws[None])
    assert list(to_arviz(jnp.zeros(100)).posterior.data_vars) == ["beta"]
    table = arviz.summary(inference)
    assert abs(float(table.loc["level"].iloc[0]) - draws[:, 0].mean()) < 0.01
