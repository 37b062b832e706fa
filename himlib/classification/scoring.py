r"""Score predicted probabilities of labels, each score with the sampling error of the test set."""

from typing import NamedTuple

import numpy as np

__all__ = ["Scores", "mcnemar", "score"]


class Scores(NamedTuple):
    """Scores of one classifier on one test set; each ``_se`` is the standard error over its rows.

    Attributes
    ----------
    error
        Share of rows whose most probable label is wrong.
    nlpd
        Negative log predictive density: the mean of -log p(label) in nats.
    ece
        Expected calibration error: the mean distance of confidence from accuracy, over ten bins of equal
        width. It is biased upward, by about 0.8 of a bin's standard error.
    error_se, nlpd_se, ece_se
        Standard errors.
    """

    error: np.ndarray
    nlpd: np.ndarray
    ece: np.ndarray
    error_se: np.ndarray
    nlpd_se: np.ndarray
    ece_se: np.ndarray


def score(probabilities: np.ndarray, labels: np.ndarray) -> Scores:
    r"""Score probabilities of labels against the labels.

    .. math:: \text{ECE} = \frac1n \sum_b \Big| \sum_{i \in b} (\max_k p_{ik} - 1[\text{right}_i]) \Big|

    (Guo et al. 2017), whose standard error is that of a mean with the signs of the bins held fixed.

    Parameters
    ----------
    probabilities
        Shape (..., n, K); leading axes, such as seeds, are kept.
    labels
        Shape (n,).

    Returns
    -------
    Scores
        Of all rows together.

    Raises
    ------
    ValueError
        If shapes do not agree, or rows are no probabilities.

    Examples
    --------
    >>> scores = score(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1]))
    >>> print(scores.error, round(float(scores.nlpd), 3), scores.ece)
    0.5 0.511 0.35
    """
    p, labels = np.asarray(probabilities, np.float64), np.asarray(labels)
    if p.ndim < 2 or labels.shape != p.shape[-2:-1] or len(labels) < 2:
        raise ValueError(
            f"probabilities, labels: expected shapes (..., n, K) and (n,) with n > 1, got {p.shape} and "
            f"{labels.shape}."
        )
    if not (np.all(p >= 0) and np.allclose(p.sum(-1), 1, atol=1e-3)):
        raise ValueError("probabilities: expected rows that add up to one; are they logits?")
    wrong, confidence = p.argmax(-1) != labels, p.max(-1)
    own = np.take_along_axis(p, np.broadcast_to(labels, wrong.shape)[..., None], -1)[..., 0]
    excess = confidence - ~wrong
    inside = np.arange(10) == np.minimum((confidence * 10).astype(int), 9)[..., None]
    sign = np.sign((inside * excess[..., None]).sum(-2))
    with np.errstate(divide="ignore", invalid="ignore"):  # what was given no chance surprises infinitely
        values = (wrong, -np.log(own), (inside * sign[..., None, :]).sum(-1) * excess)
        return Scores(*(v.mean(-1) for v in values), *(v.std(-1) / np.sqrt(len(labels)) for v in values))


def mcnemar(wrong_a: np.ndarray, wrong_b: np.ndarray) -> float:
    """Test whether two classifiers err equally often, from their errors on the same rows.

    The exact test of McNemar (1947): among the rows that only one of them gets wrong, each is as likely to
    be the one.

    Parameters
    ----------
    wrong_a, wrong_b
        Boolean vectors: where each is wrong.

    Returns
    -------
    float
        The two-sided p-value.

    Raises
    ------
    ValueError
        If they are no boolean vectors of one length.

    Examples
    --------
    >>> wrong = np.arange(20) < 9
    >>> mcnemar(wrong, np.zeros(20, bool))
    0.00390625
    """
    from scipy.stats import binomtest  # half a second of CPU, which not every import of himlib should cost

    a, b = np.asarray(wrong_a), np.asarray(wrong_b)
    if a.ndim != 1 or a.shape != b.shape or not a.dtype == b.dtype == bool:
        raise ValueError(
            f"wrong_a, wrong_b: expected boolean vectors of one length, got {a.dtype} of {a.shape} and "
            f"{b.dtype} of {b.shape}."
        )
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
