"""ABC: all three methods against the exact ABC posterior, their accounts, and every way to go wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.diagnostics import effective_sample_size
from scipy import stats
from toys import FLAT, GAUSSIAN, X, count_traces, within

from himlib import Data, HierarchicalImplicitModel
from himlib.abc import ABCOutcome, _run, euclidean, mcmc, rejection, samplers, smc, standardize
from himlib.models import Space

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(0)
DATA = Data(X)
SD = len(X) ** -0.5  # of the mean of the data, given beta


def mean(data):
    return data.x.mean()


MODEL = GAUSSIAN.model  # with a local latent, which ABC ignores
PROBLEM = {"model": MODEL, "data": DATA, "summary": mean, "progress": False}
METHODS = {
    "rejection": lambda **options: rejection(**{"simulations": 60_000, **options}),
    "mcmc": lambda **options: mcmc(**{"simulations": 60_000, "step": 1.0, **options}),
    "smc": lambda **options: smc(**{"simulations": 60_000, "particles": 2000, **options}),
}
each = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def exact(prior, observed, sd, tolerance, grid):
    """The ABC posterior for a normal summary with mean beta and a uniform kernel, by quadrature."""
    log_p = np.float64(prior.log_prob(grid))
    if tolerance == 0:
        weights = np.exp(log_p + stats.norm.logpdf(observed, grid, sd))
    else:
        inside = [stats.norm.cdf((observed + sign * tolerance - grid) / sd) for sign in (1, -1)]
        weights = np.exp(log_p) * (inside[0] - inside[1])
    return weights / weights.sum()


GRID = np.linspace(-6, 6, 4001)
EXACT = {tolerance: exact(GAUSSIAN.prior, X.mean(), SD, tolerance, GRID) for tolerance in (0, 0.3, 1.0)}


def kolmogorov(values, draw_weights, grid, weights):
    """The largest difference of the two distribution functions."""
    order = np.argsort(values)
    empirical = np.cumsum(draw_weights[order])
    return np.abs(np.interp(values[order], grid, np.cumsum(weights)) - empirical).max()


def agrees(values, result, grid, weights):
    """Whether the distance is what independent draws would show, as many as the effective ones."""
    return kolmogorov(values, result.weights, grid, weights) * np.sqrt(result.ess) < 2.2  # p = 1e-4


@each
@pytest.mark.parametrize("tolerance", [0.3, 1.0])
def test_draws_are_of_the_abc_posterior(method, tolerance):
    result = method(key=KEY, tolerance=tolerance, **PROBLEM)
    assert result.outcome is ABCOutcome.COMPLETED
    assert result.ess > 1000
    assert result.distances.max() <= result.tolerance == np.float32(tolerance)
    np.testing.assert_allclose(result.weights.sum(), 1, rtol=1e-4)
    assert agrees(result.beta, result, GRID, EXACT[tolerance])
    if tolerance == 1:  # so wide that the test can tell it from the exact posterior, and from half of it
        assert not agrees(result.beta, result, GRID, EXACT[0])
        assert not agrees(result.beta, result, GRID, EXACT[0.3])


def test_acceptance_is_what_quadrature_says():
    weights = np.exp(np.float64(GAUSSIAN.prior.log_prob(GRID))) * (GRID[1] - GRID[0])
    inside = [stats.norm.cdf((X.mean() + sign - GRID) / SD) for sign in (1, -1)]
    expected = weights @ (inside[0] - inside[1])
    result = METHODS["rejection"](key=KEY, tolerance=1.0, **PROBLEM)
    assert abs(result.acceptance - expected) < 4.5 * np.sqrt(expected * (1 - expected) / 60_000)


# A prior of every kind: a dict of a positive, a bounded and a vector coordinate.
PRIORS = {
    "rate": dist.LogNormal(0.0, 0.7),
    "share": dist.Uniform(-1.0, 1.0),
    "place": dist.Normal(jnp.array([0.0, 0.5]), 1.0).to_event(1),
}
OBSERVED = {"rate": 1.2, "share": 0.8, "place": np.array([0.3, -0.5])}
TREE = HierarchicalImplicitModel(
    PRIORS,
    generate=lambda noise, beta, covariate: (
        None,
        {
            "rate": beta["rate"] + 0.5 * noise[0],
            "share": beta["share"] + 0.5 * noise[1],
            "place": beta["place"] + 0.5 * noise[2:],
        },
    ),
    noise_shape=(4,),
)


def all_of(data):
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(data.x)])


def largest(simulated, observed):
    """A distance whose balls are boxes, so that the ABC posterior is a product."""
    return jnp.abs(simulated - observed).max()


@each
def test_trees_vectors_and_constrained_priors(method):
    data = Data(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32)[None], OBSERVED))
    options = {"summary": all_of, "distance": largest, "tolerance": 0.8, "progress": False}
    options |= {"simulations": 300_000} | ({"step": 0.7} if method is METHODS["mcmc"] else {})
    result = method(key=KEY, model=TREE, data=data, **options)
    assert result.outcome is ABCOutcome.COMPLETED
    assert result.beta["place"].shape == (len(result.weights), 2)
    assert result.beta["rate"].min() > 0
    assert np.abs(result.beta["share"]).max() <= 1
    grids = {"rate": np.linspace(1e-3, 8, 4001), "share": np.linspace(-0.9999, 0.9999, 4001)}
    for name, grid in grids.items():
        weights = exact(PRIORS[name], OBSERVED[name], 0.5, 0.8, grid)
        assert agrees(result.beta[name], result, grid, weights), name
        assert not agrees(result.beta[name], result, grid, exact(PRIORS[name], 0, 0.5, 50, grid))  # the prior
    for i in range(2):
        weights = exact(dist.Normal([0.0, 0.5][i], 1.0), OBSERVED["place"][i], 0.5, 0.8, GRID)
        assert agrees(result.beta["place"][:, i], result, GRID, weights)


@each
def test_double_precision(method):
    with jax.enable_x64(True):
        data = Data(np.asarray(X, np.float64))

        def simulate(key, beta, covariate):
            return None, beta + jax.random.normal(key, dtype=jnp.float64)

        model = HierarchicalImplicitModel(dist.Normal(np.float64(0), np.float64(1)), simulate=simulate)
        options = {"model": model, "data": data, "summary": mean, "tolerance": 1.0, "progress": False}
        result = method(key=KEY, **options)
        assert result.beta.dtype == result.distances.dtype == np.float64
        assert agrees(result.beta, result, GRID, EXACT[1.0])
        assert (result.distances <= 1.0).all() and result.outcome is ABCOutcome.COMPLETED


def test_covariates_reach_simulator_and_summary():
    model = HierarchicalImplicitModel(
        dist.Normal(0.0, 1.0), generate=lambda noise, beta, c: (None, beta * c + noise), noise_shape=()
    )
    c = jnp.array([1.0, 2.0, 0.0, -1.0])
    data = Data(jnp.array([0.5, 2.0, 0.3, -1.2]), c)
    result = rejection(
        KEY, model, data, summary=lambda data: data.x @ data.covariate / 6, simulations=60_000,
        tolerance=0.5, progress=False,
    )  # fmt: skip
    weights = exact(dist.Normal(0.0, 1.0), data.x @ c / 6, 6**-0.5, 0.5, GRID)
    assert agrees(result.beta, result, GRID, weights)


def test_chains_are_in_detailed_balance():
    """From draws of the target, as many moves go each way between any two places."""
    prior = dist.LogNormal(0.0, 1.0)
    model = HierarchicalImplicitModel(
        prior, generate=lambda noise, beta, covariate: (None, beta + noise), noise_shape=()
    )
    result = mcmc(
        KEY, model, Data(jnp.array([1.0])), summary=mean, simulations=80_000, tolerance=0.5, step=1.5,
        chains=8000, progress=False,
    )  # fmt: skip
    chains = result.beta.reshape(8000, -1)
    assert chains.shape[1] > 2
    before, after = chains[:, 0], chains[:, 1]
    assert np.mean(before != after) > 0.1
    edges = np.quantile(before, [0.25, 0.5, 0.75])
    flow, _, _ = np.histogram2d(np.digitize(before, edges), np.digitize(after, edges), bins=4)
    for i in range(4):
        for j in range(i):
            assert abs(flow[i, j] - flow[j, i]) < 4.5 * np.sqrt(flow[i, j] + flow[j, i])
    grid = np.linspace(1e-3, 15, 8001)
    weights = exact(prior, 1.0, 1.0, 0.5, grid)
    for draws in chains.T:  # in equilibrium from the first draw to the last
        assert kolmogorov(draws, np.full(8000, 1 / 8000), grid, weights) * np.sqrt(8000) < 2.2
    # Without the Jacobian of u = log beta the chains would have gone here.
    wrong = weights / grid
    assert kolmogorov(chains[:, -1], np.full(8000, 1 / 8000), grid, wrong / wrong.sum()) * np.sqrt(8000) > 4


def test_importance_weights():
    """Against the formula in double precision, with SciPy's normal densities."""
    rng = np.random.default_rng(0)
    model = HierarchicalImplicitModel(
        {"a": dist.LogNormal(0.0, 1.0), "b": dist.Normal(2.0, 3.0)},
        generate=lambda noise, beta, covariate: (None, noise), noise_shape=(),
    )  # fmt: skip
    programs = _run.compiled(model, mean, euclidean)
    old, new, weights = (
        rng.normal(size=(50, 2)) + 100,
        rng.normal(size=(30, 2)) + 100,
        rng.dirichlet(np.ones(50)),
    )
    old[:, 0] -= 100
    new[:, 0] -= 100
    covariance = np.array([[0.5, 0.3], [0.3, 0.4]])
    population = np.float32(old), np.float32(np.linalg.cholesky(covariance)), None
    found = samplers._importance(programs.log_mixture, np.float32(new), population, weights)
    mixture = np.array(
        [weights @ [stats.multivariate_normal.pdf(u, m, covariance) for m in old] for u in new]
    )
    prior = stats.norm.pdf(new[:, 0]) * stats.norm.pdf(new[:, 1], 2, 3)  # log a, which is u, is normal
    expected = prior / mixture
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=2e-3)


