r"""Losses whose minimizer tells a log density ratio, element by element.

With r evaluated on samples of p and of q, a loss is a pair of functions and a way to average them:

.. math:: D(r) = E_p[\ell_p(r)] + E_q[\ell_q(r)].
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import relu, softplus
from jax.scipy.special import logsumexp

__all__ = ["LOSSES", "RatioLoss", "get_loss", "softmax_losses"]


def linear_exp(r: jax.Array) -> jax.Array:
    """Exponentiate up to 30, and go on as a straight line: still convex, and a slope that stays finite."""
    return jnp.exp(jnp.minimum(r, 30.0)) * (1 + jnp.maximum(r - 30.0, 0.0))


def log_mean_exp(r: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """Take the logarithm of the mean of exp(r) over all entries, or over those chosen."""
    count = r.size if where is None else jnp.sum(where)
    return logsumexp(r, where=where) - jnp.log(count)


def identity(r: jax.Array) -> jax.Array:
    return r


class RatioLoss(NamedTuple):
    r"""A loss for estimating :math:`\log p/q` from samples of p and of q.

    Called with the network's outputs on a sample of p and on one of q, it gives D.

    Attributes
    ----------
    name
        The name in :data:`LOSSES`.
    on_p, on_q
        :math:`\ell_p(r)` and :math:`\ell_q(r)`: element-wise and unreduced, of the shape of r.
    optimum
        The network output that minimizes the population loss, as a function of the true
        :math:`\log p/q`, in nats; element-wise. Of the algorithms,
        :func:`~himlib.classification.bayesian_classifier` alone needs it; None, for others, if it is unknown.
    log_ratio
        What to make of an output to get the log ratio, in nats and element-wise; None if there is no way. An
        ELBO built on such an r has no calibrated scale.
    mean_q
        How the values of ``on_q`` become one number, of shape (): :func:`jax.numpy.mean`, or a function of
        the same arguments, ``mean_q(values, where=...)``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> loss = get_loss("log")
    >>> print(f"{loss(jnp.zeros(3), jnp.zeros(5)):.4f}")  # 2 log 2: the classifier knows nothing
    1.3863

    One of your own goes wherever a loss is asked for; here Jeffreys' divergence, the sum of two of ours:

    >>> own = RatioLoss("jeffreys", on_p=lambda r: jnp.exp(-r) - r, on_q=lambda r: jnp.exp(r) + r,
    ...     optimum=lambda log_ratio: log_ratio, log_ratio=lambda r: r)
    >>> float(own(jnp.zeros(3), jnp.zeros(5)))
    2.0
    """

    name: str
    on_p: Callable[[jax.Array], jax.Array]
    on_q: Callable[[jax.Array], jax.Array]
    optimum: Callable[[jax.Array], jax.Array] | None
    log_ratio: Callable[[jax.Array], jax.Array] | None
    mean_q: Callable[..., jax.Array] = jnp.mean

    def __call__(self, r_p: jax.Array, r_q: jax.Array) -> jax.Array:
        return jnp.mean(self.on_p(r_p)) + self.mean_q(self.on_q(r_q))

    @property
    def is_ratio(self) -> bool:
        """Whether the log ratio can be read off the output."""
        return self.log_ratio is not None

    def offset(self, r_q: jax.Array, where: jax.Array | None = None) -> jax.Array | float:
        r"""Tell the constant that is to be subtracted from the log ratio.

        It is zero unless D is the same for r and r + c, as with Donsker and Varadhan's. Then it is
        :math:`\log E_q[e^r]`, so that the ratio has mean one under q.

        Parameters
        ----------
        r_q
            Outputs at draws of q, shape (n,).
        where
            Which of them count, shape (n,); None for all.

        Returns
        -------
        jax.Array or float
            A number, in nats.
        """
        return log_mean_exp(r_q, where) if self.mean_q is log_mean_exp else 0.0


#: The losses by name, each with its optimum r and its value there (in nats where it is a KL or JS).
#:
#: ``log``
#:     :math:`E_p[-\log\sigma(r)] + E_q[-\log(1 - \sigma(r))]`, equation 5 of the paper; optimum
#:     :math:`\log p/q`, value :math:`2 \log 2 - 2\,JS(p, q)`.
#: ``exponential``
#:     :math:`E_p[e^{-r/2}] + E_q[e^{r/2}]`; optimum :math:`\log p/q`, value :math:`2 \int \sqrt{p q}`,
#:     which is :math:`2 - 2 H^2` with the squared Hellinger distance.
#: ``kl``
#:     :math:`E_p[-r] + E_q[e^r]` (Nguyen, Wainwright and Jordan 2010); optimum :math:`\log p/q`, value
#:     :math:`1 - KL(p \| q)`.
#: ``donsker_varadhan``
#:     :math:`E_p[-r] + \log E_q[e^r]`, which is also what KLIEP minimizes; optimum
#:     :math:`\log p/q + c` with any constant c, value :math:`-KL(p \| q)`.
#: ``reverse_kl``
#:     :math:`E_p[e^{-r}] + E_q[r]`; optimum :math:`\log p/q`, value :math:`1 - KL(q \| p)`.
#: ``least_squares``
#:     :math:`E_p[-w] + E_q[w^2/2]`, known as LSIF, of an output w; optimum :math:`w = p/q`, value
#:     :math:`-(1 + \chi^2(p \| q)) / 2`. The log ratio is :math:`\log w`, with w at least 1e-4. (With
#:     :math:`w = e^r` its gradient explodes.) For two samples, not for LFVI: a network starts at w = 0,
#:     on the floor, where the log ratio has no slope for q to climb.
#: ``hinge``
#:     :math:`E_p[\max(0, 1 - r)] + E_q[\max(0, 1 + r)]`, appendix D of the paper; optimum
#:     :math:`\operatorname{sign} \log p/q`, value :math:`2 - 2\,TV(p, q)`. That is NOT the log ratio,
#:     whatever the appendix says.
#:
#: Every :math:`e^r` goes on as a straight line above r = 30.
#:
#: Of another kind is the softmax among all pairs of a batch, :func:`softmax_losses`, which
#: :func:`~himlib.few_simulations.fit_rounds` takes: n simulations give it n(n - 1) pairs to tell apart.
LOSSES = {
    loss.name: loss
    for loss in (
        RatioLoss("log", lambda r: softplus(-r), softplus, identity, identity),
        RatioLoss(
            "exponential", lambda r: linear_exp(-r / 2), lambda r: linear_exp(r / 2), identity, identity
        ),
        RatioLoss("kl", jnp.negative, linear_exp, identity, identity),
        RatioLoss("donsker_varadhan", jnp.negative, identity, identity, identity, log_mean_exp),
        RatioLoss("reverse_kl", lambda r: linear_exp(-r), identity, identity, identity),
        RatioLoss(
            "least_squares",
            jnp.negative,
            lambda w: w**2 / 2,
            jnp.exp,
            lambda w: jnp.log(jnp.maximum(w, 1e-4)),
        ),
        RatioLoss("hinge", lambda r: relu(1 - r), lambda r: relu(1 + r), jnp.sign, None),
    )
}


def softmax_losses(r: jax.Array) -> jax.Array:
    r"""Tell by how many nats each x misses its own beta among all of a batch.

    .. math:: \ell_i = -r(x_i, \beta_i) + \log \sum_{j=1}^n e^{r(x_i, \beta_j)}

    (NRE-B; Durkan, Murray and Papamakarios 2020). The optimum is
    :math:`\log p(x \mid \beta) / p(x) + c(x)` with any function c, which does not matter at one x; its value
    is at least :math:`\log n - I(x, \beta)`, and is log n where r knows nothing.

    Parameters
    ----------
    r
        The log ratios of all pairs, :math:`r_{ij} = r(x_i, \beta_j)`, of shape (..., n, n).

    Returns
    -------
    jax.Array
        Nats, of shape (..., n).

    Examples
    --------
    >>> print(softmax_losses(jnp.zeros((2, 4, 4)))[0])  # log 4: it knows nothing
    [1.3862944 1.3862944 1.3862944 1.3862944]
    """
    return logsumexp(r, axis=-1) - jnp.diagonal(r, axis1=-2, axis2=-1)


def check_loss(loss: RatioLoss) -> None:
    """Refuse a loss of one's own with a part that is no function, or not element-wise.

    Examples
    --------
    >>> check_loss(LOSSES["log"]._replace(on_p=lambda r: softplus(-r).mean()))
    Traceback (most recent call last):
    ValueError: loss: expected on_p to be element-wise, of shape (3,) for r of shape (3,), got ().
    """
    parts = loss._asdict()
    for part in ("on_p", "on_q", "optimum", "log_ratio", "mean_q"):
        function = parts[part]
        if part in ("optimum", "log_ratio") and function is None:
            continue
        if not callable(function):
            raise TypeError(f"loss: expected {part} to be a function, got {type(function).__name__}.")
        if part == "mean_q":
            continue
        shape = jnp.shape(jax.eval_shape(function, jnp.zeros(3)))
        if shape != (3,):
            raise ValueError(
                f"loss: expected {part} to be element-wise, of shape (3,) for r of shape (3,), got {shape}."
            )


def get_loss(loss: str | RatioLoss) -> RatioLoss:
    """Look a loss up by name, or pass one of your own through.

    Parameters
    ----------
    loss
        A name in :data:`LOSSES`, or a loss.

    Returns
    -------
    RatioLoss
        That of the name, or ``loss`` itself.

    Raises
    ------
    TypeError
        If a part of one's own loss is no function.
    ValueError
        If no loss has this name, or one's own is not element-wise.

    Examples
    --------
    >>> get_loss("hinge").is_ratio
    False
    """
    if isinstance(loss, RatioLoss):
        check_loss(loss)
        return loss
    if not isinstance(loss, str) or loss not in LOSSES:
        raise ValueError(f"loss: expected one of {sorted(LOSSES)} or a RatioLoss, got {loss!r}.")
    return LOSSES[loss]
