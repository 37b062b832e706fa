"""Simulators with exact answers beside them: what the book's experiments run on."""

from himlib.simulators import (
    conjugate,
    curved,
    deep_implicit,
    drift_diffusion,
    genome,
    grammar,
    jump_process,
    linear_regression,
    lotka_volterra,
)

__all__ = [
    "conjugate",
    "curved",
    "deep_implicit",
    "drift_diffusion",
    "genome",
    "grammar",
    "jump_process",
    "linear_regression",
    "lotka_volterra",
]
