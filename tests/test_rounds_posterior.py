"""What one does with a posterior of few simulations: densities, other data, conditionals, files."""

import dataclasses
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import integrate, stats

from himlib import Data, HierarchicalImplicitModel, MeanFieldNormal, PointMass, SplineFlow
from himlib.few_simulations import ExternalModel, RoundsOutcome, fit_rounds, load_rounds
from himlib.few_simulations._coordinates import ravel
from himlib.few_simulations.posterior import finish, judge
from himlib.networks import ratio_network

PRIOR = {"a": dist.Normal(0.0, 1.0), "b": dist.LogNormal(0.0, 0.5)}


def sum_of_both(noise, beta, covariate):
    return None, beta["a"] + jnp.log(beta["b"]) + 0.4 * noise


MODEL = HierarchicalImplicitModel(PRIOR, generate=sum_of_both, noise_shape=())
ONE = Data(jnp.ones(1))


def posterior(x):
    """Exact mean and covariance of (a, log b)."""
    prior, along = np.diag([1, 0.25]), np.ones((2, 1))
    gain = prior @ along / (1.25 + 0.16)
    return gain[:, 0] * x, prior - gain @ along.T @ prior


def off(beta, x):
    """How far means are off, in exact sds, and ratios of sds."""
    got = np.stack([beta["a"], np.log(beta["b"])], 1).astype(np.float64)
    mean, covariance = posterior(x)
    sd = np.diag(covariance) ** 0.5
    return np.abs(got.mean(0) - mean) / sd, got.std(0) / sd


@pytest.fixture(scope="module")
def run():
    return fit_rounds(
        jax.random.key(0), MODEL, ONE, simulations=4_000, rounds=2, particles=4_000, progress=False
    )


def test_posterior(run):
    errors, widths = off(run.beta, 1.0)
    assert run.outcome is RoundsOutcome.COMPLETED
    assert errors.max() < 0.25 and np.all((widths > 0.85) & (widths < 1.15))
    assert 0.5 < run.agreement <= 1 and run._learned.widen == 2


def test_log_prob_is_a_density(run):
    mean, covariance = posterior(1.0)
    where = stats.multivariate_normal(mean, covariance).rvs(500, random_state=0)
    beta = {"a": jnp.asarray(where[:, 0]), "b": jnp.exp(where[:, 1])}
    exact = stats.multivariate_normal(mean, covariance).logpdf(where) - where[:, 1]  # of b, not log b
    got = np.asarray(run.log_prob(beta))
    assert abs(np.mean(got - exact)) < 0.1 and np.std(got - exact) < 0.25
    a, b = np.linspace(-3, 4, 141), np.exp(np.linspace(-2.5, 2.5, 141))
    grid = np.meshgrid(a, b, indexing="ij")
    values = run.log_prob({"a": jnp.ravel(grid[0]), "b": jnp.ravel(grid[1])}).reshape(141, 141)
    total = integrate.trapezoid(integrate.trapezoid(np.exp(values), b, axis=1), a)
    assert abs(total - 1) < 0.08
    beyond = run.log_prob({"a": jnp.array([80.0]), "b": jnp.array([1.0])})
    assert beyond == -jnp.inf


def test_other_data_and_more_of_them(run):
    again = run.at(jax.random.key(5), ONE)
    errors, widths = off(again.beta, 1.0)
    assert errors.max() < 0.3 and np.all((widths > 0.85) & (widths < 1.15))
    near = run.at(jax.random.key(1), Data(jnp.array([0.7])))
    errors, widths = off(near.beta, 0.7)
    assert near.outcome is RoundsOutcome.COMPLETED and near.simulations == 4_000
    assert errors.max() < 0.35 and np.all((widths > 0.8) & (widths < 1.2))
    three = run.at(jax.random.key(1), Data(jnp.array([0.9, 1.0, 1.1])))
    total = np.asarray(three.beta["a"] + np.log(three.beta["b"]))
    sd = (1 / (1 / 1.25 + 3 / 0.16)) ** 0.5
    assert abs(total.mean() - 3 * sd**2 / 0.16) < 0.5 * sd and 0.75 < total.std() / sd < 1.25


def test_far_data_are_told(run):
    assert run.at(jax.random.key(1), Data(jnp.array([60.0]))).outcome is not RoundsOutcome.COMPLETED
    with pytest.raises(ValueError, match="data: expected 1 features of one, got 2"):
        run.at(jax.random.key(0), Data(jnp.zeros((1, 2))))


def test_one_parameter_given_the_other(run):
    drawn = run.given(jax.random.key(2), {"b": 2.0})
    np.testing.assert_allclose(drawn["b"], 2.0, rtol=1e-5)
    rest = 1 - np.log(2)
    mean, sd = rest / 1.16, (0.16 / 1.16) ** 0.5
    a = np.asarray(drawn["a"], np.float64)
    assert abs(a.mean() - mean) < 0.3 * sd and 0.8 < a.std() / sd < 1.2


