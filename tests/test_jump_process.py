"""The jump process against closed forms, plain NumPy, and its own leaps."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats
from scipy.linalg import expm

from himlib import Data, HierarchicalImplicitModel
from himlib.abc import rejection
from himlib.simulators import jump_process
from himlib.simulators.jump_process import (
    OBSERVED_STATISTICS,
    PILOT_MEANS,
    PILOT_SDS,
    UNIFORM_PRIOR,
    JumpProcess,
    summary_statistics,
)
from himlib.simulators.lotka_volterra import INITIAL, TRUE_BETA

KEY = jax.random.key(11)
BETA = jnp.array(TRUE_BETA)
START = jnp.array(INITIAL)
STEPS = 150
SIZE = 20_000  # of many short series: one shape, compiled once
NEVER = -jnp.inf  # the log of a rate of zero
PROCESS = JumpProcess()


@pytest.fixture(scope="module")
def many():
    """Whole series at the published rates, and the number of events in each."""
    return jax.tree.map(np.asarray, PROCESS._simulate(KEY, BETA, START, STEPS, 3000))


def gillespie(generator, size, beta=TRUE_BETA, steps=STEPS, interval=0.2, max_events=10_000):
    """Simulate series side by side, an event of each at a time, the time kept from the start; float64."""
    rates, x, time = np.exp(beta), np.tile(INITIAL, (size, 1)), np.zeros(size)
    record, events = np.zeros(size, int), np.zeros(size, int)
    series, alive = np.full((size, steps, 2), np.nan), np.arange(size)
    while alive.size:
        prey, predators = x[alive].T
        pairs = prey * predators
        sums = np.cumsum([rates[0] * prey, rates[1] * pairs, rates[2] * predators, rates[3] * pairs], axis=0)
        with np.errstate(divide="ignore"):
            time[alive] += generator.exponential(size=alive.size) / sums[-1]
        due = time[alive] > (record[alive] + 1) * interval
        while due.any():
            who = alive[due]
            series[who, record[who]] = x[who]
            record[who] += 1
            due &= (record[alive] < steps) & (time[alive] > (record[alive] + 1) * interval)
        choice = np.minimum((generator.random(alive.size) * sums[-1] >= sums).sum(0), 3)
        happens = (sums[-1] > 0)[:, None]
        x[alive] += np.array([[1, 0], [-1, 0], [0, -1], [0, 1]])[choice] * happens
        events[alive] += 1
        alive = alive[(record[alive] < steps) & (events[alive] <= max_events)]
    return series


def agree(left, right, sigmas=4.5):
    """Whether two samples agree in their means, in standard errors."""
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    error = np.sqrt(left.var(0) / len(left) + right.var(0) / len(right))
    return np.all(np.abs(left.mean(0) - right.mean(0)) <= sigmas * error)


@pytest.fixture(scope="module")
def twin():
    return gillespie(np.random.default_rng(0), 1000)


def complete(series):
    return series[~np.isnan(series).any((1, 2))]


@pytest.mark.parametrize("feature", ["mean", "square", "product", "extinct", "increment"])
def test_series_agree_with_numpy(many, twin, feature):
    def measure(series):
        rows = complete(np.asarray(series, np.float64))
        if feature == "increment":  # from one record to the next: what a transition is
            return (rows[:, [1, 50, 100]] - rows[:, [0, 49, 99]]).reshape(len(rows), -1)
        rows = rows[:, [0, 4, 20, 75, 149]]
        kinds = {"mean": rows, "square": rows**2, "product": rows.prod(-1), "extinct": rows == 0}
        return kinds[feature].reshape(len(rows), -1)

    assert agree(measure(many[0]), measure(twin))
    if feature != "increment":  # the test can fail: rates 10 % off
        moved = jnp.log(jnp.array([1.1, 0.01, 0.5, 0.01]))
        other = PROCESS.simulate_series(jax.random.fold_in(KEY, 1), moved, START, STEPS, 3000)
        assert not agree(measure(other), measure(many[0]))


def test_share_capped_agrees_with_numpy(many, twin):
    assert agree(np.isnan(many[0]).any((1, 2)), np.isnan(twin).any((1, 2)))


def chi_squared_p(values, law, shift=0):
    """Pearson's test of whole numbers, those in either half per cent of the law lumped together."""
    low, high = (int(law.ppf(q)) for q in (0.005, 0.995))
    edges = np.concatenate([[-np.inf], np.arange(low, high) + 0.5, [np.inf]])
    counts = np.bincount(np.clip(values - shift, low, high) - low, minlength=high - low + 1)
    return stats.chisquare(counts, len(values) * np.diff(law.cdf(edges))).pvalue