def test_ancestors_are_chosen_by_their_weights_and_moved_by_the_factor():
    programs = _run.compiled(FLAT, mean, euclidean)
    weights, places, factor = np.array([0.1, 0.6, 0.3]), np.array([-50, 0, 50]), np.array([[2.0]], "float32")
    population = np.float32(places[:, None]), factor, np.float32(np.cumsum(weights))
    (u, _), size = programs.from_kernel(KEY, 0, 1, DATA, population, batch=10_000), 10_000
    u = np.asarray(u[0, :, 0])
    ancestor = np.abs(u[:, None] - places).argmin(1)
    assert stats.chisquare(np.bincount(ancestor), size * weights).pvalue > 1e-4
    assert stats.chisquare(np.bincount(ancestor), [size / 3] * 3).pvalue < 1e-4
    assert stats.kstest(u - places[ancestor], stats.norm(0, 2).cdf).pvalue > 1e-4


@each
def test_the_cap_holds(method):
    for cap in (1007, 1603):
        result = method(key=KEY, tolerance=0.7, simulations=cap, **PROBLEM)
        assert result.simulations <= cap
        assert len(result.beta) == len(result.weights) == len(result.distances)
    assert rejection(KEY, tolerance=0.7, simulations=999, **PROBLEM).simulations == 999


