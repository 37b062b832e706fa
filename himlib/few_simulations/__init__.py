r"""The posterior of the data at hand from few simulations, of any simulator and of any shape.

Where a simulation costs more than a step of an optimizer, every one is kept, and teaches r again in every
round: 10,000 of them do for a posterior of a few parameters.
"""

from himlib.few_simulations.density import Density
from himlib.few_simulations.external import ExternalModel
from himlib.few_simulations.posterior import Rounds, RoundsOutcome, load_rounds
from himlib.few_simulations.rounds import fit_rounds

__all__ = ["Density", "ExternalModel", "Rounds", "RoundsOutcome", "fit_rounds", "load_rounds"]