@pytest.mark.parametrize(
    ("beta", "start", "column", "law"),
    [
        ((NEVER, NEVER, math.log(0.5), NEVER), (0.0, 40.0), 1, stats.binom(40, math.exp(-0.3))),
        ((NEVER, math.log(0.02), NEVER, NEVER), (30.0, 50.0), 0, stats.binom(30, math.exp(-0.6))),
        ((0.0, NEVER, NEVER, NEVER), (5.0, 0.0), 0, stats.nbinom(5, math.exp(-0.6), loc=5)),
        ((NEVER, NEVER, NEVER, math.log(0.1)), (10.0, 3.0), 1, stats.nbinom(3, math.exp(-0.6), loc=3)),
    ],
    ids=["predators die", "predation", "prey are born", "predators are born"],
)
def test_single_reactions_have_their_exact_laws(beta, start, column, law):
    """Pure death is binomial, pure birth negative binomial, at the third of three records."""
    series = PROCESS.simulate_series(KEY, jnp.array(beta), jnp.array(start), 3, SIZE)[:, 2]
    assert np.all(series[:, 1 - column] == start[1 - column])
    values = np.asarray(series[:, column], int)
    assert chi_squared_p(values, law) > 1e-4
    assert chi_squared_p(values, law, shift=1) < 1e-4


@pytest.fixture(scope="module")
def short():
    """Three records of many series at the published rates, and the number of events in each."""
    return jax.tree.map(np.asarray, PROCESS._simulate(KEY, BETA, START, 3, SIZE))


def test_waiting_times_forget_the_records(short):
    """The same time in one interval as in three: records change nothing."""
    ends = np.asarray(JumpProcess(interval=0.6).simulate_series(KEY, BETA, START, 1, SIZE)[:, 0])
    assert agree(ends, short[0][:, 2]) and agree(ends**2, short[0][:, 2] ** 2)
    assert not np.array_equal(ends, short[0][:, 2])  # other waits, the same law


def master_equation(beta, start, duration, size):
    """Exact probabilities of all states below ``size`` by the exponential of the generator; float64."""
    states = np.array(list(np.ndindex(size, size)))
    index = {tuple(state): i for i, state in enumerate(states)}
    generator = np.zeros((len(states), len(states)))
    for i, (prey, predators) in enumerate(states):
        rates = np.exp(beta) * [prey, prey * predators, predators, prey * predators]
        for change, rate in zip([(1, 0), (-1, 0), (0, -1), (0, 1)], rates, strict=True):
            generator[i, i] -= rate
            after = (prey + change[0], predators + change[1])
            if rate > 0 and after in index:  # what leaves the window is lost, and counted as lost
                generator[i, index[after]] += rate
    return expm(generator * duration)[index[start]].reshape(size, size)


@pytest.mark.parametrize("record", [0, 2])
def test_transitions_solve_the_master_equation(record):
    """All four reactions at once, extinctions among the outcomes."""
    beta, start, size = np.log([1.0, 0.6, 0.8, 0.25]), (6, 3), 26
    series = PROCESS.simulate_series(KEY, jnp.array(beta), jnp.array(start, jnp.float32), 3, SIZE)
    found = np.zeros((size, size))
    outcomes = np.asarray(series[:, record], int)
    np.add.at(found, tuple(np.minimum(outcomes, size - 1).T), 1)
    exact = master_equation(beta, start, 0.2 * (record + 1), size)
    assert exact.sum() > 1 - 1e-3 and (record == 0 or exact[0].sum() > 0.02)

    def p_value(expected):
        likely = expected * SIZE > 10
        counts = np.append(found[likely], SIZE - found[likely].sum())
        shares = np.append(expected[likely], 1 - expected[likely].sum())
        return stats.chisquare(counts, SIZE * shares).pvalue

    assert p_value(exact) > 1e-4
    assert p_value(master_equation(beta + np.array([0.1, 0, 0, 0]), start, 0.2 * (record + 1), size)) < 1e-4


