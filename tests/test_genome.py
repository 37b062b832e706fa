"""Genomes against the exact moments of their models, and interventions against algebra."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import within

from himlib.simulators.genome import (
    STRUCTURES,
    CausalModel,
    balding_nichols,
    linear_trait,
    simulate_study,
    spread_trait,
)

KEY = jax.random.key(0)
MODEL = CausalModel(
    {
        "z": lambda key, v: jax.random.normal(key),
        "x": lambda key, v: v["z"] + jax.random.normal(key),
        "y": lambda key, v: v["z"] - 0.5 * v["x"] + jax.random.normal(key),
    }
)


@pytest.mark.parametrize("fst", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_frequencies_have_the_variance_that_fst_says(p, fst):
    found = jax.jit(balding_nichols, static_argnums=(2, 3))(KEY, jnp.full(2, p), fst, 40_000)
    assert found.shape == (40_000, 2) and found.min() >= 0 and found.max() <= 1
    assert within(found[:, 0], p) and within((found[:, 0] - p) ** 2, fst * p * (1 - p))
    assert not within((found[:, 0] - p) ** 2, 1.2 * fst * p * (1 - p))
    assert abs(np.corrcoef(found.T)[0, 1]) < 0.03


def test_seeing_and_doing():
    """The slope of y on x is cov(z, x) / var(x) - .5 where x is seen, and -.5 where it is set."""
    seen = MODEL.sample(KEY, 40_000)
    assert list(seen) == ["z", "x", "y"] and seen["y"].shape == (40_000,)
    slope = np.polyfit(seen["x"], seen["y"], 1)[0]
    assert slope == pytest.approx(0.0, abs=0.03)
    low, high = (MODEL.do(x=value).sample(KEY, 40_000) for value in (-1.0, 1.0))
    np.testing.assert_allclose(high["y"] - low["y"], -1.0, atol=1e-5)
    assert within(high["y"], -0.5) and np.all(high["x"] == 1.0)
    np.testing.assert_array_equal(high["z"], seen["z"])  # what happens before is as it was


def test_an_edit_leaves_the_model_as_it_was():
    edited = MODEL.do(z=2.0, y=0.0)
    assert list(edited.assignments) == ["z", "x", "y"]
    draws = jax.jit(edited.sample, static_argnums=1)(KEY, 20_000)
    assert within(draws["x"], 2.0) and not np.any(draws["y"])
    assert np.any(MODEL.sample(KEY, 5)["y"])


study_of = jax.jit(
    simulate_study,
    static_argnames=("people", "snps", "structure", "populations", "fst", "causal", "genetic", "confounding"),
)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_study(structure):
    options = {"structure": structure, "causal": 7, "genetic": 0.2, "confounding": 0.5}
    study, other = (study_of(jax.random.key(seed), **options) for seed in (0, 1))
    np.testing.assert_array_equal(study.genotypes, study_of(KEY, **options).genotypes)
    assert np.any(study.genotypes != other.genotypes)
    assert study.genotypes.shape == (400, 300) and set(np.unique(study.genotypes)) == {0.0, 1.0, 2.0}
    share = study.genotypes.mean(0) / 2
    assert share.min() >= 0.05 and share.max() <= 0.95
    np.testing.assert_allclose(study.standardized.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(study.standardized.std(0), 1, rtol=1e-5)
    np.testing.assert_array_equal(np.flatnonzero(study.effects), np.sort(study.causal))
    assert np.var(study.standardized @ study.effects) == pytest.approx(0.2, rel=1e-4)
    assert np.var(study.confounding) == pytest.approx(0.5, rel=1e-4)
    total = study.standardized @ study.effects + study.confounding
    np.testing.assert_allclose(study.predictor, total, atol=1e-5)
    columns = {"spatial": 2}.get(structure, 3)
    assert study.ancestry.shape == (400, columns) and np.all((study.ancestry >= 0) & (study.ancestry <= 1))
    if structure != "spatial":
        np.testing.assert_allclose(study.ancestry.sum(1), 1, rtol=1e-5)
    if structure == "islands":
        assert set(np.unique(study.ancestry)) == {0.0, 1.0}


def test_islands_share_their_genotypes():
    """Within an island genotypes are binomial and SNPs independent; between islands they vary as F says."""
    study = study_of(KEY, people=6000, snps=400, structure="islands", populations=2, fst=0.2)
    x, first = np.asarray(study.genotypes), np.asarray(study.ancestry[:, 0]) == 1
    p, q = x[first].mean(0) / 2, x[~first].mean(0) / 2
    ratio = x[first].var(0) / (2 * p * (1 - p) + 1e-9)
    assert np.mean(ratio[p * (1 - p) > 0.05]) == pytest.approx(1, abs=0.01)
    among = np.corrcoef(x[first][:, (p * (1 - p)) > 0.05].T)
    assert np.abs(among[np.triu_indices(len(among), 1)]).mean() < 0.02
    # E (p - q)^2 = 2 F m and E[p (1 - q) + q (1 - p)] = 2 m, with m = E p0 (1 - p0); rare SNPs are left out.
    fst = np.mean((p - q) ** 2) / np.mean(p * (1 - q) + q * (1 - p))
    assert fst == pytest.approx(0.2, abs=0.04)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_ancestry_confounds(structure):
    """SNPs that do nothing go with what confounds, and not with noise."""
    study = study_of(KEY, structure=structure, causal=7, genetic=0.2, confounding=0.5)

    def inflation(y):
        t2 = 400 * np.corrcoef(np.c_[y, study.standardized].T)[0, 1:] ** 2
        return np.median(t2) / 0.455

    noise = 0.5 * jax.random.normal(jax.random.key(5), (400,))
    assert inflation(study.confounding + noise) > 2
    assert inflation(noise) < 1.5


def test_traits():
    noise, index = jax.random.normal(KEY, (40_000, 3)), jnp.full(40_000, 0.8)
    linear = jax.jit(linear_trait)(noise, index, 0.3, 0.5)
    assert within(linear, 1.1) and within((linear - 1.1) ** 2, 0.25)
    spread = jax.jit(spread_trait)(noise, index, 0.3, 0.5)
    variance = 1.25 * (0.5 * math.exp(0.7 * 0.8)) ** 2
    assert within(spread, 0.7) and within((spread - 0.7) ** 2, variance)
    kurtosis = np.mean((spread - 0.7) ** 4) / variance**2
    # Given e_2 normal with variance 1 + e_2^2 / 4: 3 E (1 + e^2 / 4)^2 / (5 / 4)^2.
    assert kurtosis == pytest.approx(3 * (1 + 0.5 + 3 / 16) / 1.25**2, abs=0.25)


def test_double_precision():
    with jax.enable_x64(True):
        study = simulate_study(KEY, people=40, snps=10, causal=2)
        assert study.standardized.dtype == study.predictor.dtype == np.float64


CALLS = {
    "no assignment": (lambda: CausalModel({}), "assignments: expected at least one, got none"),
    "an unknown variable": (
        lambda: MODEL.do(w=1.0),
        "do: expected variables among z, x, y; got w",
    ),
    "nobody": (lambda: MODEL.sample(KEY, 0), "size: expected a positive integer, got 0"),
    "no drift": (
        lambda: balding_nichols(KEY, jnp.full(3, 0.5), 0.0, 2),
        r"fst: expected a number between 0 and 1, got 0\.0",
    ),
    "no population": (
        lambda: balding_nichols(KEY, jnp.full(3, 0.5), 0.1, 0),
        "populations: expected a positive integer, got 0",
    ),
    "an unknown structure": (
        lambda: simulate_study(KEY, structure="map"),
        "structure: expected one of islands, admixed, spatial; got 'map'",
    ),
    "half a SNP": (lambda: simulate_study(KEY, snps=0.5), "snps: expected a positive integer, got 0.5"),
    "more causes than SNPs": (
        lambda: simulate_study(KEY, snps=5, causal=6),
        "causal: expected at most snps, 5, got 6",
    ),
    "no mixing": (lambda: simulate_study(KEY, alpha=0.0), "alpha: expected a number between 0 and inf"),
    "a negative variance": (
        lambda: simulate_study(KEY, confounding=-1.0),
        "confounding: expected a number between 0 and inf, got -1",
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_wrong_calls(call):
    function, message = CALLS[call]
    with pytest.raises(ValueError, match=message):
        function()


def test_an_old_key_is_refused():
    with pytest.raises((TypeError, ValueError), match="key"):
        simulate_study(jax.random.PRNGKey(0))
