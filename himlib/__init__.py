"""Hierarchical implicit models and likelihood-free variational inference, in JAX."""

__version__ = "0.1.0"