def test_one_reaction_chosen_among_four():
    """Over a short time at most one event: its kind has probability in proportion to its rate."""
    size, beta = 100_000, jnp.log(jnp.array([4.0, 0.03, 1.0, 0.02]))
    moves = JumpProcess(interval=1e-4).simulate_series(KEY, beta, jnp.array([50.0, 100.0]), 1, size)[:, 0]
    moves = np.asarray(moves) - [50, 100]
    expected = np.array([200, 150, 100, 100]) * 1e-4 * size
    for change, count in zip([(1, 0), (-1, 0), (0, -1), (0, 1)], expected, strict=True):
        found = np.sum((moves == change).all(1))
        assert abs(found - count * (1 - 0.0275)) < 5 * math.sqrt(count)  # less those of two events


def test_series_do_not_depend_on_their_company(short):
    for row in (0, 3, SIZE - 1):
        key = jax.random.split(KEY, SIZE)[row]
        assert np.array_equal(PROCESS.simulate_series(key, BETA, START, 3), short[0][row])
    first = short[0][:2000, 2]
    assert len(np.unique(short[0][:2000].reshape(2000, -1), axis=0)) > 1990
    for column in (0, 1):
        assert abs(stats.pearsonr(first[:-1, column], first[1:, column]).statistic) < 5 / math.sqrt(2000)


def test_jit_vmap_and_rows(short):
    rows = 20
    keys = jax.random.split(KEY, rows)
    betas = BETA + 0.1 * jax.random.normal(KEY, (rows, 4))
    starts = START + jnp.arange(rows)[:, None]
    together = PROCESS.simulate_series(KEY, betas, starts, 3, rows)
    twice = jax.jit(jax.vmap(jax.vmap(lambda *row: PROCESS.simulate_series(*row, 3))))
    shaped = [array.reshape(4, 5, *array.shape[1:]) for array in (keys, betas, starts)]
    assert np.array_equal(twice(*shaped).reshape(together.shape), together)
    same = jax.vmap(lambda key: PROCESS.simulate_series(key, BETA, START, 3))(keys)
    assert np.array_equal(same, short[0][:rows]) and not np.array_equal(same, together)


def test_model_is_one_transition(short):
    model = PROCESS.model
    covariate = jnp.tile(START, (SIZE, 1))
    z, x = model.simulate_batch(KEY, jnp.tile(BETA, (SIZE, 1)), covariate)
    assert z is None and np.array_equal(x, short[0][:, 0])
    assert model.prior is PROCESS.prior


def test_cap_is_reported_and_exact(many):
    series, events = many
    capped = np.isnan(series).any((1, 2))
    assert 0 < capped.mean() < 0.05
    assert np.all(events[capped] > 10_000) and np.all(events[~capped] <= 10_000)
    assert np.all(np.diff(np.isnan(series).any(-1).astype(int), axis=1) >= 0)  # once given up, for good
    # The same events with a lower cap: the same records up to there, and none after.
    lower = JumpProcess(max_events=500)
    short, counted = lower._simulate(KEY, BETA, START, STEPS, 200)
    missing = np.isnan(short)
    assert np.array_equal(np.where(missing, np.nan, series[:200]), short, equal_nan=True)
    assert np.array_equal(missing.any((1, 2)), events[:200] > 500)
    assert np.all(np.asarray(counted)[~missing.any((1, 2))] == events[:200][events[:200] <= 500])


def test_counts_bound_the_changes(short):
    series, events = short
    moved = np.abs(series[:, 2] - INITIAL).sum(-1)
    assert np.all(moved <= events) and np.all((events - moved) % 2 == 0)
    births = jnp.array([0.0, NEVER, NEVER, NEVER])  # each event one birth
    series, events = PROCESS._simulate(KEY, births, START, 3, SIZE)
    assert np.array_equal(series[:, 2, 0] - START[0], events)


@pytest.mark.parametrize("leaps", [None, 1])
def test_a_record_with_as_many_events_as_allowed_is_kept(leaps):
    """Births alone: the prey that a record shows are the events until then."""
    births, cap = jnp.log(jnp.array([0.1, 0.0, 0.0, 0.0])), 6
    series = JumpProcess(leaps=leaps).simulate_series(KEY, births, START, 3, SIZE)[..., 0]
    capped = JumpProcess(leaps=leaps, max_events=cap).simulate_series(KEY, births, START, 3, SIZE)[..., 0]
    events = np.asarray(series) - START[0]
    assert np.array_equal(capped, np.where(events <= cap, series, np.nan), equal_nan=True)
    assert np.all((events == cap).mean(0) > 1e-3)  # at each of the records