@each
def test_none_accepted(method):
    result = method(key=KEY, tolerance=1e-9, simulations=1000, **{**PROBLEM, "data": Data(X + 30)})
    if method is METHODS["smc"]:  # it goes as far as it can
        result = smc(KEY, tolerance=[1e-9], simulations=1000, **{**PROBLEM, "data": Data(X + 30)})
    assert result.outcome is ABCOutcome.NONE_ACCEPTED
    assert len(result.beta) == len(result.weights) == result.acceptance == result.ess == 0
    assert result.nearest > result.tolerance


def test_stuck_and_few():
    options = {"tolerance": 0.05, "simulations": 4000, **PROBLEM}
    result = mcmc(KEY, step=1e4, **options)
    assert result.outcome is ABCOutcome.STUCK
    assert result.acceptance == 0
    assert result.ess == len(np.unique(result.beta)) > 5
    few = rejection(KEY, tolerance=0.1, simulations=401, **PROBLEM)
    assert few.outcome is ABCOutcome.FEW
    assert few.ess == len(few.beta) < 30
    # Fewer starting points than chains: some share one, and all the same go their ways.
    shared = mcmc(KEY, step=1.0, **options)
    starts = shared.beta.reshape(100, -1)[:, 0]
    assert 1 < len(np.unique(starts)) < 100
    assert shared.acceptance > 0


