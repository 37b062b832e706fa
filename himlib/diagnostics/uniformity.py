"""Reading ranks that should be uniform on 0, ..., L: histograms, a test with a band, coverage."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Coverage", "RankHistogram", "RankTest", "coverage", "rank_histogram", "rank_test"]


class RankHistogram(NamedTuple):
    """Counts of ranks, and where a single count of a calibrated posterior falls.

    Attributes
    ----------
    edges
        Edges of the bins, (bins + 1,), in ranks: the left one belongs to a bin, the right one to the next.
    counts
        Array of shape (bins, d).
    expected, low, high
        Mean and central interval of each count of a calibrated posterior, (bins,).
    """

    edges: np.ndarray
    counts: np.ndarray
    expected: np.ndarray
    low: np.ndarray
    high: np.ndarray


class RankTest(NamedTuple):
    """The ECDF of ranks less that of the uniform distribution, with a simultaneous band.

    Attributes
    ----------
    points
        Where it is evaluated, (K,), between 0 and 1.
    difference
        Array of shape (K, d). A posterior too narrow makes it an S that first rises and then falls below
        zero, one too wide the mirror image; one whose mean is too low stays below zero, too high above.
    low, high
        The band, (K,): a calibrated posterior's whole curve stays inside with the given probability.
    p_value
        Array of shape (d,), exact for the largest excursion: ``p_value <= 1 - probability`` for
        those curves that leave the band, and no others.
    """

    points: np.ndarray
    difference: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_value: np.ndarray


class Coverage(NamedTuple):
    """How often regions of given probability hold the truth.

    Attributes
    ----------
    level
        The probability that L draws can realize nearest to the one asked for, (K,).
    share
        Share of the truths inside, (K, d). Below the level: too narrow or off; above: too wide.
    standard_error
        That of the share for a calibrated posterior, (K,).
    """

    level: np.ndarray
    share: np.ndarray
    standard_error: np.ndarray


def _check_ranks(ranks: Any, draws: int) -> np.ndarray:
    ranks = np.asarray(ranks)
    if not isinstance(draws, int) or draws < 1:
        raise ValueError(f"draws: expected L, the number of draws that were ranked among, got {draws!r}.")
    if ranks.ndim != 2 or not ranks.size or not np.issubdtype(ranks.dtype, np.integer):
        raise ValueError(
            f"ranks: expected integers of shape (S, d), got {ranks.dtype} of shape {ranks.shape}."
        )
    if ranks.min() < 0 or ranks.max() > draws:
        raise ValueError(f"ranks: expected 0 to {draws}, got {ranks.min()} to {ranks.max()}.")
    return ranks


def _check_probability(probability: Any, name: str = "probability") -> None:
    if not 0 < probability < 1:
        raise ValueError(f"{name}: expected a number between 0 and 1, got {probability!r}.")


def _log_factorials(size: int) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, size + 1)))])


def _binomial(size: int, probability: np.ndarray) -> np.ndarray:
    """Probabilities of 0, ..., size successes, one row for each probability."""
    count, log_factorial = np.arange(size + 1), _log_factorials(size)
    log_choose = log_factorial[size] - log_factorial - log_factorial[::-1]
    p = np.asarray(probability)[:, None]
    return np.exp(log_choose + count * np.log(p) + (size - count) * np.log1p(-p))


def rank_histogram(ranks: np.ndarray, draws: int, bins: int = 20, probability: float = 0.95) -> RankHistogram:
    r"""Count ranks in bins, beside the band of a single bin's count.

    A calibrated posterior's count is binomial; with 20 bins, one of them on average leaves a band of
    95 %. For a test use :func:`rank_test`.

    Parameters
    ----------
    ranks
        Integers of shape (S, d), see :func:`~himlib.diagnostics.ranks`.
    draws
        L.
    bins
        Number of bins, best a divisor of L + 1.
    probability
        Probability of the band, in each bin for itself.

    Returns
    -------
    RankHistogram
        Counts for each of the d quantities, and what to hold them against.

    Raises
    ------
    ValueError
        If ranks do not lie between 0 and L, there are more bins than ranks, or the probability is none.

    Examples
    --------
    >>> import numpy as np
    >>> histogram = rank_histogram(np.arange(100)[:, None], 99, bins=5)
    >>> histogram.counts[:, 0].tolist(), histogram.low[0].item(), histogram.high[0].item()
    ([20, 20, 20, 20, 20], 12, 28)
    """
    ranks = _check_ranks(ranks, draws)
    _check_probability(probability)
    if not isinstance(bins, int) or not 1 < bins <= draws + 1:
        raise ValueError(
            f"bins: expected an integer from 2 to {draws + 1}, the number of ranks, got {bins!r}."
        )
    edges = -(-np.arange(bins + 1) * (draws + 1) // bins)  # rounded up
    share = np.diff(edges) / (draws + 1)
    counts = np.stack([np.histogram(column, edges - 0.5)[0] for column in ranks.T], axis=1)
    below = _binomial(len(ranks), share).cumsum(axis=1)
    low, high = ((below < tail).sum(1) for tail in ((1 - probability) / 2, (1 + probability) / 2))
    return RankHistogram(edges, counts, len(ranks) * share, low, high)


class _Uniform:
    """The ECDF of S uniform ranks at K points: how far out each count is, and what stays within a band."""

    def __init__(self, size: int, draws: int):
        ends = np.unique(np.linspace(1, draws, min(draws, 100)).round())
        self.size, self.ends, self.points = size, ends, ends / (draws + 1)
        self.log_factorial = _log_factorials(size)
        probability = _binomial(size, self.points)
        below, above = probability.cumsum(1), probability[:, ::-1].cumsum(1)[:, ::-1]
        #: For each point and count the two-sided tail probability.
        self.tail = np.minimum(1.0, 2 * np.minimum(below, above))

    def p_value(self, threshold: float) -> float:
        """Probability that some count's tail is the threshold or less.

        The counts at successive points are a Markov chain with binomial steps; the recursion
        carries the probability of having stayed within so far.
        """
        inside, log_factorial = self.tail > max(threshold, 1e-12), self.log_factorial
        old, weight, last = np.zeros(1, int), np.ones(1), 0.0
        for point, allowed in zip(self.points, inside, strict=True):
            new, chance = np.flatnonzero(allowed), (point - last) / (1 - last)
            left, step = (self.size - old)[:, None], new - old[:, None]
            possible = (step >= 0) & (step <= left)
            step = np.where(possible, step, 0)
            log_choose = log_factorial[left] - log_factorial[step] - log_factorial[left - step]
            moves = np.exp(log_choose + step * np.log(chance) + (left - step) * np.log1p(-chance))
            old, weight, last = new, weight @ np.where(possible, moves, 0.0), point
        return max(0.0, 1.0 - weight.sum())

    @lru_cache(maxsize=8)  # noqa: B019
    def band(self, probability: float) -> tuple[np.ndarray, np.ndarray]:
        """Counts between which a curve stays with at least this probability."""
        values = np.unique(self.tail)
        few, many = -1, len(values)  # the largest threshold that rejects seldom enough, by bisection
        while many - few > 1:
            middle = (few + many) // 2
            if self.p_value(values[middle]) <= 1 - probability:
                few = middle
            else:
                many = middle
        inside = self.tail > (values[few] if few >= 0 else 0.0)
        return inside.argmax(1), self.size - inside[:, ::-1].argmax(1)


_uniform = lru_cache(maxsize=32)(_Uniform)


def rank_test(ranks: np.ndarray, draws: int, probability: float = 0.95) -> RankTest:
    r"""Test ranks for uniformity by their empirical distribution function.

    .. math:: \Delta(k) = \frac1S \#\{s : r_s < k\} - \frac k {L + 1},

    at each k, or at 100 of them. The band is the one of Säilynoja, Bürkner and Vehtari (2022): binomial
    intervals of one common tail probability, the largest with which a calibrated posterior's whole curve
    stays inside with the given probability. It is computed exactly, by recursion.

    For d parameters at once, hold d times the smallest p-value against 1 - probability.

    Parameters
    ----------
    ranks
        Integers of shape (S, d), of :func:`~himlib.diagnostics.ranks` or its ``region_ranks``.
    draws
        L.
    probability
        Probability of the band.

    Returns
    -------
    RankTest
        A curve and a p-value for each of the d quantities, and the band.

    Raises
    ------
    ValueError
        If ranks do not lie between 0 and L, or the probability is none.

    Examples
    --------
    >>> import numpy as np
    >>> uniform = rank_test(np.arange(100)[:, None], 99)
    >>> narrow = rank_test(np.repeat([0, 99], 50)[:, None], 99)
    >>> bool(uniform.p_value[0] > 0.9), bool(narrow.p_value[0] < 1e-6)
    (True, True)
    """
    ranks = _check_ranks(ranks, draws)
    _check_probability(probability)
    uniform = _uniform(len(ranks), draws)
    counts = (ranks < uniform.ends[:, None, None]).sum(1)
    low, high = uniform.band(probability)
    observed = np.take_along_axis(uniform.tail, counts, axis=1).min(0)
    return RankTest(
        uniform.points,
        counts / len(ranks) - uniform.points[:, None],
        low / len(ranks) - uniform.points,
        high / len(ranks) - uniform.points,
        np.array([uniform.p_value(threshold) for threshold in observed]),
    )


def coverage(
    ranks: np.ndarray, draws: int, levels: Sequence[float] = (0.5, 0.8, 0.9, 0.95), *, region: bool = False
) -> Coverage:
    r"""Share of truths inside the central intervals of their draws, or inside joint regions.

    Between the k-th smallest and the k-th largest of L draws lies the truth of a calibrated posterior with
    probability :math:`1 - 2k / (L + 1)`; of a region's ranks, the share below k is :math:`k / (L + 1)`.

    Parameters
    ----------
    ranks
        Integers of shape (S, d), of :func:`~himlib.diagnostics.ranks` or its ``region_ranks``.
    draws
        L.
    levels
        Probabilities; each is rounded to one that L draws can realize.
    region
        Whether these are the ranks of distances, small ones inside.

    Returns
    -------
    Coverage
        A share for each of the K levels and d quantities, and what to hold it against.

    Raises
    ------
    ValueError
        If ranks do not lie between 0 and L, or a level is no probability.

    Examples
    --------
    >>> import numpy as np
    >>> result = coverage(np.arange(100)[:, None], 99, [0.5, 0.9])
    >>> print(result.level, result.share[:, 0])
    [0.5 0.9] [0.5 0.9]
    """
    ranks = _check_ranks(ranks, draws)
    for probability in levels:
        _check_probability(probability, "levels")
    if region:
        k = np.clip(np.round(np.asarray(levels) * (draws + 1)), 1, draws)
        level, inside = k / (draws + 1), ranks < k[:, None, None]
    else:
        k = np.clip(np.round((1 - np.asarray(levels)) / 2 * (draws + 1)), 1, draws // 2)
        level = 1 - 2 * k / (draws + 1)
        inside = (ranks >= k[:, None, None]) & (ranks <= draws - k[:, None, None])
    return Coverage(level, inside.mean(1), np.sqrt(level * (1 - level) / len(ranks)))