def test_runaway_prey_are_given_up_in_time():
    """Births alone at seven per head: each series ends at the cap, at most that many animals up."""
    process = JumpProcess(max_events=1000)
    births = jnp.array([2.0, NEVER, NEVER, NEVER])
    series, events = process._simulate(KEY, births, START, 6, 400)
    missing = np.isnan(series).any(-1)
    assert np.array_equal(missing[:, -1], np.asarray(events) > 1000) and missing[:, -1].all()
    assert not missing[:, 0].any()
    prey = np.asarray(series[..., 0])
    assert np.nanmax(prey) <= 1100 and np.all(np.asarray(events) <= 1000 + jump_process.BLOCK)
    last = np.take_along_axis(prey, (~missing).sum(1)[:, None] - 1, axis=1)[:, 0]
    grown = np.exp(math.exp(2.0) * 0.2)  # in one interval, on average
    assert np.mean(last * grown > 900) > 0.95  # given up late as well: the next record lay beyond


def test_keys():
    again = [PROCESS._simulate(key, BETA, START, 3, SIZE)[0] for key in (KEY, jax.random.fold_in(KEY, 3))]
    assert np.array_equal(again[0], PROCESS.simulate_series(KEY, BETA, START, 3, SIZE))
    assert not np.any(np.all(again[0] == again[1], axis=(1, 2)))


def test_priors():
    draws = UNIFORM_PRIOR.sample(KEY, (1000,))
    assert draws.shape == (1000, 4) and -5 <= draws.min() < -4.9 and 1.9 < draws.max() <= 2
    assert JumpProcess() == PROCESS and hash(JumpProcess()) == hash(PROCESS)
    assert JumpProcess(prior=UNIFORM_PRIOR) != PROCESS
    z = (BETA - PROCESS.prior.mean) / jnp.sqrt(PROCESS.prior.variance)
    assert jnp.all(jnp.abs(z) < 2)  # the published rates are nothing special to the default prior


def test_extinction_is_for_good(many):
    series = complete(many[0])
    assert np.all(series >= 0) and np.all(series % 1 == 0)
    gone = series == 0
    assert np.all(gone[:, 1:] >= gone[:, :-1])
    assert 0.2 < gone[:, -1].all(-1).mean() < 0.6  # nothing left, and the records go on
    assert np.all(PROCESS.simulate_series(KEY, BETA, jnp.zeros(2), 3, SIZE) == 0)
    assert np.all(PROCESS.simulate_series(KEY, jnp.full(4, NEVER), START, 3, SIZE) == START)


def test_nan_rates_give_nan():
    assert np.isnan(PROCESS.simulate_series(KEY, BETA.at[0].set(jnp.nan), START, 3, SIZE)).all()


def test_float64(short):
    with jax.enable_x64(True):
        series = PROCESS.simulate_series(KEY, jnp.array(TRUE_BETA), jnp.array(INITIAL), 3, 50)
    assert series.dtype == np.float64
    assert np.mean(np.asarray(series) == short[0][:50]) > 0.8  # rates are rounded otherwise


def test_error_of_leaps_falls_as_their_length(short):
    """Against the exact process: a bias of first order in the length of a leap."""
    bias, error, exact = {}, {}, np.float64(short[0][:, -1])
    for leaps in (1, 4):
        process = JumpProcess(leaps=leaps)
        ends = process.simulate_series(jax.random.fold_in(KEY, leaps), BETA, START, 3, SIZE)[:, -1]
        ends = np.asarray(ends, np.float64)
        bias[leaps] = ends.mean(0) - exact.mean(0)
        error[leaps] = np.sqrt((ends.var(0) + exact.var(0)) / SIZE)
    assert np.all(np.abs(bias[1]) > 10 * error[1])
    ratio = bias[1] / bias[4]  # 4 for ever shorter leaps; a leap as long as an interval is not short
    assert np.all((ratio > 2) & (ratio < 6))


