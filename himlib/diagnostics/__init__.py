r"""Whether to believe an answer.

* What is wrong with a finished run? :func:`verdict` asks, first of all.
* Is r right where q looks, and with it q? :func:`ratio_calibration`, :func:`score_test`.
* Does q agree with a sample of the exact posterior? :func:`c2st`, :func:`sliced_wasserstein`.
* Do the data look as q expects? :func:`posterior_predictive`.
* Is a method calibrated over many data sets? :func:`replicate` simulates them, :func:`ranks` says where each
  truth falls, and :func:`rank_test` and :func:`coverage` read that.

If :math:`\beta \sim p(\beta)`, :math:`x \sim p(x \mid \beta)`, and L draws come from the exact
:math:`p(\beta \mid x)`, then truth and draws are exchangeable, and the rank of the truth among the draws
is uniform on 0, ..., L (Cook, Gelman and Rubin 2006; Talts et al. 2018).
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
