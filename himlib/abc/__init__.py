r"""Approximate Bayesian computation: rejection, Markov chains, sequential Monte Carlo.

Whoever cannot evaluate a likelihood can still simulate, and keep the parameters whose simulations
come close to what was observed. All three methods draw from the same *ABC posterior*,

.. math:: p_\epsilon(\beta \mid s_{obs}) \propto p(\beta) \, P(d(s(x), s_{obs}) \le \epsilon \mid \beta),

with a summary statistic s, a distance d and a tolerance :math:`\epsilon`. They differ in what they
simulate for it. A data set of N rows is simulated at one :math:`\beta`; its locals are thrown away.

Summary and distance are any functions that JAX can trace. ``summary(data)`` gets a whole data set,
``data.x`` with its leading axis of N rows and ``data.covariate`` as observed, and gives a number or a vector,
of shape () or (k,), in units of its own. ``distance(simulated, observed)`` gets two of these, and gives one
number, of shape (), in the units of the tolerance. A simulation whose distance is not finite is rejected.
"""

from himlib.abc.results import ABCOutcome, ABCResult, Generation
from himlib.abc.samplers import euclidean, mcmc, rejection, smc, standardize

__all__ = ["ABCOutcome", "ABCResult", "Generation", "euclidean", "mcmc", "rejection", "smc", "standardize"]