def test_acceptance_and_effective_draws_of_chains():
    # Of two coordinates the data show one alone; the other is wide, and chains cross it slowly.
    prior = dist.Normal(jnp.zeros(2), jnp.array([1.0, 5.0])).to_event(1)
    model = HierarchicalImplicitModel(prior, generate=lambda e, beta, c: (None, beta[0] + e), noise_shape=())
    options = {"summary": mean, "simulations": 20_000, "progress": False}
    result = mcmc(KEY, model, DATA, tolerance=1.0, step=0.7, **options)
    chains = result.beta.reshape(100, -1, 2)
    assert result.acceptance == pytest.approx(np.any(np.diff(chains, axis=1) != 0, axis=-1).mean())
    effective = effective_sample_size(chains)
    assert result.ess == pytest.approx(effective.min(), rel=1e-3) and effective.max() > 1.5 * effective.min()
    still = mcmc(KEY, model, DATA, tolerance=0.5, step=1e-3, chains=10, **options)
    assert still.outcome is ABCOutcome.FEW and still.ess < 30 < len(still.beta)


def test_accounts_of_each_generation():
    result = smc(KEY, tolerance=[1.0, 0.5, 0.25], particles=500, simulations=50_000, **PROBLEM)
    history = result.history
    accepted = history.acceptance * np.diff(history.simulations, prepend=0)
    np.testing.assert_allclose(accepted, accepted.round(), atol=1e-6)
    assert np.all(accepted >= 500) and np.all(np.diff(history.acceptance) < 0)
    assert history.simulations[-1] == result.simulations and history.acceptance[-1] == result.acceptance
    assert result.ess == history.ess[-1] == pytest.approx(1 / np.sum(result.weights**2), rel=1e-4)
    assert result.ess < 499 and result.nearest <= result.distances.min()


def test_out_of_simulations():
    result = smc(KEY, tolerance=1e-6, particles=500, simulations=10_000, **PROBLEM)
    assert result.outcome is ABCOutcome.OUT_OF_SIMULATIONS
    assert result.tolerance == result.history.tolerance[-1] > 1e-6
    assert len(result.beta) == 500
    assert result.history.simulations[-1] <= result.simulations == 10_000
    assert np.all(np.diff(result.history.tolerance[1:]) < 0)
    first = smc(KEY, tolerance=[0.1, 0.01], particles=500, simulations=1000, **PROBLEM)  # a part of one
    assert first.outcome is ABCOutcome.OUT_OF_SIMULATIONS
    assert 0 < len(first.beta) < 500


def test_tolerances_of_smc():
    result = smc(KEY, tolerance=[1.0, 0.5, 0.25], particles=500, simulations=50_000, **PROBLEM)
    np.testing.assert_array_equal(result.history.tolerance, [1.0, 0.5, 0.25])
    assert result.history.ess[0] == pytest.approx(500)
    distances = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.5])
    assert samplers._next_tolerance(distances, np.inf, 0.5, 0.0) == pytest.approx(0.35)
    assert samplers._next_tolerance(distances, 0.5, 0.9, 0.0) == 0.4  # a quantile that would stay
    assert samplers._next_tolerance(distances, 0.5, 0.5, 0.36) == 0.36
    assert samplers._next_tolerance(distances, 0.5, 0.5, 0.5) is None
    assert samplers._next_tolerance(np.full(5, 0.5), 0.5, 0.5, 0.0) is None  # ties