def test_vectors_and_trees_are_given_as_lists():
    prior = {"w": dist.Normal(jnp.zeros(2), 1.0).to_event(1), "s": {"a": dist.HalfNormal(1.0)}}

    def simulate(rng, beta, covariate):
        return beta["w"] + beta["s"]["a"] * rng.normal(size=2)

    run = fit_rounds(
        jax.random.key(0), ExternalModel(prior, simulate), Data(jnp.zeros((1, 2))), simulations=1_000,
        rounds=1, particles=1_000, progress=False,
    )  # fmt: skip
    assert np.isnan(run.agreement)  # there is no round before
    drawn = run.given(jax.random.key(1), {"w": [0.5, -0.5]})
    np.testing.assert_allclose(drawn["w"], np.tile([0.5, -0.5], (1_000, 1)), rtol=1e-5)
    assert np.ptp(drawn["s"]["a"]) > 0.1
    drawn = run.given(jax.random.key(1), {"s": {"a": 1.0}})
    assert np.ptp(drawn["s"]["a"]) < 1e-5 and np.ptp(drawn["w"]) > 0.1
    with pytest.raises(ValueError, match="expected s as the prior has it"):
        run.given(jax.random.key(1), {"s": 1.0})


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({}, "expected some of"),
        ({"c": 1.0}, "expected some of"),
        ({"a": 1.0, "b": 1.0}, "but not all"),
        ({"a": [1.0, 2.0]}, "expected a as the prior has it"),
        ({"b": -1.0}, "within the prior's support"),
        ({"b": 1e4}, "where simulations were"),
    ],
)
def test_wrong_known(run, known, message):
    with pytest.raises(ValueError, match=message):
        run.given(jax.random.key(0), known)


def test_more_rounds_from_there(run):
    more = fit_rounds(
        jax.random.key(3), MODEL, Data(jnp.array([2.5])), simulations=2_000, rounds=1, particles=4_000,
        start=run, progress=False,
    )  # fmt: skip
    assert more.simulations == 6_000 and more.held_out.shape == (3, 3) and more.weights.shape == (3, 2)
    errors, widths = off(more.beta, 2.5)
    assert errors.max() < 0.3 and np.all((widths > 0.8) & (widths < 1.2))
    other = HierarchicalImplicitModel(PRIOR | {"a": dist.Normal(0, 2)}, generate=sum_of_both, noise_shape=())
    with pytest.raises(ValueError, match="start: expected a run of this prior"):
        fit_rounds(jax.random.key(3), other, ONE, simulations=2_000, start=run)
    with pytest.raises(ValueError, match="start: pairs come first in the first run"):
        fit_rounds(jax.random.key(3), MODEL, ONE, start=run, pairs=(run.beta, run.beta["a"]))


def test_many_data_that_few_simulations_cannot_bear():
    """The errors of r add up over 200 data. (A healthy run is that of test_posterior.)"""
    x = np.random.default_rng(0).normal(1.0, 0.7, 200).astype(np.float32)

    def generate(noise, beta, covariate):
        return None, beta["mean"] + jnp.exp(beta["log_sd"]) * noise

    prior = {"mean": dist.Normal(0.0, 2.0), "log_sd": dist.Normal(0.0, 0.5)}
    model = HierarchicalImplicitModel(prior, generate=generate, noise_shape=())
    run = fit_rounds(
        jax.random.key(0), model, Data(jnp.asarray(x)), simulations=1_000, rounds=2, particles=300,
        progress=False,
    )  # fmt: skip
    assert run.outcome in (RoundsOutcome.UNSETTLED, RoundsOutcome.NARROWING) and run.agreement < 0.1


def test_what_a_run_does_not_fit(run):
    outside = ExternalModel(PRIOR, lambda rng, beta, covariate: np.zeros(2))
    with pytest.raises(ValueError, match="start: expected features of size 2, got 1"):
        fit_rounds(jax.random.key(0), outside, Data(np.zeros((1, 2))), start=run, progress=False)
    unnamed = dataclasses.replace(run, beta=run.beta["a"])
    with pytest.raises(TypeError, match="given: names parameters, and the prior is no dict"):
        unnamed.given(jax.random.key(0), {"a": 1.0})


def test_a_posterior_that_moved_is_unsettled(run):
    learned, draws = run._learned, run._draws

    def judged(agreement, total=1.0):
        return judge(learned, draws, agreement, run.held_out[-1, 2], total)

    assert judged(0.09) is judged(0.09, 0.5) is RoundsOutcome.UNSETTLED
    assert judged(0.11) is judged(np.nan) is RoundsOutcome.COMPLETED  # NaN: there was one round
    assert judged(0.11, 0.84) is RoundsOutcome.OVERFITTED
    stuck = draws._replace(moved=0.01)
    assert judge(learned, stuck, 1.0, run.held_out[-1, 2], 1.0) is RoundsOutcome.STUCK
    moved = learned._replace(before=learned.seen._replace(weights=np.array([-3.0, -3.0])))
    again = finish(moved, run._data, draws, run.held_out, run.weights, 0, None)
    assert again.outcome is RoundsOutcome.UNSETTLED and again.agreement < 0.05


