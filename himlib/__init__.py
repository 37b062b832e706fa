"""Hierarchical implicit models and likelihood-free variational inference, in JAX."""

from himlib import abc, classification, datasets, diagnostics, few_simulations, many_data, ratio, simulators
from himlib.base import Algorithm, Data, Info, State
from himlib.caches import cache_compilation
from himlib.diagnostics import verdict
from himlib.families import (
    FullRankNormal,
    ImplicitConditional,
    MeanFieldMixture,
    MeanFieldNormal,
    MixtureOfNormals,
    PointMass,
    SplineFlow,
)
from himlib.few_simulations import ExternalModel, fit_rounds
from himlib.losses import LOSSES, RatioLoss
from himlib.models import HierarchicalImplicitModel
from himlib.networks import MLP, Network, pure, ratio_network
from himlib.training import Outcome, Result, cosine_adam, fit, fit_seeds
from himlib.variational import ALGORITHM_1, lfvi

__all__ = [
    "ALGORITHM_1",
    "LOSSES",
    "MLP",
    "Algorithm",
    "Data",
    "ExternalModel",
    "FullRankNormal",
    "HierarchicalImplicitModel",
    "ImplicitConditional",
    "Info",
    "MeanFieldMixture",
    "MeanFieldNormal",
    "MixtureOfNormals",
    "Network",
    "Outcome",
    "PointMass",
    "RatioLoss",
    "Result",
    "SplineFlow",
    "State",
    "abc",
    "cache_compilation",
    "classification",
    "cosine_adam",
    "datasets",
    "diagnostics",
    "few_simulations",
    "fit",
    "fit_rounds",
    "fit_seeds",
    "lfvi",
    "many_data",
    "pure",
    "ratio",
    "ratio_network",
    "simulators",
    "verdict",
]

__version__ = "0.1.0"