def test_leaps_keep_the_contract():
    process = JumpProcess(leaps=1, max_events=200)
    series, events = process._simulate(KEY, BETA, START, 12, 300)
    missing = np.isnan(series).any(-1)
    assert np.array_equal(missing[:, -1], ~(np.asarray(events) <= 200))
    assert np.any((missing.mean(0) > 0.02) & (missing.mean(0) < 0.98))
    assert np.all(np.diff(missing.astype(int), axis=1) >= 0)
    found = np.asarray(series)[~missing]
    assert np.all(found >= 0) and np.all(found % 1 == 0)
    alone = jax.vmap(lambda key: process.simulate_series(key, BETA, START, 1))(jax.random.split(KEY, 300))
    assert np.array_equal(alone, series[:, :1])
    assert np.all(process._simulate(KEY, BETA, jnp.zeros(2), 12, 300)[0] == 0)


def test_lowers_for_accelerators():
    run = jax.jit(lambda key: PROCESS.simulate_series(key, BETA, START, 3, 5))
    exported = jax.export.export(run, platforms=["cuda", "tpu"])(KEY)
    text = exported.mlir_module()
    calls = set(re.findall(r"custom_call @([\w.]+)", text))
    assert not [call for call in calls if "callback" in call or "python" in call], calls
    assert "f64" not in text and exported.platforms == ("cuda", "tpu")


@pytest.mark.parametrize(("platform", "lanes"), [("cpu", 512), ("cuda", 3000), ("tpu", 3000)])
def test_lanes_are_those_of_where_the_arrays_are(platform, lanes, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu" if platform == "cpu" else "cpu")
    traced = jax.jit(lambda key: PROCESS.simulate_series(key, BETA, START, 4, 3000)).trace(KEY)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    waits = {lanes: f"tensor<{jump_process.BLOCK}x{lanes}xf32>" in text for lanes in (512, 3000)}
    assert waits == {512: lanes == 512, 3000: lanes == 3000}


def test_accelerators_get_the_same_series(short, monkeypatch):
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *arrays, cpu, default: default(*arrays))
    series, events = PROCESS._simulate.__wrapped__(PROCESS, KEY, BETA, START, 3, SIZE)
    assert np.array_equal(series, short[0]) and np.array_equal(events, short[1])


def published_statistics(states):
    """The nine statistics step by step, as published: predators first, states with time 0 in front."""
    predators, prey = states[:, 1].astype(np.float64), states[:, 0].astype(np.float64)
    size, columns, lags = len(states), [], []
    for x in (predators, prey):
        u = (x - np.mean(x)) / np.sqrt(np.var(x, ddof=1))
        columns.append(u)
        lags += [np.dot(u[:-lag], u[lag:]) / (size - 1) for lag in (1, 2)]
    means = [np.mean(predators), np.mean(prey)]
    logs = [np.log(np.var(x, ddof=1) + 1) for x in (predators, prey)]
    return np.array([*means, *logs, *lags, np.dot(*columns) / (size - 1)])


def test_summary_statistics_are_the_published_ones(many):
    series = complete(many[0])[:50]
    expected = np.array([published_statistics(states) for states in series])
    for found in (summary_statistics(series), jax.jit(jax.vmap(summary_statistics))(jnp.asarray(series))):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
    nested = summary_statistics(series.reshape(5, 10, STEPS, 2))
    np.testing.assert_allclose(nested.reshape(50, 9), summary_statistics(series), rtol=1e-5, atol=1e-6)
    swapped = summary_statistics(series[..., ::-1])
    np.testing.assert_allclose(swapped[:, [1, 0, 3, 2, 6, 7, 4, 5, 8]], summary_statistics(series), atol=1e-4)


def test_summary_statistics_of_constants():
    constant = summary_statistics(jnp.tile(jnp.array([3.0, 4.0]), (5, 1)))
    assert np.array_equal(constant, [4, 3, 0, 0, 0, 0, 0, 0, 0])
    assert np.isnan(summary_statistics(jnp.full((5, 2), jnp.nan))).any()
    half = summary_statistics(jnp.stack([jnp.arange(5.0), jnp.full(5, 2.0)], -1))
    assert half[-1] == 0 and half[6] > 0 and half[4] == 0


@pytest.fixture(scope="module")
def pilot():
    """Statistics of 4,000 draws from the published prior, the start in front, capped ones left out."""
    beta = UNIFORM_PRIOR.sample(jax.random.fold_in(KEY, 2), (4000,))
    series = complete(np.asarray(PROCESS.simulate_series(KEY, beta, START, STEPS, 4000)))
    start = np.broadcast_to(np.float32(INITIAL), (len(series), 1, 2))
    return np.asarray(summary_statistics(np.concatenate([start, series], axis=1)), np.float64)


