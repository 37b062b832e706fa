r"""Estimate a log density ratio from two samples, and tell how far to trust it.

A function r is trained to tell draws of p from draws of q. Its minimizer tells :math:`\log p/q`
(Sugiyama, Suzuki and Kanamori 2012); where the two are far apart, a sum of smaller log ratios does better.
"""

from himlib.ratio.fit import classifier, fit_ratio, quadratic
from himlib.ratio.results import RatioFit, RatioOutcome, Reliability
from himlib.ratio.telescoping import Telescope, telescope

__all__ = [
    "RatioFit",
    "RatioOutcome",
    "Reliability",
    "Telescope",
    "classifier",
    "fit_ratio",
    "quadratic",
    "telescope",
]
