"""What an algorithm takes, carries and reports: named tuples, so that every part is a pytree."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from himlib._checks import check_numbers
from himlib.models import Frame

__all__ = ["Algorithm", "Data", "Info", "State"]


class Data(NamedTuple):
    """Observations with a leading axis of N data.

    Attributes
    ----------
    x
        What the model simulates.
    covariate
        What it is conditioned on: the state before a Markov transition, the features of a labeled
        row, or None.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> Data(jnp.zeros((100, 2))).covariate is None
    True
    """

    x: Any
    covariate: Any = None


class State(NamedTuple):
    """All that a run carries from step to step.

    Attributes
    ----------
    ratio, posterior
        Parameters of r, and of q: ``{"beta": ..., "z": ...}``.
    ratio_optimizer, posterior_optimizer
        Their optax states.
    frame
        The proposal of the current round, which also sets the units of q.
    step
        Steps taken.
    wait
        Steps in which q(beta) sets off slowly, those that are left and all of them, see
        :func:`himlib.training.fit`.
    identities
        Running means of the curvature of r and of the information of its slopes along q, equal for a log
        ratio (Bartlett), and how much is known of them. A centered score is weighed by their ratio.
    """

    ratio: Any
    posterior: Any
    ratio_optimizer: Any
    posterior_optimizer: Any
    frame: Frame
    step: jax.Array
    wait: jax.Array | None = None
    identities: jax.Array | None = None


class Info(NamedTuple):
    """What a step reports; all scalars.

    Attributes
    ----------
    elbo
        The estimate of equation 7, up to a constant, in nats.
    ratio_loss
        D, in nats for the log loss: 2 log 2 = 1.386 when r tells nothing, 0 when it is saturated.
    accuracy
        Share of the ratio's batch that r classifies rightly.
    ratio_gradient, posterior_gradient
        Norms of the two gradients.
    spread
        Geometric mean of the sds of q in units of the proposal's scale (0 for a point mass).
    """

    elbo: jax.Array | np.ndarray
    ratio_loss: jax.Array | np.ndarray
    accuracy: jax.Array | np.ndarray
    ratio_gradient: jax.Array | np.ndarray
    posterior_gradient: jax.Array | np.ndarray
    spread: jax.Array | np.ndarray


class Algorithm(NamedTuple):
    """LFVI as pure functions.

    Attributes
    ----------
    init
        ``init(key, data) -> State``; of ``lfvi`` also ``init(key, data, frame)``: where to begin.
    step
        ``step(key, state, data) -> (State, Info)``: ``ratio_steps`` steps of r, then one of q.
    refine
        ``refine(key, state, data) -> State``: start a new round, in which the proposal is centered
        at the present q, ``width`` times as wide, never wider than before; r starts afresh.
    moments
        ``moments(state) -> (2, d) array``: mean and sd of q in unconstrained coordinates.
    sample
        ``sample(key, state, size) -> beta`` with a leading axis.
    sample_local
        ``sample_local(key, state, beta, data) -> z``: one z for each row of data, at one beta.
    elbo
        ``elbo(key, state, data) -> scalar``: the objective over all data, in nats, up to a constant.
    log_ratio
        ``log_ratio(state, x, z, beta, covariate) -> r`` for one datum.
    centered
        Whether the gradient for q(beta) is that of r less its mean under the model.
    proposal
        ``proposal(state) -> (2, d) array``: location and scale of the normal that beta is proposed from, in
        unconstrained coordinates; None where nothing is proposed.
    contrast
        ``contrast(key, state, data) -> (x, z, beta, covariate, center)``: what a step would show r, joint
        draws in the first half of the rows and the reference's in the second; None where r sees no beta.
    simulated
        ``simulated(key, state, data) -> (x, beta)``: all that a step simulates; None where it is not asked.
    """

    init: Callable
    step: Callable
    refine: Callable
    moments: Callable
    sample: Callable
    sample_local: Callable
    elbo: Callable
    log_ratio: Callable
    centered: bool = False
    proposal: Callable | None = None
    contrast: Callable | None = None
    simulated: Callable | None = None


def norm(tree: Any) -> jax.Array:
    """Euclidean norm of all leaves together, such as a gradient's (optax has it under changing names).

    Examples
    --------
    >>> float(norm({"a": jnp.array([3.0, 0.0]), "b": jnp.array(4.0)}))
    5.0
    """
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


def check_data(data: Any, batch_size: int | None) -> None:
    """Refuse observations that no model could have made.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from himlib import Data
    >>> check_data(Data(jnp.zeros(3)), batch_size=4)
    Traceback (most recent call last):
    ValueError: data: 3 observations are fewer than batch_size=4; None takes all of them.
    """
    if not hasattr(data, "covariate"):
        raise TypeError(f"data: expected Data(x, covariate), got {type(data).__name__}.")
    check_numbers("data", data)
    leaves = jax.tree.leaves(data)
    lists = [part for part in data if isinstance(part, list | tuple)]
    if not leaves or any(jnp.ndim(leaf) == 0 for leaf in leaves):
        got = f"; got a {type(lists[0]).__name__}, see jnp.asarray" if lists else ""
        raise ValueError(f"data: expected arrays with a leading axis of N observations{got}.")
    sizes = {len(leaf) for leaf in leaves}
    if len(sizes) > 1:
        uneven = [part for part in lists if len({len(leaf) for leaf in jax.tree.leaves(part)}) > 1]
        got = "; got a list of arrays of different lengths, pad them and see jnp.stack" if uneven else ""
        raise ValueError(f"data: x and covariate differ in their leading axes, {sorted(sizes)}{got}.")
    (size,) = sizes
    if size == 0:
        raise ValueError("data: no observations.")
    if batch_size is not None and size < batch_size:
        raise ValueError(
            f"data: {size} observations are fewer than batch_size={batch_size}; None takes all of them."
        )
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        finite = [np.isfinite(np.asarray(leaf)).all() for leaf in leaves]
        if not all(finite):
            raise ValueError("data: missing or infinite values.")


def check_state(state: Any) -> None:
    """Refuse what is no state, such as the whole result of a run.

    Examples
    --------
    >>> check_state(None)
    Traceback (most recent call last):
    TypeError: state: expected a State, such as result.state, got NoneType.
    """
    if not isinstance(state, State):
        raise TypeError(f"state: expected a State, such as result.state, got {type(state).__name__}.")
