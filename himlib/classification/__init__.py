"""Classification by implicit models: Bayesian GANs on labels, their ratios, and scores of predictions."""

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
