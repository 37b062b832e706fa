"""What is known of a fitted log ratio, and how far to trust it."""

from enum import Enum
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

__all__ = ["RatioFit", "RatioOutcome", "Reliability"]


class RatioOutcome(Enum):
    """How far an estimate can be trusted; the value is advice in words."""

    OVERLAPPING = "p and q overlap enough for their ratio to be learned."
    SATURATED = (
        "A cut along r tells more than 98 % of the draws apart: between the classes the draws no longer "
        "determine r, only the form of the network or of the features does. If that is known to be right, r "
        "can be; if not, its size cannot be relied on. Telescope with more bridges, or take more draws."
    )
    FEW_WEIGHTS = (
        "The weights e^r on q are worth fewer than 10 equal ones: averages weighted by them rest on a "
        "handful of draws. r itself may be good; check it on fresh draws."
    )
    NO_RATIO = "The optimum of this loss is no log ratio: use r for its sign alone."
    NOT_FINITE = "r became NaN or infinite. Lower the learning rate, bound the features, or use the log loss."


def judge(fit) -> RatioOutcome:
    """The verdict on one fit."""
    if not jnp.isfinite(fit.kl + fit.effective_sample_size):
        return RatioOutcome.NOT_FINITE
    if not fit.is_ratio:
        return RatioOutcome.NO_RATIO
    if fit.saturated:
        return RatioOutcome.SATURATED
    return RatioOutcome.FEW_WEIGHTS if fit.effective_sample_size < 10 else RatioOutcome.OVERLAPPING


class Reliability(NamedTuple):
    r"""Held-out probabilities :math:`\sigma(r)` in ten bins of equal width, both classes weighing the same.

    Attributes
    ----------
    predicted, observed
        Mean of :math:`\sigma(r)` in each bin, and the share of p among its draws; NaN in an empty bin.
    weight
        The share of all draws that are in the bin.
    """

    predicted: jax.Array
    observed: jax.Array
    weight: jax.Array


class RatioFit(NamedTuple):
    r"""An estimate of :math:`\log p/q`, and what is known of its errors. It may pass through jit and vmap.

    Attributes
    ----------
    r
        ``r(x)``: estimated :math:`\log p/q` in nats, for x with a leading axis; the network's output itself
        if the loss has no log ratio (hinge).
    loss
        Held-out D, see :data:`himlib.losses.LOSSES`.
    accuracy
        Held-out share of draws on the right side of r = 0, both classes weighing the same.
    calibration_error
        Held-out mean distance of the bins of ``reliability`` from the diagonal.
    reliability
        Those bins, a :class:`Reliability`.
    kl
        Held-out mean of r over p, the plug-in estimate of :math:`KL(p \| q)` in nats.
    effective_sample_size
        :math:`(\sum_i w_i)^2 / \sum_i w_i^2` of the weights :math:`w_i = e^{r(x_i)}` on all draws of q.
    saturated
        Whether a cut somewhere along r tells more than 98 % of all draws apart. (An optimizer that stops
        early may leave r = 0 in the wrong place, and hide it from the accuracy.)
    is_ratio
        Whether the loss has a log ratio.
    rmse_p, rmse_q
        Root mean square error of r in nats over all draws of p, and of q, if the true one was given.
    """

    r: Partial
    loss: jax.Array
    accuracy: jax.Array
    calibration_error: jax.Array
    reliability: Reliability
    kl: jax.Array
    effective_sample_size: jax.Array
    saturated: jax.Array
    is_ratio: jax.Array
    rmse_p: jax.Array | None = None
    rmse_q: jax.Array | None = None

    @property
    def outcome(self) -> RatioOutcome:
        """The verdict on one fit, not on a batch of them; its value is advice in words."""
        return judge(self)