def test_chance_in_the_last_round_is_blind_where_the_posterior_is_the_prior(run):
    """Proposals as narrow as the posterior leave nothing to tell; of fifty columns r had learned too much."""
    narrow = run._draws
    prior = narrow._replace(v=np.random.default_rng(0).normal(size=narrow.v.shape))

    def judged(draws, loss):
        return judge(run._learned._replace(newest=draws.v), draws, 1.0, loss, 1.0)

    assert judged(prior, np.log(128)) is RoundsOutcome.BLIND
    assert judged(narrow, np.log(128)) is RoundsOutcome.OVERFITTED
    assert judged(narrow, np.log(128) - 0.1) is RoundsOutcome.COMPLETED


@pytest.mark.parametrize(
    ("widen", "wider", "narrowing"), [(2, 2, False), (2, 4, True), (9, 4, False), (9, 8, True)]
)
def test_narrowing_is_less_than_half_of_what_was_foreseen(run, widen, wider, narrowing):
    """Along one direction; sds of sqrt(2) and 3 are foreseen."""
    v = run._draws.v
    newest = v + (wider - 1) * (v - v.mean(0)) @ np.array([[0.5, 0.5], [0.5, 0.5]])
    learned = run._learned._replace(newest=newest, widen=widen)
    outcome = judge(learned, run._draws, 1.0, run.held_out[-1, 2], 1.0)
    assert outcome is (RoundsOutcome.NARROWING if narrowing else RoundsOutcome.COMPLETED)


def test_a_density_that_covers_the_draws(run):
    q = run.density(jax.random.key(8), SplineFlow(layers=2, hidden=(16,)), steps=2_000)
    errors, widths = off(q.sample(jax.random.key(9), 10_000), 1.0)
    assert errors.max() < 0.3 and np.all((widths > 0.85) & (widths < 1.15))
    gap = np.asarray(q.log_prob(run.beta) - run.log_prob(run.beta))
    assert abs(gap.mean()) < 0.08 and gap.std() < 0.4
    assert q.importance.ess > 0.8 and q.importance.k_hat < 0.7 and len(q.importance.weights) == 4_000
    poor = run.density(jax.random.key(8), MeanFieldNormal(), steps=500)  # a and log b are correlated
    assert poor.importance.ess < q.importance.ess - 0.1
    with pytest.raises(ValueError, match="family: expected one with a density, got PointMass"):
        run.density(jax.random.key(8), PointMass())
    with pytest.raises(ValueError, match="steps"):
        run.density(jax.random.key(8), steps=0)


LOADED = """
import sys
import jax, jax.numpy as jnp, numpy as np
from himlib import Data
from himlib.few_simulations import load_rounds
from tests.test_rounds_posterior import MODEL
run = load_rounds(sys.argv[1], MODEL)
beta = run.sample(jax.random.key(7), 50)
other = run.at(jax.random.key(1), Data(jnp.array([0.7])))
np.savez(sys.argv[2], log_prob=run.log_prob(beta), other=other.beta["a"], outcome=run.outcome.name, **beta)
"""


def test_in_another_process_it_is_the_same(run, tmp_path):
    run.save(tmp_path / "run.npz")
    out = tmp_path / "out.npz"
    subprocess.run([sys.executable, "-c", textwrap.dedent(LOADED), tmp_path / "run.npz", out], check=True)
    made = np.load(out)
    beta = run.sample(jax.random.key(7), 50)
    for name in beta:
        np.testing.assert_array_equal(made[name], beta[name])
    np.testing.assert_array_equal(made["log_prob"], run.log_prob(beta))
    np.testing.assert_array_equal(made["other"], run.at(jax.random.key(1), Data(jnp.array([0.7]))).beta["a"])
    assert str(made["outcome"]) == run.outcome.name
    loaded = load_rounds(tmp_path / "run.npz", MODEL)
    np.testing.assert_array_equal(loaded.held_out, run.held_out)
    assert (loaded.agreement, loaded.simulations, loaded.failed) == (run.agreement, 4_000, 0)


def test_what_is_loaded_for_another_model(run, tmp_path):
    run.save(tmp_path / "run.npz")
    other = HierarchicalImplicitModel(PRIOR | {"a": dist.Normal(0, 2)}, generate=sum_of_both, noise_shape=())
    with pytest.raises(ValueError, match="model: expected the prior that was saved"):
        load_rounds(tmp_path / "run.npz", other)
    deep = ratio_network(hidden=(8,) * 5), ratio_network(hidden=(8,) * 5)
    with pytest.raises(ValueError, match="classifiers: expected those that were saved"):
        load_rounds(tmp_path / "run.npz", MODEL, classifiers=deep)
    with pytest.raises(FileNotFoundError):
        load_rounds(tmp_path / "none.npz", MODEL, features=ravel)
