r"""Many data: r learned once, and a posterior by the centered score, an equation that no inexact r biases.

A sum of N log ratios repeats the error of r N times, while the posterior narrows as :math:`1/\sqrt N`: at
large N any bias wins. Less its expectation under the model, the slope of r has mean zero at the
:math:`\beta` that made the data, whatever r is:

.. math:: \psi_n = \nabla_\beta r(x_n, \beta)
          - E_{x \sim p(x \mid \beta, c_n)} \nabla_\beta r(x, \beta).

So the root of :math:`\sum_n \psi_n` is consistent (van der Vaart 1998, chapter 5). A score is more: by
Bartlett's identities its outer product :math:`I = E \psi \psi^\top` is its curvature
:math:`A = -E\, \partial \psi / \partial \beta`. An inexact r breaks the second, and would weigh the prior
wrongly: :math:`r = c \log p` has :math:`A \propto c` and :math:`I \propto c^2`. Both hold again for
:math:`A^\top I^{-1} \psi`, and what is solved here, for :math:`\beta`, is

.. math:: \nabla \log p(\beta) + A^\top I^{-1} \sum_{n=1}^N \psi_n = 0.

For an exact r nothing is subtracted and :math:`A = I`: the root is the posterior's mode.

Locals come after the globals. r is trained with z forgotten, ``model.marginal``; then
:func:`fit_locals` learns :math:`q(z_n \mid x_n, \beta, c_n)`, one network for all data.
"""

from himlib.many_data.local import LocalOutcome, Locals, fit_locals
from himlib.many_data.ratio import train_ratio
from himlib.many_data.score import Pass, ScoreFit, ScoreOutcome, solve_score

__all__ = [
    "LocalOutcome",
    "Locals",
    "Pass",
    "ScoreFit",
    "ScoreOutcome",
    "fit_locals",
    "solve_score",
    "train_ratio",
]
