"""Ranks, their test and coverage: exact posteriors pass at the promised rate, broken ones are caught."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from himlib import HierarchicalImplicitModel
from himlib.diagnostics import coverage, rank_histogram, rank_test, ranks, region_ranks, replicate
from himlib.diagnostics.uniformity import _uniform
from himlib.random import normal
from himlib.simulators.conjugate import ConjugateGaussian

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY, OLD_KEY = jax.random.key(40), jax.random.PRNGKey(0)
S, L, N = 400, 99, 5
GAUSSIAN = ConjugateGaussian(1.0, 0.8, 0.6)


def normal_posterior(wider=1.0, shift=0.0):
    """The exact posterior of the conjugate model, or one broken on purpose, in its own sds."""

    def posterior(key, data):
        exact = GAUSSIAN.posterior(data.x)
        return exact.mean + exact.scale * (shift + wider * normal(key, (L,)))

    return posterior


@pytest.fixture(scope="module")
def runs():
    """One set of truths and data, inferred by the exact posterior and by each broken one."""
    posteriors = {
        "exact": normal_posterior(),
        "narrow": normal_posterior(wider=0.7),
        "wide": normal_posterior(wider=1.4),
        "low": normal_posterior(shift=-0.4),
        "high": normal_posterior(shift=0.4),
        "prior": lambda key, data: normal(key, (L,)),
    }

    def all_of_them(key, data):
        return jnp.stack([posterior(key, data) for posterior in posteriors.values()], axis=-1)

    # The model of one beta, lifted to as many equal ones as there are posteriors.
    model = HierarchicalImplicitModel(
        dist.Normal(jnp.zeros(len(posteriors)), 1.0).to_event(1),
        generate=lambda noise, beta, covariate: GAUSSIAN.model.generate(noise, beta[0], covariate),
        noise_shape=(2,),
    )
    truths = jnp.broadcast_to(normal(KEY, (S, 1)), (S, len(posteriors)))

    def likelihood(beta, data):  # of each column of beta
        return GAUSSIAN.predictive(beta).log_prob(data.x[:, None]).sum(0)

    run = replicate(KEY, model, all_of_them, S, size=N, beta=truths, quantities=likelihood, vectorize=True)
    return dict(zip(posteriors, np.arange(len(posteriors)), strict=True)), run


@pytest.fixture(scope="module")
def found(runs):
    columns, run = runs
    return columns, ranks(KEY, run.truth, run.draws)


def test_names_and_shapes(runs):
    columns, run = runs
    size = len(columns)
    assert run.truth.shape == (S, 2 * size) and run.draws.shape == (S, L, 2 * size)
    assert run.names == tuple(f"{name}[{i}]" for name in ("beta", "quantity") for i in range(size))


def test_exact_posterior_passes_and_broken_ones_are_caught(found):
    columns, rank = found
    test = rank_test(rank, L)
    assert test.p_value[columns["exact"]] > 0.01
    for name in ("narrow", "wide", "low", "high"):
        column = columns[name]
        assert test.p_value[column] < 1e-4, name
    # The signs that the documentation promises.
    curve = {name: test.difference[:, column] for name, column in columns.items()}
    third = len(test.points) // 3
    assert curve["narrow"][:third].mean() > 0.03 and curve["narrow"][-third:].mean() < -0.03
    assert curve["wide"][:third].mean() < -0.03 and curve["wide"][-third:].mean() > 0.03
    assert curve["low"].max() < 0.02 and curve["high"].min() > -0.02


def test_prior_passes_in_beta_and_fails_in_the_likelihood(found):
    columns, rank = found
    p_value = rank_test(rank, L).p_value
    size = len(columns)
    assert p_value[columns["prior"]] > 0.01
    assert p_value[size + columns["prior"]] < 1e-6
    assert p_value[size + columns["exact"]] > 0.01


def test_coverage_of_intervals(found):
    columns, rank = found
    result = coverage(rank, L, (0.5, 0.8, 0.9))
    np.testing.assert_allclose(result.level, (0.5, 0.8, 0.9))
    z = (result.share - result.level[:, None]) / result.standard_error[:, None]
    assert abs(z[:, columns["exact"]]).max() < 4
    assert z[:, columns["narrow"]].max() < -5 and z[:, columns["wide"]].min() > 3
    # What the share must be for draws of the wrong width: the truth's own sd is one.
    for name, wider in {"narrow": 0.7, "wide": 1.4}.items():
        expected = 2 * stats.norm.cdf(wider * stats.norm.ppf(0.5 + np.array([0.5, 0.8, 0.9]) / 2)) - 1
        error = np.sqrt(expected * (1 - expected) / S)
        assert np.all(abs(result.share[:, columns[name]] - expected) < 4 * error + 0.01), name


@pytest.mark.parametrize("region", [False, True])
@pytest.mark.parametrize("draws", [9, 10, 99, 100])
def test_coverage_by_counting(draws, region):
    """Of each rank once, as many lie inside as the level says: for every k, at both ends."""
    size, middle = draws + 1, draws // 2
    ks = np.arange(1, draws + 1 if region else middle + 1)
    levels = ks / size if region else 1 - 2 * ks / size
    levels = levels[levels > 0]
    result = coverage(np.arange(size)[:, None], draws, levels, region=region)
    np.testing.assert_allclose(result.level, levels, rtol=1e-12)
    np.testing.assert_allclose(result.share[:, 0], levels, rtol=1e-12)
    np.testing.assert_allclose(result.standard_error, np.sqrt(levels * (1 - levels) / size), rtol=1e-12)
    for k, level in zip(ks, levels, strict=False):
        inside = range(k) if region else range(k, draws - k + 1)
        for rank in (inside[0] - 1, inside[0], inside[-1], inside[-1] + 1):
            if 0 <= rank <= draws:
                alone = coverage(np.full((1, 1), rank), draws, (level,), region=region)
                assert alone.share == (rank in inside), (k, rank)
    nearest = coverage(np.zeros((1, 1), int), draws, (0.001, 0.62, 0.999), region=region).level
    every = np.append(levels, [] if region else 1 - 2 * middle / size)
    np.testing.assert_allclose(
        nearest, [every[abs(every - level).argmin()] for level in (0.001, 0.62, 0.999)]
    )


def test_rank_histogram(found):
    columns, rank = found
    histogram = rank_histogram(rank, L, bins=10)
    assert histogram.counts.sum(0).tolist() == [S] * rank.shape[1]
    np.testing.assert_allclose(histogram.expected, S / 10)
    np.testing.assert_array_equal(histogram.edges, np.arange(0, 101, 10))
    band = stats.binom(S, 0.1).interval(0.95)
    assert (histogram.low[0], histogram.high[0]) == band
    narrow, wide = histogram.counts[:, columns["narrow"]], histogram.counts[:, columns["wide"]]
    assert min(narrow[0], narrow[-1]) > histogram.high[0] and max(wide[0], wide[-1]) < histogram.low[0]
    np.testing.assert_array_equal(histogram.counts[:, 0], np.histogram(rank[:, 0], histogram.edges)[0])


def test_rank_histogram_with_uneven_bins():
    every = np.repeat(np.arange(8), 30)[:, None]  # eight ranks in three bins
    histogram = rank_histogram(every, 7, bins=3)
    assert histogram.edges.tolist() == [0, 3, 6, 8]
    assert histogram.counts[:, 0].tolist() == [90, 90, 60] == histogram.expected.tolist()
    assert np.all((histogram.low <= histogram.expected) & (histogram.expected <= histogram.high))


# The test of uniformity, by itself.


@pytest.mark.parametrize(("size", "draws"), [(20, 9), (100, 99), (300, 1000)])
def test_false_alarms_come_at_the_promised_rate(size, draws):
    repetitions = 10_000
    sample = np.random.default_rng(41).integers(0, draws + 1, (size, repetitions))
    test = rank_test(sample[:, :50], draws, 0.9)
    uniform = _uniform(size, draws)
    low, high = uniform.band(0.9)
    counts = np.stack([(sample < end).sum(0) for end in uniform.ends])
    outside = ((counts < low[:, None]) | (counts > high[:, None])).any(0)
    error = np.sqrt(0.1 * 0.9 / repetitions)
    assert (
        0.075 < outside.mean() < 0.1 + 4.5 * error
    )  # ranks are discrete: it may be somewhat below one tenth
    # p-values and the band agree on each single curve, and what is plotted is what was tested.
    low, high = test.low[:, None] - 1e-9, test.high[:, None] + 1e-9
    leaves = ((test.difference < low) | (test.difference > high)).any(0)
    np.testing.assert_array_equal(leaves, test.p_value <= 0.1)
    np.testing.assert_array_equal(leaves, outside[:50])


def test_p_value_against_all_samples_there_are():
    size, draws = 4, 3
    every = np.stack(np.meshgrid(*[np.arange(draws + 1)] * size)).reshape(size, -1)
    uniform = _uniform(size, draws)
    counts = np.stack([(every < end).sum(0) for end in uniform.ends])
    extreme = np.take_along_axis(uniform.tail, counts, axis=1).min(0)
    expected = [(extreme <= value + 1e-12).mean() for value in extreme]
    np.testing.assert_allclose([uniform.p_value(value + 1e-12) for value in extreme], expected, atol=1e-10)
    k = np.arange(size + 1)
    tails = 2 * np.minimum(stats.binom.cdf(k, 4, 0.25), stats.binom.sf(k - 1, 4, 0.25))
    np.testing.assert_allclose(uniform.tail[0], np.minimum(1, tails), rtol=1e-12)


def test_a_band_too_wide_to_leave():
    test = rank_test(np.array([[0]]), 1, probability=0.999)  # one rank of two: nothing is that unlikely
    assert test.p_value == 1 and test.low[0] == -0.5 and test.high[0] == 0.5


# Ranks.


def test_ties_are_broken_at_random():
    truth, draws = np.ones((2000, 2)), np.ones((2000, 4, 2))
    draws[:, :, 1] = [0, 0, 1, 1]  # the truth's rank is 2, 3 or 4
    rank = ranks(KEY, truth, draws)
    for column, values in ((0, range(5)), (1, range(2, 5))):
        counts = [(rank[:, column] == value).sum() for value in values]
        assert sum(counts) == 2000 and stats.chisquare(counts).pvalue > 1e-4
    np.testing.assert_array_equal(rank, ranks(KEY, truth, draws))


def test_ranks_keep_double_precision():
    truth = np.array([[1 + 1e-12]])
    assert ranks(KEY, truth, np.full((1, 7, 1), 1.0))[0, 0] == 7


# Joint regions.


def pairs(correlation, shift=0.0, seed=42, size=600):
    """Truths with correlation 0.8, and draws as if it were the one given."""
    rng = np.random.default_rng(seed)
    normals = [
        rng.normal(size=(size, 100, 2)) @ np.linalg.cholesky([[1, c], [c, 1]]).T for c in (0.8, correlation)
    ]
    return normals[0][:, 0] + shift, normals[1][:, 1:]


@pytest.mark.parametrize("region", ["ellipse", "random"])
def test_joint_regions(region):
    truth, draws = pairs(0.8)
    assert rank_test(region_ranks(KEY, truth, draws, region), 99).p_value > 0.01
    truth, draws = pairs(-0.8)  # the marginals are right
    assert rank_test(ranks(KEY, truth, draws), 99).p_value.min() > 0.01
    assert rank_test(region_ranks(KEY, truth, draws, region), 99).p_value < 1e-4
    for broken in (1.4, 0.7):
        truth, draws = pairs(0.8)
        assert rank_test(region_ranks(KEY, truth, broken * draws, region), 99).p_value < 1e-4


def test_ellipses_are_exact_and_see_a_bias():
    # Few draws: only a center and a covariance that the truth takes part in leave its rank uniform.
    rng = np.random.default_rng(43)
    truth, draws = rng.normal(size=(4000, 2)), rng.normal(size=(4000, 9, 2))
    rank = region_ranks(KEY, truth, draws)
    assert stats.chisquare(np.bincount(rank[:, 0], minlength=10)).pvalue > 1e-4
    result = coverage(rank, 9, (0.5, 0.9), region=True)
    np.testing.assert_allclose(result.share[:, 0], (0.5, 0.9), atol=0.03)
    biased = region_ranks(KEY, truth + 0.5, draws)
    assert coverage(biased, 9, (0.9,), region=True).share < 0.9 - 0.03
    # Ranks do not depend on units, nor on a coordinate that never varies.
    units = np.array([1e-6, 1e6])
    np.testing.assert_array_equal(rank, region_ranks(KEY, truth * units, draws * units))
    truth, draws = (np.concatenate([values, 0 * values[..., :1]], axis=-1) for values in (truth, draws))
    np.testing.assert_array_equal(rank, region_ranks(KEY, truth, draws))


def test_random_regions_have_no_units_and_a_point_of_their_own():
    truth, draws = pairs(0.8)
    rank = region_ranks(KEY, truth, draws, "random")
    for units, origin in ((np.array([1e-6, 1e6]), 0.0), (1.0, np.array([300.0, -70.0]))):
        moved = region_ranks(KEY, truth * units + origin, draws * units + origin, "random")
        assert np.mean(moved == rank) > 0.99
    truth[2:], draws[2:] = 0.0, draws[2]  # the same everywhere, but for the points
    assert len(np.unique(region_ranks(KEY, truth, draws, "random")[2:])) > 10


def test_a_point_mass_never_covers():
    truth, draws = np.random.default_rng(44).normal(size=(50, 2)), np.zeros((50, 9, 2))
    assert region_ranks(KEY, truth, draws).min() == 9


# replicate.

RATES = HierarchicalImplicitModel(
    {"rate": dist.LogNormal(0.0, 0.5), "shift": dist.Normal(jnp.zeros(2), 1.0).to_event(1)},
    generate=lambda noise, beta, covariate: (None, beta["shift"] + covariate + beta["rate"] * noise),
    noise_shape=(2,),
)


def ignore_data(key, data):
    return RATES.sample_prior(key, (7,))


def test_pytrees_by_loop_and_by_vmap(capsys):
    def quantities(beta, data):
        return {"total": beta["rate"] * data.x.sum() + data.covariate.sum()}

    options = {"covariate": jnp.ones((3, 2)), "quantities": quantities}
    loop = replicate(KEY, RATES, ignore_data, 5, **options)
    assert "replications: 100%" in capsys.readouterr().err
    vmap = replicate(KEY, RATES, ignore_data, 5, vectorize=True, **options)
    assert loop.names == vmap.names == ("rate", "shift[0]", "shift[1]", "total")
    assert loop.truth.shape == (5, 4) and loop.draws.shape == (5, 7, 4)
    np.testing.assert_allclose(loop.truth, vmap.truth, rtol=1e-5)
    np.testing.assert_allclose(loop.draws, vmap.draws, rtol=1e-5)
    assert len(np.unique(loop.truth[:, 0])) == 5 and len(np.unique(loop.draws[:, :, 0])) == 35
    assert capsys.readouterr().err == ""
    replicate(KEY, RATES, ignore_data, 1, covariate=jnp.ones((3, 2)), progress=False)
    assert capsys.readouterr().err == ""


def test_interruption_keeps_what_was_reached():
    calls = []

    def posterior(key, data, limit=3):
        calls.append(1)
        if len(calls) > limit:
            raise KeyboardInterrupt
        return normal(key, (7,))

    assert replicate(KEY, GAUSSIAN.model, posterior, 9, size=2, progress=False).truth.shape == (3, 1)
    with pytest.raises(KeyboardInterrupt):
        replicate(KEY, GAUSSIAN.model, posterior, 9, size=2, progress=False)


def test_an_error_keeps_what_was_reached():
    def posterior(key, data, calls=[]):  # noqa: B006
        calls.append(1)
        if len(calls) in (4, 5):
            raise RuntimeError("no posterior today")
        return normal(key, (7 + (len(calls) > 7),))

    run = partial(replicate, KEY, GAUSSIAN.model, posterior, 9, size=2, progress=False)
    with pytest.raises(RuntimeError, match="no posterior today") as caught:
        run()
    (note,) = caught.value.__notes__
    assert note == "Raised in replication 3; the 3 before it are in error.replications."
    with pytest.raises(RuntimeError) as first:  # nothing to keep
        run()
    assert not hasattr(first.value, "replications") and not hasattr(first.value, "__notes__")
    with pytest.raises(ValueError, match=r"as many draws from each data set, got \[7, 8\]") as sizes:
        run()
    assert sizes.value.replications.draws.shape == (2, 7, 1)  # refused at once, not in the end
    kept = caught.value.replications
    whole = replicate(KEY, GAUSSIAN.model, lambda key, data: normal(key, (7,)), 9, size=2, progress=False)
    assert kept.names == whole.names
    np.testing.assert_array_equal(kept.truth, whole.truth[:3])
    np.testing.assert_array_equal(kept.draws, whole.draws[:3])


ONES, COUNTER = jnp.ones((3, 2)), iter(range(5, 9))


def run(posterior=ignore_data, replications=3, model=RATES, covariate=ONES, **options):
    return replicate(KEY, model, posterior, replications, covariate=covariate, progress=False, **options)


RANK = np.zeros((5, 1), int)
TRUTH, DRAWS = np.zeros((3, 2)), np.ones((3, 4, 2))
CALLS = {
    "key: replicate": (lambda: replicate(OLD_KEY, RATES, ignore_data, 3), TypeError, "old-style"),
    "key: ranks": (lambda: ranks(OLD_KEY, TRUTH, DRAWS), TypeError, "old-style"),
    "key: region": (lambda: region_ranks(OLD_KEY, TRUTH, DRAWS), TypeError, "old-style"),
    "model": (lambda: run(model=RATES.prior), TypeError, "model: expected a Hier.* got dict"),
    "posterior": (lambda: run(posterior=3), TypeError, "posterior: expected a function .* got int"),
    "no size": (lambda: run(covariate=None), ValueError, "size: expected the number of data .* got \\[\\]"),
    "two sizes": (lambda: run(size=4), ValueError, "size: .* got \\[3, 4\\]"),
    "size: a fraction": (
        lambda: run(covariate=None, size=1.5),
        ValueError,
        "size: expected a positive .* 1.5",
    ),
    "replications": (
        lambda: run(replications=0),
        ValueError,
        "replications: expected a positive integer, got 0",
    ),
    "beta: another length": (
        lambda: run(beta=RATES.sample_prior(KEY, (4,))),
        ValueError,
        "beta: expected a leading axis of 3 replications, got \\[\\(4,\\)\\]",
    ),
    "draws: another structure": (
        lambda: run(lambda key, data: jnp.zeros(7)),
        TypeError,
        "posterior: expected draws like beta, .*'rate'.* got PyTreeDef\\(\\*\\)",
    ),
    "draws: no leading axis": (
        lambda: run(lambda key, data: RATES.sample_prior(key)),
        ValueError,
        "posterior: expected a leading axis of L draws, then beta's shape \\(\\), got \\(\\)",
    ),
    "draws: another shape": (
        lambda: run(lambda key, data: {"rate": jnp.ones(7), "shift": jnp.ones((7, 3))}),
        ValueError,
        "beta's shape \\(2,\\), got \\(7, 3\\)",
    ),
    "draws: more and more": (
        lambda: run(lambda key, data: normal(key, (next(COUNTER),)), 2, GAUSSIAN.model, None, size=2),
        ValueError,
        "posterior: expected as many draws from each data set, got \\[5, 6\\]",
    ),
    "shapes": (
        lambda: ranks(KEY, TRUTH[:2], DRAWS),
        ValueError,
        "expected shapes \\(S, d\\) .* \\(2, 2\\) and",
    ),
    "no draws": (lambda: ranks(KEY, TRUTH, DRAWS[:, :0]), ValueError, "expected shapes .* \\(3, 0, 2\\)"),
    "one vector": (lambda: region_ranks(KEY, TRUTH[0], DRAWS[0]), ValueError, "expected shapes"),
    "NaN": (
        lambda: ranks(KEY, np.array([[0.0], [np.nan]]), np.zeros((2, 3, 1))),
        ValueError,
        "1 of 2 replications .* the first is number 1",
    ),
    "infinity": (
        lambda: region_ranks(KEY, np.zeros((2, 1)), np.full((2, 3, 1), np.inf)),
        ValueError,
        "2 of 2 replications",
    ),
    "region": (lambda: region_ranks(KEY, TRUTH, DRAWS, "box"), ValueError, "region: expected .* got 'box'"),
    "ranks: fractions": (lambda: rank_test(RANK / 2, 9), ValueError, "ranks: expected integers .* float64"),
    "ranks: a vector": (
        lambda: coverage(RANK[:, 0], 9),
        ValueError,
        "integers of shape \\(S, d\\), got .*\\(5,\\)",
    ),
    "ranks: none": (lambda: rank_test(RANK[:0], 9), ValueError, "shape \\(0, 1\\)"),
    "ranks: beyond L": (lambda: rank_histogram(RANK + 10, 9), ValueError, "expected 0 to 9, got 10 to 10"),
    "draws: zero": (lambda: rank_test(RANK, 0), ValueError, "draws: expected L"),
    "draws: the array": (lambda: rank_test(RANK, DRAWS), ValueError, "draws: expected L"),
    "probability": (lambda: rank_test(RANK, 9, 95), ValueError, "probability: expected .* got 95"),
    "level": (lambda: coverage(RANK, 9, (0.5, 1.0)), ValueError, "levels: expected .* got 1.0"),
    "bins": (lambda: rank_histogram(RANK, 9, bins=11), ValueError, "bins: expected an integer from 2 to 10"),
}


@pytest.mark.parametrize("name", CALLS)
def test_wrong_call_is_refused(name):
    call, error, message = CALLS[name]
    with pytest.raises(error, match=message):
        call()
