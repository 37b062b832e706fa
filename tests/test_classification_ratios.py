"""Ratios for labels: margins, anchors and forms against NumPy; what their slopes are, and are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from himlib.classification import count_ratio, margin_ratio, margins, noise_points, subtract_baseline

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(0)
LOGITS = np.random.default_rng(0).normal(0, 2, (6, 4)).astype("f4")  # six anchors, four labels
COVARIATE = jnp.array([0.5, -1.0])
COUNT = {"log_slope": jnp.float32(0.7), "inner_offset": jnp.float32(-0.4), "outer_offset": jnp.float32(0.2)}


def ratio_of(network, params, logits=LOGITS):
    return np.asarray(network.apply(params, margins(jnp.asarray(logits)), COVARIATE))


def start(network, key=KEY):
    return network.init(key, margins(jnp.asarray(LOGITS))[None], COVARIATE[None])


FORMS = {
    "count": (count_ratio(), COUNT),
    "fixed": (count_ratio(learned=False), {}),
    "network": (margin_ratio((5,)), start(margin_ratio((5,)))),
}
forms = pytest.mark.parametrize("form", FORMS)


# Noises.


def test_points_of_one_dimension_are_quantiles():
    expected = stats.norm.ppf((np.arange(5) + 0.5) / 5)
    np.testing.assert_allclose(noise_points(5, 1)[:, 0], expected, atol=1e-6)
    assert noise_points(5, 0).shape == (5, 0)


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_points_integrate_better_than_draws(dimension):
    def error(points):
        return abs(np.asarray(jnp.cos(points.sum(1)).mean()) - np.exp(-dimension / 2))

    drawn = [error(jax.random.normal(jax.random.key(seed), (64, dimension))) for seed in range(20)]
    assert error(noise_points(64, dimension)) < np.mean(drawn) / 1.5


@pytest.mark.parametrize("dimension", [1, 2])
def test_a_random_shift_makes_each_point_normal(dimension):
    shifts = jax.random.uniform(KEY, (2000, dimension))
    points = np.asarray(jax.vmap(lambda shift: noise_points(4, dimension, shift))(shifts))
    assert np.isfinite(points).all()
    one = points[:, 2]
    if dimension == 1:  # the third of four lies in the third quarter
        assert special.ndtr(one).min() > 0.5 and special.ndtr(one).max() < 0.75
    else:
        assert stats.kstest(one[:, 1], "norm").pvalue > 1e-4
    assert stats.kstest(points[:, np.arange(2000) % 4].diagonal(axis1=0, axis2=1)[0], "norm").pvalue > 1e-4


# Margins.


def test_margins_by_hand():
    expected = np.empty((6, 4))
    for anchor, row in enumerate(np.float64(LOGITS)):
        for label in range(4):
            expected[anchor, label] = row[label] - special.logsumexp(np.delete(row, label))
    np.testing.assert_allclose(margins(LOGITS), expected, atol=1e-5)
    softmax = special.softmax(LOGITS, axis=1)
    np.testing.assert_allclose(special.expit(np.asarray(margins(LOGITS))), softmax, atol=1e-6)


def test_two_margins_are_differences():
    np.testing.assert_allclose(margins(LOGITS[:, :2])[:, 0], LOGITS[:, 0] - LOGITS[:, 1], atol=1e-6)


def test_margins_of_huge_logits_are_finite():
    logits = jnp.array([1e4, -1e4, 0.0])
    value, slope = jax.value_and_grad(lambda logits: margins(logits).sum())(logits)
    assert np.isfinite(value) and np.isfinite(slope).all()
    assert margins(logits)[0] == 1e4


# Forms.


def test_count_by_hand():
    margin = np.float64(margins(LOGITS))
    share = special.expit(np.exp(0.7) * margin - 0.4).mean(0)
    np.testing.assert_allclose(ratio_of(*FORMS["count"]), np.log(4 * share) + 0.2, atol=1e-5)


def test_one_anchor_is_a_softmax_likelihood():
    r = ratio_of(*FORMS["fixed"], logits=LOGITS[:1])
    np.testing.assert_allclose(r, special.log_softmax(LOGITS[0]) + np.log(4), atol=1e-5)
    moved = ratio_of(count_ratio(), COUNT, logits=LOGITS[:1])
    assert np.abs(moved - r).max() > 0.1


def test_fixed_count_is_normalized():
    np.testing.assert_allclose(np.exp(ratio_of(*FORMS["fixed"])).mean(), 1, rtol=1e-5)
    assert start(count_ratio(learned=False)) == {}
    np.testing.assert_array_equal(ratio_of(count_ratio(), start(count_ratio())), ratio_of(*FORMS["fixed"]))
    assert abs(np.exp(ratio_of(*FORMS["count"])).mean() - 1) > 0.05


def test_network_by_hand():
    network, params = FORMS["network"]
    squashed = np.float64(margins(LOGITS))
    squashed = squashed / (1 + np.abs(squashed) / 8)
    first, last = params["layers"][0], params["layers"][1]
    hidden = squashed.T @ np.asarray(first["kernel"]) + np.asarray(first["bias"])
    hidden = np.where(hidden > 0, hidden, 0.01 * hidden)
    expected = (hidden @ np.asarray(last["kernel"]) + np.asarray(last["bias"]))[:, 0]
    np.testing.assert_allclose(ratio_of(network, params), expected, atol=1e-5)


@forms
def test_labels_are_treated_alike(form):
    order = np.array([2, 0, 3, 1])
    permuted = ratio_of(*FORMS[form], logits=LOGITS[:, order])
    np.testing.assert_allclose(permuted, ratio_of(*FORMS[form])[order], atol=1e-5)


def test_order_of_anchors_means_nothing_to_a_count():
    for form in ("count", "fixed"):
        np.testing.assert_allclose(ratio_of(*FORMS[form], LOGITS[::-1]), ratio_of(*FORMS[form]), atol=1e-5)
    network = FORMS["network"]
    assert np.abs(ratio_of(*network, LOGITS[::-1]) - ratio_of(*network)).max() > 1e-3


@forms
def test_slope_in_the_own_margin(form):
    """A count never falls as a label's margin grows; nothing keeps a network from it."""
    network, params = FORMS[form]
    slope = jax.jacobian(lambda margin: network.apply(params, margin, COVARIATE))
    batch = 4 * jax.random.normal(KEY, (50, 6, 4))
    slopes = np.asarray(jax.vmap(slope)(batch))  # of label k, in the margin of label l at anchor a
    own = slopes[:, np.arange(4), :, np.arange(4)]
    others = slopes[:, 0, :, 1:]
    assert np.all(others == 0)
    assert (own.min() < 0) == (form == "network")
    if form == "fixed":  # and far from the boundary it stays: as in cross-entropy, a wrong label pulls
        far = np.asarray(slope(jnp.full((6, 4), -50.0)))[np.arange(4), :, np.arange(4)]
        np.testing.assert_allclose(far, 1 / 6, rtol=1e-4)


