"""Scores of predictions against scikit-learn, loops and the bootstrap; the paired test by enumeration."""

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss

from himlib.classification import mcnemar, score


def draw(n, classes=3, seed=0, sharpness=1.0):
    """Probabilities, and labels drawn from them: calibrated, unless the probabilities are sharpened."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(classes), n)
    labels = (rng.random(n)[:, None] > p.cumsum(1)).sum(1)
    p = p**sharpness
    return p / p.sum(1, keepdims=True), labels


def test_error_and_density_as_scikit_learn_has_them():
    p, labels = draw(500)
    scores = score(p, labels)
    np.testing.assert_allclose(scores.error, 1 - accuracy_score(labels, p.argmax(1)))
    np.testing.assert_allclose(scores.nlpd, log_loss(labels, p))
    np.testing.assert_allclose(scores.error_se, math.sqrt(scores.error * (1 - scores.error) / 500))


def test_calibration_error_by_a_loop():
    p, labels = draw(200)
    p[:2], labels[:2] = [1.0, 0.0, 0.0], [0, 1]  # the upper edge belongs to the last bin, right or wrong
    confidence, right = p.max(1), p.argmax(1) == labels
    total = 0.0
    for low in np.arange(10) / 10:
        inside = (confidence >= low) & ((confidence < low + 0.1) | (low == 0.9))
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    np.testing.assert_allclose(score(p, labels).ece, total, atol=1e-9)


def test_standard_errors_as_the_bootstrap_has_them():
    p, labels = draw(400, sharpness=3.0)
    scores, rng = score(p, labels), np.random.default_rng(1)
    again = [score(p[rows], labels[rows]) for rows in rng.integers(400, size=(400, 400))]
    for name in ("error", "nlpd", "ece"):
        spread = np.std([getattr(each, name) for each in again])
        np.testing.assert_allclose(getattr(scores, name + "_se"), spread, rtol=0.2)


def test_calibration_error_tells_overconfidence():
    p, labels = draw(20_000)
    honest = score(p, labels)
    assert honest.ece < 0.015
    sharp = score(draw(20_000, sharpness=3.0)[0], labels)
    assert sharp.ece - 10 * sharp.ece_se > honest.ece
    assert sharp.error == honest.error and sharp.nlpd > honest.nlpd


def test_leading_axes_are_kept():
    p, labels = draw(50)
    both = score(np.stack([p, p[:, ::-1]]), labels)
    for alone, index in ((score(p, labels), 0), (score(p[:, ::-1], labels), 1)):
        for values, value in zip(both, alone, strict=True):
            assert values.shape == (2,)
            np.testing.assert_allclose(values[index], value)
    assert both.error[0] < both.error[1]


@pytest.mark.parametrize("only_a, only_b", [(0, 0), (3, 3), (9, 0), (2, 7), (40, 60)])
def test_paired_test_by_enumeration(only_a, only_b):
    wrong_a = np.arange(200) < 30 + only_a  # both err on thirty rows more, which say nothing
    wrong_b = (np.arange(200) < 30) | (np.arange(200) >= 200 - only_b)
    n, k = only_a + only_b, min(only_a, only_b)
    expected = min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)
    assert mcnemar(wrong_a, wrong_b) == mcnemar(wrong_b, wrong_a)
    np.testing.assert_allclose(mcnemar(wrong_a, wrong_b), expected, rtol=1e-9)


def test_paired_test_holds_its_level():
    rng = np.random.default_rng(0)
    equal = [mcnemar(*(rng.random((2, 300)) < 0.2)) for _ in range(300)]
    unequal = [mcnemar(rng.random(300) < 0.2, rng.random(300) < 0.35) for _ in range(300)]
    assert np.mean(np.array(equal) < 0.05) < 0.09
    assert np.mean(np.array(unequal) < 0.05) > 0.8


def test_a_label_given_no_chance_costs_infinitely():
    assert score(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([1, 0])).nlpd == np.inf


WRONG = np.zeros(3, bool)
CALLS = {
    "no rows of probabilities": (lambda: score(np.ones(3), WRONG), r"expected shapes \(..., n, K\)"),
    "another length": (lambda: score(np.full((3, 2), 0.5), np.zeros(2, int)), r"got \(3, 2\) and \(2,\)"),
    "one row": (lambda: score(np.full((1, 2), 0.5), np.zeros(1, int)), "with n > 1"),
    "logits": (lambda: score(np.array([[2.0, -1.0]] * 3), np.zeros(3, int)), "are they logits"),
    "not normalized": (lambda: score(np.full((3, 2), 0.4), np.zeros(3, int)), "add up to one"),
    "labels for errors": (
        lambda: mcnemar(np.zeros(3, int), WRONG),
        r"boolean vectors .* got int64 of \(3,\)",
    ),
    "errors of other rows": (lambda: mcnemar(WRONG, np.zeros(2, bool)), r"\(3,\) and bool of \(2,\)"),
    "errors of many seeds": (lambda: mcnemar(np.zeros((2, 3), bool), np.zeros((2, 3), bool)), r"\(2, 3\)"),
}


@pytest.mark.parametrize("call, message", CALLS.values(), ids=CALLS)
def test_wrong_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()
