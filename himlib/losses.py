r"""Losses whose minimizer tells a log density ratio, element by element.

With r evaluated on samples of p and of q, a loss is a pair of functions, averaged by the caller:

.. math:: D = E_p[\ell_p(r)] + E_q[\ell_q(r)].
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.nn import relu, softplus

__all__ = ["LOSSES", "RatioLoss", "get_loss"]


class RatioLoss(NamedTuple):
    r"""A loss for estimating :math:`r^* = \log p/q` from samples of p and of q.

    Attributes
    ----------
    name
        The name in :data:`LOSSES`.
    on_p, on_q
        :math:`\ell_p(r)` and :math:`\ell_q(r)`: element-wise and unreduced.
    optimum
        The network output that minimizes the population loss, as a function of the true
        :math:`\log p/q`.
    is_ratio
        Whether that optimum is the log ratio itself. If not, an ELBO built on r has no calibrated scale.

    Examples
    --------
    >>> loss = get_loss("log")
    >>> print(f"{loss.on_p(0.0) + loss.on_q(0.0):.4f}")  # 2 log 2: the classifier knows nothing
    1.3863
    """

    name: str
    on_p: Callable[[jax.Array], jax.Array]
    on_q: Callable[[jax.Array], jax.Array]
    optimum: Callable[[jax.Array], jax.Array]
    is_ratio: bool


#: The losses by name.
#:
#: ``log``
#:     :math:`E_p[-\log\sigma(r)] + E_q[-\log(1 - \sigma(r))]`, equation 5 of the paper; optimum
#:     :math:`\log p/q`, value :math:`2 \log 2 - 2\,JS(p, q)` nats.
#: ``hinge``
#:     :math:`E_p[\max(0, 1 - r)] + E_q[\max(0, 1 + r)]`, appendix D; optimum
#:     :math:`\operatorname{sign} \log p/q`, which is NOT the log ratio, whatever the appendix says.
LOSSES = {
    loss.name: loss
    for loss in (
        RatioLoss("log", lambda r: softplus(-r), softplus, lambda log_ratio: log_ratio, True),
        RatioLoss("hinge", lambda r: relu(1 - r), lambda r: relu(1 + r), jax.numpy.sign, False),
    )
}


def get_loss(loss: str | RatioLoss) -> RatioLoss:
    """Look a loss up by name, or pass one of your own through.

    Raises
    ------
    ValueError
        If no loss has this name.

    Examples
    --------
    >>> get_loss("hinge").is_ratio
    False
    """
    if isinstance(loss, RatioLoss):
        return loss
    if not isinstance(loss, str) or loss not in LOSSES:
        raise ValueError(f"loss: expected one of {sorted(LOSSES)} or a RatioLoss, got {loss!r}.")
    return LOSSES[loss]