@each
def test_same_key_same_result(method):
    options = {"tolerance": 1.0, **PROBLEM, "simulations": 5000}
    first, second = (method(key=KEY, **options) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert not np.array_equal(first.beta[:30], method(key=jax.random.key(1), **options).beta[:30])


def test_a_second_call_compiles_nothing():
    counts = []
    options = {"model": count_traces(FLAT, counts), "summary": mean, "progress": False}
    for method in METHODS.values():
        method(key=KEY, data=DATA, tolerance=0.7, **options)
    assert len(counts) > 5
    counts.clear()
    for method in METHODS.values():
        method(key=jax.random.key(1), data=Data(X + 1), tolerance=0.6, **options)
    assert len(counts) == 3  # each checks the shapes, which traces but compiles nothing


def test_the_nearest_share():
    options = {"simulations": 2501, "batch": 100, **PROBLEM}
    every = rejection(KEY, tolerance=np.inf, **options)
    best = rejection(KEY, quantile=0.01, **options)
    assert len(best.beta) == 26
    np.testing.assert_array_equal(best.distances, np.sort(every.distances)[:26])
    assert best.tolerance == best.distances[-1]
    assert best.nearest == best.distances[0]
    cut = rejection(KEY, tolerance=best.tolerance, **options)
    np.testing.assert_array_equal(np.sort(cut.beta), np.sort(best.beta))


# Fails where its second noise is below the covariate: NaN in the data, and not in every summary of them.
FAULTY = HierarchicalImplicitModel(
    dist.Normal(0.0, 1.0),
    generate=lambda noise, beta, c: (None, jnp.where(noise[1] < c, jnp.nan, beta + noise[0])),
    noise_shape=(2,),
)
HALF, ALL = (Data(X[:1], np.array([c], "float32")) for c in (0, 100))


def positive(data):
    return (data.x > 0).mean()  # hides a NaN


@pytest.mark.parametrize("summary", [mean, positive])
def test_not_finite_counts_as_rejected(summary):
    options = {"summary": summary, "simulations": 4000, "progress": False}
    result = rejection(KEY, FAULTY, HALF, tolerance=np.inf, **options)
    assert abs(result.not_finite - 2000) < 4.5 * np.sqrt(1000)
    assert len(result.beta) == 4000 - result.not_finite
    assert np.isfinite(result.distances).all()
    assert result.outcome is ABCOutcome.SUCCESSES_ONLY
    nothing = rejection(KEY, FAULTY, ALL, quantile=0.5, **options)
    assert nothing.outcome is ABCOutcome.NOT_FINITE
    assert nothing.not_finite == 4000
    assert nothing.nearest == nothing.tolerance == np.inf


@pytest.mark.parametrize(("below", "outcome"), [(-2.8, "COMPLETED"), (-2.0, "SUCCESSES_ONLY")])
def test_failures_are_spoken_of_above_one_percent(below, outcome):
    """The noise is below -2.8 in 0.26 % of the simulations, and below -2 in 2.3 %."""
    data = Data(X[:1], np.array([below], "float32"))
    result = rejection(KEY, FAULTY, data, tolerance=np.inf, summary=mean, simulations=4000, progress=False)
    assert result.outcome is ABCOutcome[outcome] and result.not_finite > 0


def test_discrete_data_need_no_tolerance():
    """At tolerance zero the draws are of the exact posterior; the prior may be discrete as well."""
    model = HierarchicalImplicitModel(
        dist.BernoulliProbs(0.3),
        simulate=lambda key, beta, covariate: (None, beta ^ jax.random.bernoulli(key, 0.2).astype(jnp.int32)),
    )
    options = {"data": Data(jnp.array([1, 1])), "summary": lambda data: data.x.sum(), "progress": False}
    result = rejection(KEY, model, tolerance=0.0, simulations=40_000, **options)
    assert within(result.beta, 0.3 * 0.64 / (0.3 * 0.64 + 0.7 * 0.04))
    with pytest.raises(ValueError, match="BernoulliProbs is discrete"):
        smc(KEY, model, simulations=1000, **options)


def test_draws_on_the_edge_of_the_prior_are_left_out():
    space = Space(dist.Exponential(1.0))
    u, distances = samplers._unconstrained(space, jnp.array([0.0, 1.0]), np.array([0.1, 0.2]))
    np.testing.assert_array_equal(u, [[0.0]])
    np.testing.assert_array_equal(distances, [0.2])


def interrupt(monkeypatch, after):
    """Press Ctrl-C when this many chunks were counted."""
    count, calls = _run.Run.count, []

    def counting(self, distances, **report):
        count(self, distances, **report)
        calls.append(distances)
        if len(calls) == after:
            raise KeyboardInterrupt

    monkeypatch.setattr(_run.Run, "count", counting)


@each
@pytest.mark.parametrize("after", [1, 4])
def test_interruption_keeps_what_was_computed(method, after, monkeypatch):
    interrupt(monkeypatch, after)
    options = {"tolerance": 0.5, **PROBLEM, "simulations": 60_000}
    result = method(key=KEY, **options)
    assert result.outcome is ABCOutcome.INTERRUPTED
    assert 0 < result.simulations < 60_000
    assert 0 < len(result.beta) == len(result.distances)


def test_interrupted_share_and_interrupted_at_once(monkeypatch):
    interrupt(monkeypatch, 1)
    result = rejection(KEY, quantile=0.1, simulations=60_000, **PROBLEM)
    assert len(result.beta) == result.simulations // 10
    assert result.acceptance == len(result.beta) / result.simulations
    for method, name in ((METHODS["rejection"], "count"), (METHODS["smc"], "accept")):

        def stop(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(_run.Run, name, stop)
        with pytest.raises(KeyboardInterrupt):
            method(key=KEY, tolerance=0.5, **PROBLEM)


def test_interruption_between_generations(monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(samplers, "_importance", stop)
    result = smc(KEY, tolerance=0.1, particles=500, simulations=10_000, **PROBLEM)
    assert result.outcome is ABCOutcome.INTERRUPTED
    assert len(result.beta) == 500


def test_progress_is_shown(capsys):
    rejection(KEY, tolerance=1.0, simulations=500, **{**PROBLEM, "progress": True})
    assert "500/500" in capsys.readouterr().err


def test_standardize():
    def summary(data):
        return jnp.stack([100 * data.x.mean(), jnp.float32(data.x[0] > 3), data.x[1]])

    scaled = standardize(KEY, MODEL, DATA, summary=summary, simulations=4001)
    simulated = np.array([scaled(Data(jnp.float32(v) * jnp.ones(5))) for v in (0, 1, 4)])
    # The prior predictive of the mean has variance 1 + 1/5; the second is rarely not zero; one datum has 2.
    rare = stats.norm.sf(3 / 2**0.5)
    slopes = simulated[1] - simulated[0]
    np.testing.assert_allclose(slopes[[0, 2]], [1.2**-0.5, 2**-0.5], rtol=0.1)
    np.testing.assert_allclose(simulated[2, 1], 1 / np.sqrt(rare), rtol=0.3)
    assert np.isfinite(standardize(KEY, FAULTY, HALF, summary=mean, simulations=999)(HALF))


def simulating(generate, **options):
    model = HierarchicalImplicitModel(dist.Normal(0.0, 1.0), generate=generate, noise_shape=())
    return rejection(KEY, **{**PROBLEM, "model": model, "tolerance": 1.0, "simulations": 100, **options})


def call(method=rejection, **options):
    defaults = {"key": KEY, "tolerance": 1.0, "simulations": 100, **PROBLEM}
    return method(**{**defaults, **options})


CALLS = {
    "old key": (lambda: call(key=jax.random.PRNGKey(0)), TypeError, "key: expected jax.random.key"),
    "old key: pilot": (
        lambda: standardize(jax.random.PRNGKey(0), MODEL, DATA, summary=mean),
        TypeError,
        "key: expected jax.random.key",
    ),
    "model": (lambda: call(model=len), TypeError, "model: expected a Hierarchical.* got builtin"),
    "data: an array": (lambda: call(data=X), TypeError, "data: expected Data"),
    "data: NaN": (lambda: call(data=Data(X * np.nan)), ValueError, "data: missing or infinite"),
    "data: N": (lambda: call(data=Data(X, X[:3])), ValueError, r"differ in their leading axes, \[3, 5\]"),
    "data: empty": (lambda: call(data=Data(X[:0])), ValueError, "no observations"),
    "data: shape": (
        lambda: call(data=Data(X[:, None])),
        ValueError,
        r"gives x of shape \(\) and float32, the data have \(1,\)",
    ),
    "data: kind": (lambda: call(data=Data(np.arange(5))), ValueError, "the data have .* int32"),
    "simulator: no pair": (
        lambda: simulating(lambda noise, beta, covariate: beta),
        TypeError,
        "expected a pair",
    ),
    "simulator: tree": (
        lambda: simulating(lambda noise, beta, covariate: (None, {"x": beta})),
        ValueError,
        "is the order",
    ),
    "summary: missing": (lambda: rejection(KEY, MODEL, DATA, simulations=9), TypeError, "summary"),
    "summary: a number": (
        lambda: call(summary=3),
        TypeError,
        "summary: expected a function of Data, got int",
    ),
    "summary: a tuple": (lambda: call(summary=lambda data: (1.0, 2.0)), ValueError, "vector .* got tuple"),
    "summary: a matrix": (
        lambda: call(summary=lambda data: data.x[:, None]),
        ValueError,
        r"summary: expected a number or a vector .* got shape \(5, 1\)",
    ),
    "summary: not finite": (
        lambda: call(summary=lambda data: jnp.log(-(data.x**2)).mean()),
        ValueError,
        "summary: not finite at the data, nan",
    ),
    "summary: constant": (
        lambda: standardize(KEY, MODEL, DATA, summary=lambda data: jnp.stack([mean(data), 1.0])),
        ValueError,
        "summary: entry 1 is the same in the whole pilot",
    ),
    "summary: never finite": (
        lambda: standardize(KEY, FAULTY, ALL, summary=mean),
        ValueError,
        "not finite in any simulation of the pilot",
    ),
    "distance: a name": (lambda: call(distance="euclidean"), TypeError, "distance: .* got 'euclidean'"),
    "distance: a vector": (
        lambda: call(summary=lambda data: data.x, distance=lambda a, b: a - b),
        ValueError,
        r"distance: expected one number for two summaries, got shape \(5,\)",
    ),
    "distance: None": (lambda: call(distance=lambda a, b: None), ValueError, "got shape None"),
    "unknown option": (lambda: call(kernel="normal"), TypeError, "kernel"),
    "tolerance and quantile": (lambda: call(quantile=0.1), ValueError, "one of tolerance and quantile"),
    "neither": (lambda: call(tolerance=None), ValueError, "one of tolerance and quantile"),
    "tolerance: negative": (lambda: call(tolerance=-1.0), ValueError, "tolerance: .* zero or more, got -1.0"),
    "tolerance: NaN": (lambda: call(mcmc, step=1.0, tolerance=np.nan), ValueError, "tolerance: .* got nan"),
    "tolerance: negative last": (
        lambda: call(smc, tolerance=[1.0, -1.0]),
        ValueError,
        "tolerance: .* zero or more, got -1.0",
    ),
    "tolerance: rising": (lambda: call(smc, tolerance=[1.0, 2.0]), ValueError, "a decreasing schedule"),
    "tolerance: none": (lambda: call(smc, tolerance=[]), ValueError, "a decreasing schedule, got \\[\\]"),
    "quantile": (lambda: call(tolerance=None, quantile=1.5), ValueError, "quantile: .* got 1.5"),
    "quantile: smc": (lambda: call(smc, quantile=1.0), ValueError, "quantile: .* got 1.0"),
    "simulations": (
        lambda: call(simulations=0),
        ValueError,
        "simulations: expected a positive integer, got 0",
    ),
    "simulations: a fraction": (lambda: call(simulations=1e4), ValueError, "simulations: .* got 10000.0"),
    "simulations: few": (
        lambda: call(mcmc, step=1.0, chains=60),
        ValueError,
        "two or more for each of 60 chains, got 100",
    ),
    "batch": (lambda: call(batch=-1), ValueError, "batch: expected a positive integer, got -1"),
    "chains": (lambda: call(mcmc, step=1.0, chains=0), ValueError, "chains: .* got 0"),
    "step": (lambda: call(mcmc, step=0.0), ValueError, "step: expected a positive number, got 0.0"),
    "particles": (lambda: call(smc, particles=0), ValueError, "particles: .* got 0"),
    "particles: few": (
        lambda: call(smc, particles=1),
        ValueError,
        "particles: expected more than beta's 1 coordinates, got 1",
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_wrong_calls(case):
    attempt, kind, message = CALLS[case]
    with pytest.raises(kind, match=message):
        attempt()
