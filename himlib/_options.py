"""What can be refused of an algorithm's options before it is built."""

from typing import Any

import jax
import numpy as np
import optax
from numpyro.distributions import Delta

from himlib._checks import check_counts, check_even, check_methods
from himlib._problem import noted
from himlib.families import Family, ImplicitConditional, LocalFamily
from himlib.models import Frame, check_model, check_width
from himlib.networks import Network


def check_options(model, posterior, ratio, local, reference, proposal, jitter, sharding) -> None:
    """Refuse arguments of :func:`himlib.variational.lfvi` of a wrong kind.

    Examples
    --------
    >>> check_options(None, None, None, None, "predictive", "round", None, None)
    Traceback (most recent call last):
    TypeError: model: expected a HierarchicalImplicitModel, got NoneType.
    """
    check_model(model)
    if isinstance(posterior, ImplicitConditional):
        raise TypeError(
            "posterior: q(beta) needs a density, for log p(beta) - log q(beta) is evaluated, and an "
            "ImplicitConditional has none; use MeanFieldNormal, FullRankNormal or PointMass, and pass "
            "the implicit family as local."
        )
    check_methods("posterior", posterior, "a family q(beta)", Family)
    if isinstance(model.prior, Delta) and posterior.distribution is not None:
        check_width([model.prior], [0.0])
    check_network(ratio)
    if local is not None:
        check_methods("local", local, "a family q(z | x, beta)", LocalFamily)
    if not callable(reference) and reference not in ("predictive", "empirical"):
        raise ValueError(f"reference: expected 'predictive', 'empirical' or a function, got {reference!r}.")
    if proposal not in ("round", "posterior"):
        raise ValueError(f"proposal: expected 'round' or 'posterior', got {proposal!r}.")
    if proposal == "posterior" and posterior.distribution is None:
        raise ValueError("proposal: a point mass has no width to propose from; use proposal='round'.")
    if jitter is not None and reference == "empirical":
        raise ValueError("jitter: the empirical reference pairs each x with its own covariate, as it is.")
    axes = getattr(getattr(sharding, "mesh", None), "axis_types", ())
    if any(axis != jax.sharding.AxisType.Auto for axis in axes):
        raise ValueError(
            "sharding: expected a mesh of automatic axes, Mesh(jax.devices(), ('data',)), got one of "
            "explicit axes, which jax.make_mesh makes."
        )


def check_family(posterior: Any, frame: Frame) -> None:
    """Refuse a family q(beta) whose arrays have other shapes than the algorithms take them to have.

    Examples
    --------
    A density with no event axis would give a term for each coordinate, and a mean in place of their sum.

    >>> import jax.numpy as jnp
    >>> import numpyro.distributions as dist
    >>> from himlib import MeanFieldNormal
    >>> class Own(MeanFieldNormal):
    ...     def distribution(self, params):
    ...         return dist.Normal(params["location"], 1.0)
    >>> check_family(Own(), Frame(jnp.zeros(2), jnp.ones(2)))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: posterior: expected log_prob of 3 draws to have shape (3,), got (3, 2).
    ...
    """
    size = len(frame.location)
    count = size + 1  # of draws: another number than that of coordinates

    def compare(what, expected, got):
        if got != expected:
            raise ValueError(f"posterior: expected {what} to have shape {expected}, got {got}.")

    def look(key, frame):
        params = posterior.init(size)
        v = posterior.sample(params, key, count)
        compare(f"{count} draws of {size} coordinates", (count, size), np.shape(v))
        for what, part in zip(("the mean", "the sd"), posterior.moments(params), strict=True):
            compare(f"{what} of moments", (size,), np.shape(part))
        if posterior.distribution is not None:
            log_q = posterior.distribution(params).log_prob(v)
            compare(f"log_prob of {count} draws", (count,), np.shape(log_q))
        other = posterior.reframe(params, frame, frame)
        trees = [jax.tree.structure(tree) for tree in (params, other)]
        shapes = [[np.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (params, other)]
        if trees[0] != trees[1] or shapes[0] != shapes[1]:
            raise ValueError(
                f"posterior: expected parameters from reframe like those from init, {trees[0]} of shapes "
                f"{shapes[0]}, got {trees[1]} of shapes {shapes[1]}."
            )

    with noted("What the methods of q(beta) take and give: himlib.families.Family."):
        jax.eval_shape(look, jax.random.key(0), frame)


def check_network(
    ratio: Any,
    inputs: str = "x, z, beta, covariate, center",
    see: str = "himlib.ratio_network and himlib.pure",
) -> None:
    """Refuse what is no ratio network."""
    if not isinstance(ratio, Network):
        raise TypeError(f"ratio: expected a Network of ({inputs}), got {type(ratio).__name__}; see {see}.")


def check_optimizer(name: str, optimizer: Any) -> None:
    """Refuse what is no optimizer, such as a learning rate."""
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"{name}: expected an optax transformation, such as optax.adam(1e-3), "
            f"got {type(optimizer).__name__}."
        )


def check_optimizers(ratio_optimizer: Any, posterior_optimizer: Any, local: Any) -> None:
    """Refuse optimizers that are none, and parts of q without one.

    Examples
    --------
    >>> check_optimizers(1e-3, None, None)
    Traceback (most recent call last):
    TypeError: ratio_optimizer: expected an optax transformation, such as optax.adam(1e-3), got float.
    """
    given = {"ratio_optimizer": [ratio_optimizer], "posterior_optimizer": [posterior_optimizer]}
    if isinstance(posterior_optimizer, dict):
        parts = ["beta"] if local is None else ["beta", "z"]
        if sorted(posterior_optimizer) != parts:
            raise ValueError(
                f"posterior_optimizer: expected parts {parts}, got {sorted(posterior_optimizer)}."
            )
        given["posterior_optimizer"] = list(posterior_optimizer.values())
    for name, optimizers in given.items():
        for optimizer in optimizers:
            check_optimizer(name, optimizer)


def check_sizes(*, width, ratio_batch, ratio_steps, batch_size, posterior_samples) -> None:
    """Refuse sizes out of range.

    Examples
    --------
    >>> check_sizes(width=0, ratio_batch=8, ratio_steps=1, batch_size=None, posterior_samples=1)
    Traceback (most recent call last):
    ValueError: width: expected a positive number, got 0.
    """
    if not width > 0:
        raise ValueError(f"width: expected a positive number, got {width}.")
    check_counts(ratio_steps=ratio_steps, posterior_samples=posterior_samples)
    if batch_size is not None:
        check_counts(batch_size=batch_size)
    check_even("ratio_batch", ratio_batch)
