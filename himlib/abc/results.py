"""What a run of ABC gives back: weighted draws, their cost, and how it ended."""

from enum import Enum
from typing import Any, NamedTuple

import numpy as np

__all__ = ["ABCOutcome", "ABCResult", "Generation"]


class ABCOutcome(Enum):
    """How a run ended; the value is advice in words."""

    COMPLETED = (
        "Draws of the ABC posterior at this tolerance. Halve the tolerance to see whether it still matters."
    )
    NONE_ACCEPTED = (
        "No simulation came within the tolerance. Raise it above the nearest distance, spend more "
        "simulations, use fewer summaries or standardized ones, or go there by degrees with smc."
    )
    STUCK = (
        "No chain ever moved: every draw is a repeated starting point. Take a smaller step, or a larger "
        "tolerance."
    )
    FEW = "Fewer than 30 effective draws. Raise the tolerance, or spend more simulations."
    OUT_OF_SIMULATIONS = (
        "The cap on simulations came before the last tolerance: the draws are those of the last "
        "generation that was completed. Spend more simulations, or be content with its tolerance."
    )
    NOT_FINITE = (
        "No simulation was finite, or its distance was not. Bound the simulator's state, narrow the "
        "prior, or mend the summary."
    )
    SUCCESSES_ONLY = (
        "More than 1 % of the simulations were not finite, and counted as rejected: the draws are of the ABC "
        "posterior given that the simulator succeeds. Bound its state or narrow the prior; or, if failure "
        "is part of the model, return a flag for it beside x, and let the summary see it."
    )
    INTERRUPTED = "Stopped by hand: the draws are those made so far."


class Generation(NamedTuple):
    """What sequential Monte Carlo reports; arrays with an entry for each generation.

    Attributes
    ----------
    tolerance, acceptance, ess
        Of the generation.
    simulations
        Spent up to its end.
    """

    tolerance: np.ndarray
    acceptance: np.ndarray
    ess: np.ndarray
    simulations: np.ndarray


class ABCResult(NamedTuple):
    """Weighted draws of the ABC posterior, and what they cost.

    Attributes
    ----------
    beta
        The draws, with a leading axis; from chains, one chain after the other.
    weights
        They add up to 1, and are equal but for :func:`smc`.
    distances
        One for each draw, none above the tolerance.
    tolerance
        At which the draws were accepted.
    simulations
        Data sets simulated, never more than was allowed.
    acceptance
        Share of the simulations that were accepted: of all for :func:`rejection`, of the chains' steps
        for :func:`mcmc`, of the last generation for :func:`smc`.
    ess
        Effective sample size: draws accepted, or :math:`1 / \\sum_i w_i^2`, or for chains the smallest of
        the unconstrained coordinates' by autocorrelation.
    nearest
        The smallest distance of all simulations, for choosing a tolerance.
    not_finite
        Simulations that were not finite or had no finite distance. They count as rejected.
    outcome
        The verdict, with advice in ``outcome.value``.
    history
        A :class:`Generation` for :func:`smc`, else None.
    """

    beta: Any
    weights: np.ndarray
    distances: np.ndarray
    tolerance: float
    simulations: int
    acceptance: float
    ess: float
    nearest: float
    not_finite: int
    outcome: ABCOutcome
    history: Generation | None = None
