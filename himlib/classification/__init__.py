r"""Classification by implicit models: the Bayesian GAN, and the Bayesian neural network beside it.

Labels come from a network with random weights, a :class:`Generator`,

.. math:: x_n = \operatorname{argmax}_k \, g_k(c_n, \epsilon_n \mid \beta), \qquad
          \epsilon_n \sim N(0, I), \quad \beta_i \sim N(0, 1)

(Tran, Ranganath and Blei 2017, equation 10). In the library's notation the label is the datum x, its
features are the covariate c, and the weights of the network are the globals :math:`\beta`.

The objective (equation 7) sees the weights through the ratio alone, never through a simulated label: labels
stay hard, and nothing has to be relaxed.

The weights of a network are too many for a ratio to take as inputs. What a label depends on is less: the
logits that the weights :math:`\beta` give at features c as the noise varies. A ratio here sees the *margins*
at A fixed noises :math:`\epsilon_1, \dots, \epsilon_A`, the anchors,

.. math:: m_{ay} = g_y(c, \epsilon_a \mid \beta) - \log \sum_{k \ne y} e^{g_k(c, \epsilon_a \mid \beta)},

and gives, for each of the K labels y,

.. math:: r(y, c, \beta) \approx \log \frac{\Pr(\text{label} = y \mid c, \beta)}{1 / K},

whatever the size of the network. It treats all labels alike.
"""

from himlib.classification.bayesian_gan import bayesian_classifier
from himlib.classification.generator import Generator, predict
from himlib.classification.ratios import count_ratio, margin_ratio, margins, noise_points, subtract_baseline
from himlib.classification.scoring import Scores, mcnemar, score

__all__ = [
    "Generator",
    "Scores",
    "bayesian_classifier",
    "count_ratio",
    "margin_ratio",
    "margins",
    "mcnemar",
    "noise_points",
    "predict",
    "score",
    "subtract_baseline",
]