def test_baseline_is_subtracted_and_has_no_slope():
    network = subtract_baseline(count_ratio(), (3,))
    params = start(network)
    params["ratio"] = COUNT
    assert params["baseline"]["layers"][1]["bias"].shape == (4,)
    difference = ratio_of(count_ratio(), COUNT) - ratio_of(network, params)
    again = ratio_of(count_ratio(), COUNT, LOGITS[:2]) - ratio_of(network, params, LOGITS[:2])
    assert np.abs(difference).max() > 1e-3
    np.testing.assert_allclose(difference, again, atol=1e-5)  # of the covariate alone
    first, last = params["baseline"]["layers"][0], params["baseline"]["layers"][1]
    hidden = jax.nn.squareplus(COVARIATE @ first["kernel"] + first["bias"])
    np.testing.assert_allclose(difference, hidden @ last["kernel"] + last["bias"], atol=1e-5)


@forms
@pytest.mark.parametrize("baseline", [False, True], ids=["alone", "baseline"])
def test_forms_under_jit_and_vmap(form, baseline):
    network, params = FORMS[form]
    if baseline:
        network = subtract_baseline(network, (3,))
        params = {"ratio": params, "baseline": start(network)["baseline"]}
    batch = jnp.stack([margins(LOGITS), margins(LOGITS[::-1])])
    covariates = jnp.stack([COVARIATE, 2 * COVARIATE])
    lifted = jax.jit(jax.vmap(network.apply, (None, 0, 0)))(params, batch, covariates)
    for i in range(2):
        np.testing.assert_allclose(lifted[i], network.apply(params, batch[i], covariates[i]), atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_forms_keep_their_type(dtype):
    with jax.enable_x64(dtype == jnp.float64):
        margin = margins(jnp.asarray(LOGITS, dtype))
        params = count_ratio().init(KEY, margin[None], None)
        assert count_ratio().apply(params, margin, None).dtype == margin.dtype == dtype


@pytest.mark.parametrize("make", [margin_ratio, lambda hidden: subtract_baseline(count_ratio(), hidden)])
def test_hidden_is_a_sequence(make):
    with pytest.raises(TypeError, match=r"hidden: expected a sequence of widths, such as \(64,\), got 32"):
        make(32)
