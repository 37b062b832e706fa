"""Whether to believe an answer.

What is wrong with a finished run? :func:`verdict` asks, first of all. Is r right where q looks, and with it
q? :func:`ratio_calibration`, :func:`score_test`. Does q agree with a sample of the exact posterior?
:func:`c2st`. Do the data look as q expects? :func:`posterior_predictive`. Is a method calibrated over many
data sets? :func:`replicate` makes the ranks that :func:`rank_test` and :func:`coverage` read.
"""

from himlib.diagnostics.log_ratio import (
    RatioCalibration,
    ScoreTest,
    ratio_calibration,
    score_test,
    sum_log_ratio,
)
from himlib.diagnostics.predictive import PredictiveCheck, posterior_predictive
from himlib.diagnostics.report import Verdict, verdict
from himlib.diagnostics.sbc import Replications, ranks, region_ranks, replicate
from himlib.diagnostics.two_sample import TwoSample, c2st, sliced_wasserstein
from himlib.diagnostics.uniformity import (
    Coverage,
    RankHistogram,
    RankTest,
    coverage,
    rank_histogram,
    rank_test,
)

__all__ = [
    "Coverage",
    "PredictiveCheck",
    "RankHistogram",
    "RankTest",
    "RatioCalibration",
    "Replications",
    "ScoreTest",
    "TwoSample",
    "Verdict",
    "c2st",
    "coverage",
    "posterior_predictive",
    "rank_histogram",
    "rank_test",
    "ranks",
    "ratio_calibration",
    "region_ranks",
    "replicate",
    "score_test",
    "sliced_wasserstein",
    "sum_log_ratio",
    "verdict",
]
