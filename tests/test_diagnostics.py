"""Predictive checks, checks of r, the verdict: what is right passes, what was broken on purpose is caught."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from jax.tree_util import Partial
from scipy import stats
from toys import FLAT, GAUSSIAN, X, known_ratio, within

from himlib import (
    Data,
    ExternalModel,
    FullRankNormal,
    HierarchicalImplicitModel,
    MeanFieldNormal,
    Network,
    Outcome,
    PointMass,
    Result,
    lfvi,
    verdict,
)
from himlib.diagnostics import c2st, posterior_predictive, ratio_calibration, score_test, sum_log_ratio
from himlib.random import normal

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY, OLD_KEY = jax.random.key(50), jax.random.PRNGKey(0)
DATA = Data(jnp.asarray(X))
EXACT = GAUSSIAN.posterior(X)


def exact_r(x, z, beta, covariate):
    return GAUSSIAN.predictive(beta).log_prob(x)


def algorithm_with(r, posterior=MeanFieldNormal(), model=FLAT, **options):  # noqa: B008
    """LFVI with a known r, which no step has changed."""
    return lfvi(
        model,
        posterior,
        known_ratio(r),
        ratio_optimizer=optax.sgd(0.1),
        posterior_optimizer=optax.sgd(0.1),
        **options,
    )


ALGORITHM = algorithm_with(exact_r)

# Posterior predictive checks.


def mean_and_sd(data):
    return {"mean": data.x.mean(), "sd": data.x.std()}


def predictive(beta, data=DATA, statistics=mean_and_sd):
    return posterior_predictive(KEY, FLAT, beta, data, statistics).p_value


def test_posterior_predictive_against_its_exact_distribution():
    beta = EXACT.sample(KEY, (4000,))
    check = posterior_predictive(KEY, FLAT, beta, DATA, lambda data: (data.x.mean(), data.x))
    mean, x = check.simulated
    assert mean.shape == (4000,) and x.shape == (4000, 5)
    scale = float(EXACT.scale)
    assert within(mean, EXACT.mean) and within((mean - EXACT.mean) ** 2, scale**2 + 1 / 5)
    np.testing.assert_array_equal(check.observed[1], X)
    below = stats.norm.cdf((X - np.asarray(EXACT.mean)) / np.hypot(scale, 1))
    expected = 2 * np.minimum(below, 1 - below)
    np.testing.assert_allclose(check.p_value[1], expected, atol=4.5 * 2 * (0.25 / 4000) ** 0.5)
    assert check.p_value[1].shape == (5,)  # the default: one for each datum
    np.testing.assert_array_equal(posterior_predictive(KEY, FLAT, beta, DATA).p_value, check.p_value[1])


def test_predictive_checks_see_what_is_broken():
    beta = EXACT.sample(KEY, (999,))
    assert min(predictive(beta).values()) > 0.05
    assert predictive(beta + 3)["mean"] < 0.01  # a posterior in the wrong place
    data = Data(5 * DATA.x - 4 * DATA.x.mean())  # data more spread than the model's
    assert predictive(beta, data)["sd"] == pytest.approx(2 / 1000)
    one = Data(DATA.x.at[2].set(9.0))
    p_value = posterior_predictive(KEY, FLAT, beta, one).p_value
    assert p_value[2] < 0.01 and p_value[jnp.array([0, 1, 3, 4])].min() > 0.02


def test_predictive_check_of_a_simulator_outside():
    """The same in NumPy: like the one in JAX, draw by draw, with covariates, and failures told."""

    def outside(rng, beta, covariate):
        return np.float32(beta * covariate + rng.normal())

    beta = np.asarray(EXACT.sample(KEY, (1000,)))
    data = Data(DATA.x, jnp.array([1.0, 1.0, 1.0, 1.0, 3.0]))
    check = posterior_predictive(KEY, ExternalModel(dist.Normal(0, 1), outside), beta, data)
    x = check.simulated
    assert x.shape == (1000, 5) and check.p_value.shape == (5,)
    scale = float(EXACT.scale)
    assert within(x[:, 0], EXACT.mean) and within(x[:, 4], 3 * EXACT.mean)
    assert within((x[:, 4] - 3 * EXACT.mean) ** 2, 9 * scale**2 + 1)
    assert within((x[:, 0] - EXACT.mean) * (x[:, 1] - EXACT.mean), scale**2)  # one beta for a data set
    broken = ExternalModel(dist.Normal(0, 1), lambda rng, beta, covariate: np.log(beta - 100))
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match="5000 of 5000 simulations failed"):
        posterior_predictive(KEY, broken, beta, data)


def test_predictive_check_keeps_covariates():
    model = HierarchicalImplicitModel(
        {"slope": dist.Normal(0, 1)},
        simulate=lambda key, beta, covariate: (None, beta["slope"] * covariate + 0.01 * normal(key)),
    )
    data = Data(jnp.arange(4.0), jnp.arange(4.0))
    check = posterior_predictive(KEY, model, {"slope": jnp.ones(50)}, data)
    np.testing.assert_allclose(check.simulated, jnp.tile(data.covariate, (50, 1)), atol=0.05)


# Ratio calibration.

BETA = EXACT.sample(jax.random.key(51), (1000,))
LIKELIHOOD = jax.vmap(lambda beta: exact_r(DATA.x, None, beta, None).sum())(BETA)
SPREAD = float(LIKELIHOOD.std())


@pytest.fixture(scope="module")
def state():
    """A first state, which does for every r of known shape."""
    return ALGORITHM.init(KEY, DATA)


@pytest.fixture(scope="module")
def sum_of(state):
    return lambda r: sum_log_ratio(KEY, algorithm_with(r), state, BETA, DATA)


def test_calibration_of_the_exact_ratio(sum_of):
    result = ratio_calibration(sum_of(lambda *row: exact_r(*row) + 3 * row[0]), LIKELIHOOD, BETA)
    assert result.slope == pytest.approx(1, abs=1e-4) and result.correlation == pytest.approx(1, abs=1e-6)
    assert result.rmse < 1e-4 and abs(result.shift[0]) < 1e-4


def test_calibration_sees_scale_and_shift_and_saturation(sum_of):
    scaled = ratio_calibration(sum_of(lambda *row: 0.7 * exact_r(*row)), LIKELIHOOD, BETA)
    assert scaled.slope == pytest.approx(0.7, abs=1e-4)
    assert scaled.rmse == pytest.approx(0.3 * SPREAD, rel=1e-3)
    slope = 0.8  # per datum: the posterior mean moves by N slope variances
    tilted = ratio_calibration(sum_of(lambda *row: exact_r(*row) + slope * row[2]), LIKELIHOOD, BETA)
    moved = 5 * slope * float(EXACT.variance) / float(EXACT.scale)
    assert tilted.shift[0] == pytest.approx(moved, rel=0.15)  # sample variance of 1,000 draws
    saturated = ratio_calibration(sum_of(lambda *row: 9 * jnp.tanh(9 + exact_r(*row))), LIKELIHOOD, BETA)
    assert abs(saturated.slope) < 0.05 and saturated.rmse > 0.9 * SPREAD


def test_calibration_as_numpy_has_it():
    rng = np.random.default_rng(0)
    beta = rng.normal(size=(50, 2)) @ [[3.0, 1.0], [0.0, 0.2]] + 5
    exact = 40 * rng.normal(size=50) - 700
    r = 0.6 * exact + 9 * rng.normal(size=50) + beta[:, 0] + 80
    result, error = ratio_calibration(r, exact, beta), r - exact
    assert result.slope == pytest.approx(np.polyfit(exact, r, 1)[0])
    assert result.correlation == pytest.approx(np.corrcoef(exact, r)[0, 1]) and result.correlation < 0.99
    assert result.rmse == pytest.approx(error.std())
    covariance = [np.cov(error, column, ddof=0)[0, 1] for column in beta.T]
    np.testing.assert_allclose(result.shift, covariance / beta.std(0), rtol=1e-4)


def test_calibration_in_several_parameters():
    beta = {"a": BETA, "b": jnp.stack([BETA[::-1], jnp.ones(1000)], axis=1)}
    error = np.asarray(BETA - BETA.mean())
    result = ratio_calibration(LIKELIHOOD + error, LIKELIHOOD, beta)
    np.testing.assert_allclose(
        result.shift, [error.std(), error @ error[::-1] / 1000 / error.std(), 0], atol=1e-3
    )
    double = ratio_calibration(np.float64(LIKELIHOOD) + 1e9, np.float64(LIKELIHOOD), beta)
    assert double.rmse < 1e-4  # sums are compared in double precision


def test_sum_of_r_with_local_latents(state):
    class Known:
        def init(self, key, z, x, beta, covariate):
            return {}

        def sample(self, params, key, x, beta, covariate):
            return x + 2 * beta + normal(key, x.shape)

    beta = jnp.array([0.0, 1.0, -2.0])
    algorithm = algorithm_with(lambda x, z, beta, c: z, model=GAUSSIAN.model, local=Known())
    state = state._replace(posterior={**state.posterior, "z": {}})
    total = sum_log_ratio(KEY, algorithm, state, beta, DATA)
    np.testing.assert_allclose(total - total[0], 5 * 2 * beta, atol=1e-4)  # the same noise at each beta


# The score test.


def score(r, model=FLAT, beta=0.4, rows=2000, key=KEY, **options):
    return score_test(key, r, model, jnp.full(rows, beta), **options)


@pytest.mark.parametrize("model", [FLAT, GAUSSIAN.model], ids=["global", "with z"])
def test_score_of_the_exact_ratio(model):
    def with_z(x, z, beta, covariate):
        return GAUSSIAN.log_joint(x, z, beta) - GAUSSIAN.local_posterior(x, beta).log_prob(z)

    result = score(exact_r if model is FLAT else with_z, model)
    assert abs(result.mean[0]) < 1e-4 and result.p_value > 0.01


BROKEN = {
    "steeper on one side": lambda x, z, beta, c: exact_r(x, z, beta, c) + jnp.maximum(beta - x, 0.0),
    "shifted": lambda x, z, beta, c: exact_r(x, z, beta - 0.1, c),
    "tilted": lambda x, z, beta, c: exact_r(x, z, beta, c) + 0.05 * beta,
    "constant slope": lambda x, z, beta, c: 0.05 * beta,
}


@pytest.mark.parametrize("name", BROKEN)
def test_score_test_sees_a_broken_ratio(name):
    result = score(BROKEN[name])
    assert result.p_value < 1e-6 and abs(result.z[0]) > 5


def test_score_test_reports_in_the_units_of_r():
    # The gradient in beta of c log p(x | beta) is c times a standard normal.
    model = HierarchicalImplicitModel(
        dist.Normal(0.0, 1.0), simulate=lambda key, b, c: (None, b + normal(key))
    )
    one, seven = (score(lambda *row: c * exact_r(*row), model) for c in (1, 7))  # noqa: B023
    assert one.standard_error == pytest.approx(2000**-0.5, rel=4.5 * 4000**-0.5)
    for name, power in {"mean": 1, "standard_error": 1, "z": 0, "chi_square": 0, "p_value": 0}.items():
        np.testing.assert_allclose(getattr(seven, name), 7**power * getattr(one, name), rtol=1e-3)
    np.testing.assert_allclose(one.z, one.mean / one.standard_error, rtol=1e-5)
    chi_square = float(one.chi_square)
    assert chi_square == pytest.approx(float(one.z[0]) ** 2, rel=1e-4)
    assert float(one.p_value) == pytest.approx(stats.chi2.sf(chi_square, 1), rel=1e-3)


def test_score_test_at_its_nominal_rate():
    # No antithetic noise, two parameters, a covariate: z and chi square have their distributions.
    model = HierarchicalImplicitModel(
        dist.Normal(jnp.zeros(2), 1.0).to_event(1),
        simulate=lambda key, beta, c: (None, beta @ c + normal(key)),
    )

    def r(x, z, beta, covariate):
        return -((x - beta @ covariate) ** 2) / 2

    covariate = normal(jax.random.key(52), (500, 2))
    beta = jnp.broadcast_to(jnp.array([0.3, -1.0]), (500, 2))
    results = [score_test(jax.random.key(s), r, model, beta, covariate) for s in range(100, 250)]
    z = np.stack([result.z for result in results])
    assert within(z, 0.0) and within(z**2, 1.0)
    p_value = np.array([result.p_value for result in results])
    assert stats.kstest(p_value, "uniform").pvalue > 1e-4
    biased = score_test(KEY, lambda x, z, b, c: r(x + 0.3 * c[0], z, b, c), model, beta, covariate)
    assert biased.z[0] > 4 > 3.5 > abs(biased.z[1]) and biased.p_value < 1e-4


def test_double_precision():
    with jax.enable_x64(True):
        x = np.float64(X) + 1e-9
        beta = jnp.full(2000, 0.4, jnp.float64)
        right, wrong = (
            score_test(KEY, lambda x, z, b, c: -((x - b) ** 2) / 2 + tilt * b, FLAT, beta)  # noqa: B023
            for tilt in (0.0, 1e-9)
        )
        assert right.mean.dtype == jnp.float64 and right.p_value > 0.01 and wrong.p_value < 1e-6
        check = posterior_predictive(KEY, FLAT, beta, Data(jnp.asarray(x)))
        np.testing.assert_array_equal(check.observed, x)


def test_score_in_unconstrained_coordinates_of_a_tree():
    model = HierarchicalImplicitModel(
        {"rate": dist.LogNormal(0.0, 1.0), "share": dist.Uniform(jnp.zeros(2), 1.0).to_event(1)},
        simulate=lambda key, beta, c: (None, jax.random.exponential(key) / beta["rate"]),
    )

    def r(x, z, beta, covariate):
        return jnp.log(beta["rate"]) - beta["rate"] * x

    beta = {"rate": jnp.full(400, 2.0), "share": jnp.full((400, 2), 0.3)}
    result = score_test(KEY, r, model, beta)
    assert result.mean.shape == (3,) and result.p_value > 0.01
    np.testing.assert_array_equal(result.z[1:], 0)  # r does not see the shares
    # d r / d log rate = 1 - rate x, of variance one.
    assert result.standard_error[0] == pytest.approx(400**-0.5, rel=0.2)


def test_score_of_an_algorithm_compiles_once_for_all_states(state, caplog):
    algorithm = ALGORITHM
    tilted = state._replace(ratio={"slope": jnp.float32(0.2)})
    assert score(Partial(algorithm.log_ratio, state)).p_value > 0.01
    with jax.log_compiles():
        result = score(Partial(algorithm.log_ratio, tilted))
    assert "_score" not in caplog.text
    assert result.mean[0] == pytest.approx(0.2, abs=1e-3) and result.p_value < 1e-6


# The verdict.

MANY = Data(normal(jax.random.key(53), (30,)))
MANY = Data(0.2 + (MANY.x - MANY.x.mean()) / MANY.x.std())


@pytest.fixture(scope="module")
def judged(state):
    """The verdict on a q that is the exact posterior, or one wider by a factor."""

    def judged(algorithm=ALGORITHM, wider=1.0, data=MANY, outcome=Outcome.AT_REST, **posterior):
        if not posterior:
            exact = GAUSSIAN.posterior(data.x)
            posterior = {"location": exact.mean[None], "log_scale": jnp.log(wider * exact.scale)[None]}
        result = Result(state._replace(posterior={"beta": posterior}), None, outcome)
        return verdict(KEY, FLAT, algorithm, result, data, draws=4000)

    return judged


def test_verdict_on_the_exact_posterior(judged):
    found = judged()
    assert found.findings == () and found.outcome is Outcome.AT_REST
    assert found.width == pytest.approx(1, abs=0.05) and found.contrast == pytest.approx(1, abs=0.1)
    assert abs(found.shift[0]) < 1e-3 and found.shift_error[0] < 1e-3
    assert isinstance(found.width, float) and found.shift.shape == found.shift_error.shape == (1,)


@pytest.mark.parametrize("wider", [0.6, 1.6])
def test_verdict_on_a_wrong_width(judged, wider):
    found = judged(wider=wider)
    assert found.width == pytest.approx(wider, rel=0.05)
    (finding,) = found.findings
    assert finding.startswith("WIDE" if wider > 1 else "NARROW")


def test_verdict_on_a_biased_ratio(judged):
    found = judged(algorithm_with(lambda x, z, beta, c: exact_r(x, z, beta, c) + 0.1 * beta))
    shift = 30 * 0.1 * float(GAUSSIAN.posterior(MANY.x).scale)
    assert found.shift[0] == pytest.approx(shift, rel=0.05)
    (finding,) = found.findings
    assert finding.startswith("BIASED") and f"coordinate 0 by about {shift:.1f}" in finding


@pytest.mark.parametrize(("factor", "name"), [(0.0, "FLAT"), (4.0, "STEEP")])
def test_verdict_on_data_unlike_the_model(judged, factor, name):
    (finding,) = judged(data=Data(0.2 + factor * (MANY.x - 0.2))).findings
    assert finding.startswith(name)
    few = judged(data=Data(0.2 + factor * (MANY.x[:19] - 0.2)))
    assert few.findings == ()  # of few data it is not said


def test_verdict_on_other_ends(judged):
    assert judged(outcome=Outcome.SATURATED).findings == (f"SATURATED: {Outcome.SATURATED.value}",)
    broken = algorithm_with(
        lambda x, z, beta, c: exact_r(x, z, beta, c) + jnp.where(x > 1, jnp.sqrt(beta - 9), 0.0)
    )
    assert any(finding.startswith("NOT_FINITE") for finding in judged(broken).findings)
    point = judged(algorithm_with(exact_r, PointMass()), location=GAUSSIAN.posterior(MANY.x).mean[None])
    assert point.findings == () and point.width == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("family", [FullRankNormal(), MeanFieldNormal()], ids=["full rank", "mean field"])
def test_width_of_the_best_normal_is_one(family):
    model = HierarchicalImplicitModel(
        {"a": dist.Normal(0.0, 2.0), "b": dist.Normal(0.0, 1.0)},
        simulate=lambda key, beta, c: (None, beta["a"] * c[0] + beta["b"] * c[1] + normal(key)),
    )
    covariate = normal(jax.random.key(54), (40, 2)) @ jnp.array([[1, 0.9], [0, 0.44]])

    def r(params, x, z, beta, covariate, center):
        return -((x - beta["a"] * covariate[0] - beta["b"] * covariate[1]) ** 2) / 2

    algorithm = lfvi(
        model, family,
        Network(lambda key, *batch: {}, r),
        ratio_optimizer=optax.sgd(0.1), posterior_optimizer=optax.sgd(0.1),
    )  # fmt: skip
    data = Data(covariate @ jnp.array([1.0, -1.0]) + normal(jax.random.key(55), (40,)), covariate)
    scale = jnp.array([2.0, 1.0])  # q is in these units
    precision = (covariate * scale).T @ (covariate * scale) + jnp.eye(2)
    location = jnp.linalg.solve(precision, (covariate * scale).T @ data.x)
    if isinstance(family, FullRankNormal):
        factor = jnp.linalg.cholesky(jnp.linalg.inv(precision))
        tril = jnp.tril(factor, -1) + jnp.diag(jnp.log(jnp.diag(factor)))
        posterior = {"location": location, "tril": tril}
    else:
        posterior = {"location": location, "log_scale": -jnp.log(jnp.diag(precision)) / 2}
    state = algorithm.init(KEY, data)._replace(posterior={"beta": posterior})
    found = verdict(KEY, model, algorithm, Result(state, None, Outcome.AT_REST), data)
    assert found.width == pytest.approx(1, abs=0.04)
    marginal = 1 / jnp.sqrt(precision[0, 0] * jnp.linalg.inv(precision)[0, 0])  # .36, of both
    if isinstance(family, FullRankNormal):
        assert found.findings == ()
    else:  # the best of its family, and no more than that
        assert [finding[:10] for finding in found.findings] == ["CORRELATED"]
        assert f"{marginal:.2f} times as wide" in found.findings[0]
    assert np.all(abs(found.shift) < 4.5 * found.shift_error) and found.shift_error.max() < 0.1


# Wrong calls.

PAIR = jnp.zeros((100, 2)).at[::2].set(1.0)
CALLS = {
    "key: c2st": (lambda: c2st(OLD_KEY, PAIR, PAIR), TypeError, "old-style"),
    "key: predictive": (lambda: posterior_predictive(OLD_KEY, FLAT, BETA, DATA), TypeError, "old-style"),
    "key: sum": (lambda: sum_log_ratio(OLD_KEY, ALGORITHM, None, BETA, DATA), TypeError, "old-style"),
    "key: score": (lambda: score(exact_r, key=OLD_KEY), TypeError, "old-style"),
    "key: verdict": (
        lambda: verdict(OLD_KEY, FLAT, ALGORITHM, Result(None, None, None), DATA),
        TypeError,
        "old-style",
    ),
    "c2st: one row": (
        lambda: c2st(KEY, PAIR[:1], PAIR),
        ValueError,
        "first: expected at least 50 rows, got 1",
    ),
    "c2st: no axis": (
        lambda: c2st(KEY, PAIR, 1.0),
        ValueError,
        "second: expected arrays with one leading axis",
    ),
    "c2st: lengths in a tree": (
        lambda: c2st(KEY, (PAIR, PAIR[:60]), PAIR),
        ValueError,
        "first: expected arrays",
    ),
    "c2st: other shapes": (lambda: c2st(KEY, PAIR, PAIR[:, :1]), ValueError, "shape"),
    "c2st: NaN": (lambda: c2st(KEY, PAIR, PAIR / 0), ValueError, "infinite"),
    "c2st: constant": (lambda: c2st(KEY, PAIR, 0 * PAIR), ValueError, "same|constant"),
    "c2st: one fold": (lambda: c2st(KEY, PAIR, PAIR, folds=1), ValueError, "folds: expected .* got 1"),
    "predictive: model": (lambda: posterior_predictive(KEY, exact_r, BETA, DATA), TypeError, "got function"),
    "predictive: one draw": (
        lambda: posterior_predictive(KEY, FLAT, BETA[:1], DATA),
        ValueError,
        "beta: .* at least 2 rows, got 1",
    ),
    "predictive: a number": (
        lambda: posterior_predictive(KEY, FLAT, 0.3, DATA),
        ValueError,
        "beta: expected arrays .* got \\[\\(\\)\\]",
    ),
    "predictive: no data": (lambda: predictive(BETA, Data(None)), ValueError, "data: expected arrays"),
    "predictive: NaN": (
        lambda: predictive(BETA, statistics=lambda data: jnp.log(data.x)),
        ValueError,
        "% of some statistic is not finite",
    ),
    "sum: a number": (
        lambda: sum_log_ratio(KEY, ALGORITHM, None, 0.3, DATA),
        ValueError,
        "beta: expected arrays",
    ),
    "calibration: shapes": (
        lambda: ratio_calibration(LIKELIHOOD[:9], LIKELIHOOD, BETA),
        ValueError,
        "each of 1000 .* \\(9,\\) and \\(1000,\\)",
    ),
    "calibration: few": (
        lambda: ratio_calibration(LIKELIHOOD[:2], LIKELIHOOD[:2], BETA[:2]),
        ValueError,
        "at least 3 rows, got 2",
    ),
    "calibration: NaN": (
        lambda: ratio_calibration(LIKELIHOOD / 0, LIKELIHOOD, BETA),
        ValueError,
        "got NaN or infinity",
    ),
    "calibration: constant": (
        lambda: ratio_calibration(LIKELIHOOD, 0 * LIKELIHOOD, BETA),
        ValueError,
        "got a constant",
    ),
    "score: model": (lambda: score(exact_r, model=GAUSSIAN), TypeError, "model: .* got ConjugateGaussian"),
    "score: no function": (lambda: score(None), TypeError, "log_ratio: expected a function .* got NoneType"),
    "score: few rows": (lambda: score(exact_r, rows=19), ValueError, "at least 20 rows, got 19"),
    "score: lengths": (
        lambda: score(exact_r, covariate=jnp.ones(9)),
        ValueError,
        "beta and covariate: expected arrays with one",
    ),
    "score: NaN": (
        lambda: score(lambda x, z, beta, c: jnp.sqrt(x - beta)),
        ValueError,
        "% of its gradients are not finite",
    ),
    "verdict: no result": (
        lambda: verdict(KEY, FLAT, ALGORITHM, None, DATA),
        TypeError,
        "result: expected .* got NoneType",
    ),
    "verdict: no model": (lambda: verdict(KEY, None, None, None, DATA), TypeError, "model: .* got NoneType"),
}


@pytest.mark.parametrize("name", CALLS)
def test_wrong_call_is_refused(name):
    call, error, message = CALLS[name]
    with pytest.raises(error, match=message):
        call()
