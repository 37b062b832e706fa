r"""The posterior of the data at hand from few simulations, of any simulator and of any shape.

Where a simulation costs more than a step of an optimizer, every one is kept, and teaches r again in every
round: 10,000 of them do for a posterior of a few parameters.
"""

from himlib.few_simulations.external import ExternalModel
from himlib.few_simulations.rounds import Rounds, RoundsOutcome, fit_rounds

__all__ = ["ExternalModel", "Rounds", "RoundsOutcome", "fit_rounds"]