def test_stored_pilot_is_reproduced(pilot):
    """Means within standard errors; medians of resampled sds, since the means are heavy-tailed."""
    sds, ours = np.array(PILOT_SDS), pilot.std(0)
    assert 0.85 < len(pilot) / 4000 < 0.9
    error = np.maximum(sds, ours) * math.sqrt(1 / 1000 + 1 / len(pilot))
    assert np.all(np.abs(pilot.mean(0) - PILOT_MEANS) < 4 * error)
    generator = np.random.default_rng(0)
    resampled = np.array([generator.choice(pilot, 1000).std(0) for _ in range(400)])
    spread = resampled.std(0) * math.sqrt(1 + 1000 / len(pilot))
    assert np.all(np.abs(sds - ours) < 4 * spread)
    assert np.all(spread[2:] < 0.15 * ours[2:])  # the band is narrow where tails are light


def test_observed_statistics_are_of_the_published_rates(many, pilot):
    start = np.broadcast_to(np.float32(INITIAL), (len(complete(many[0])), 1, 2))
    true = np.asarray(summary_statistics(np.concatenate([start, complete(many[0])], axis=1)))
    observed = np.array(OBSERVED_STATISTICS)
    below = (true < observed).mean(0)
    assert np.all((below > 0.01) & (below < 0.99))

    def nearest(statistics):
        return np.sort(np.linalg.norm((statistics - observed) / PILOT_SDS, axis=1))[len(statistics) // 100]

    assert nearest(true) < nearest(pilot) / 3


def test_rejection_counts_capped_series():
    """The cap reaches approximate Bayesian computation as simulations that were not finite."""
    process = JumpProcess(max_events=300)

    def simulate(key, beta, covariate):
        return None, process.simulate_series(key, beta, START, 10)

    model = HierarchicalImplicitModel(UNIFORM_PRIOR, simulate=simulate)
    data = Data(PROCESS.simulate_series(KEY, BETA, START, 10)[None])
    options = {"simulations": 2000, "quantile": 0.1, "progress": False}
    result = rejection(KEY, model, data, summary=lambda data: summary_statistics(data.x[0]), **options)
    assert 200 < result.not_finite < 1800 and np.isfinite(result.distances).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"interval": 0.0}, "interval: expected a positive number, got 0.0"),
        ({"max_events": 0}, "max_events: expected a positive integer, got 0"),
        ({"max_events": 1e4}, "max_events: expected a positive integer, got 10000.0"),
        ({"leaps": 0}, "leaps: expected a positive integer, got 0"),
        ({"prior": dist.Normal(0.0, 1.0)}, "prior: expected event shape .4,., got .."),
        ({"prior": 3}, "prior: expected event shape .4,., got None"),
        ({"prior": dist.Normal(jnp.zeros((2, 4)), 1.0).to_event(1)}, "prior: expected event shape"),
    ],
)
def test_wrong_processes(arguments, message):
    with pytest.raises(ValueError, match=message):
        JumpProcess(**arguments)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"key": jax.random.PRNGKey(0)}, TypeError, "old-style key"),
        ({"beta": jnp.zeros(3)}, ValueError, r"beta: expected shape \(4,\)"),
        ({"beta": jnp.zeros((3, 4))}, ValueError, r"beta: expected shape \(4,\) or \(2, 4\)"),
        ({"initial": jnp.zeros(3)}, ValueError, r"initial: expected shape \(2,\)"),
        ({"steps": 0}, ValueError, "steps, size: expected positive integers, got 0 and 2"),
        ({"size": 1.5}, ValueError, "steps, size: expected positive integers"),
    ],
)
def test_wrong_calls(changes, error, message):
    arguments = {"key": KEY, "beta": BETA, "initial": START, "steps": 3, "size": 2} | changes
    with pytest.raises(error, match=message):
        PROCESS.simulate_series(**arguments)


@pytest.mark.parametrize("shape", [(5,), (5, 3), (2, 2)])
def test_wrong_series(shape):
    with pytest.raises(ValueError, match=r"series: expected shape \(\.\.\., T, 2\)"):
        summary_statistics(jnp.zeros(shape))
