"""Fit a log ratio to two samples, by a network or by features in which it is linear."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from himlib._checks import check_counts, check_samples
from himlib.losses import RatioLoss, get_loss
from himlib.networks import Network, ratio_network, standardization
from himlib.random import check_key
from himlib.ratio._fitting import (
    bin_probabilities,
    check_features,
    correct,
    effective_sample_size,
    errors,
    fit_features,
    fit_network,
    held_out,
    separation,
)
from himlib.ratio.results import RatioFit, Reliability

__all__ = ["classifier", "fit_ratio", "quadratic"]


def quadratic(x: jax.Array) -> jax.Array:
    r"""List all :math:`x_i` and :math:`x_i x_j, i \le j`: in these the log ratio of two normals is linear.

    Parameters
    ----------
    x
        One draw, of any shape, with d entries.

    Returns
    -------
    jax.Array
        Shape (d + d (d + 1) / 2,).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> print(quadratic(jnp.array([2.0, 3.0])))
    [2. 3. 4. 6. 9.]
    """
    x = jnp.ravel(x)
    return jnp.concatenate([x, jnp.outer(x, x)[np.triu_indices(x.size)]])


def classifier(
    hidden: Sequence[int] = (32,), *, quadratic: bool = True, activation: Callable = jax.nn.squareplus
) -> Network:
    """Make a network of one x: :func:`himlib.networks.ratio_network` for x alone.

    Make it once for many fits: each new network is compiled anew.

    Parameters
    ----------
    hidden, quadratic, activation
        As in :func:`himlib.networks.ratio_network`.

    Returns
    -------
    Network
        ``init(key, x)`` of an example batch, and ``apply(params, x)`` of one x: a scalar, in nats.

    Examples
    --------
    >>> import jax
    >>> network = classifier()
    >>> params = network.init(jax.random.key(0), jax.numpy.ones((5, 3)))
    >>> network.apply(params, jax.numpy.ones(3)).shape
    ()
    """
    network = ratio_network(hidden=hidden, quadratic=quadratic, activation=activation)
    nothing = (None,) * 4
    return Network(
        init=lambda key, x: network.init(key, x, *nothing),
        apply=lambda params, x: network.apply(params, x, *nothing),
    )


@partial(jax.jit, static_argnames=("network", "loss", "steps", "batch_size"))
def estimate(key, p, q, network, loss, steps, batch_size, learning_rate) -> tuple[RatioFit, jax.Array]:
    """Fit, and tell the share of draws whose features are not finite."""
    middle, scale = standardization(jnp.concatenate([p, q]))
    if network is not quadratic and not isinstance(network, Network):
        middle, scale = jnp.zeros_like(middle), jnp.ones_like(scale)
    u_p, u_q = ((x - middle) / scale for x in (p, q))
    if isinstance(network, Network):
        apply, final = fit_network(key, network, loss, (u_p, u_q), steps, batch_size, learning_rate)
        first, lost = final, jnp.zeros(())
    else:
        apply, first, final, lost = fit_features(network, loss, (u_p, u_q), steps)
    log_ratio_of = loss.log_ratio or (lambda output: output)

    @jax.jit
    def r(params, x):
        middle, scale, offset, params = params
        with jax.default_matmul_precision("float32"):
            return log_ratio_of(jax.vmap(apply, (None, 0))(params, (x - middle) / scale)) - offset

    final_p, final_q = (r((middle, scale, 0.0, final), x) for x in (p, q))
    outputs_p, outputs_q = (jax.vmap(apply, (None, 0))(first, u) for u in (u_p, u_q))
    out_p, out_q = held_out(len(p)), held_out(len(q))
    offset = loss.offset(log_ratio_of(outputs_q[~out_q]))
    r_p, r_q = log_ratio_of(outputs_p) - offset, log_ratio_of(outputs_q) - offset
    bins = Reliability(*bin_probabilities(r_p[out_p], r_q[out_q]))
    gaps = jnp.where(bins.weight > 0, bins.weight * jnp.abs(bins.predicted - bins.observed), 0.0)
    fit = RatioFit(
        r=Partial(r, (middle, scale, loss.offset(final_q), final)),
        loss=loss(outputs_p[out_p], outputs_q[out_q]),
        accuracy=correct(r_p[out_p], r_q[out_q]),
        calibration_error=gaps.sum(),
        reliability=bins,
        kl=r_p[out_p].mean(),
        effective_sample_size=effective_sample_size(final_q),
        saturated=separation(final_p, final_q) > 0.98,
        is_ratio=jnp.asarray(loss.is_ratio),
    )
    return fit, lost


def fit_ratio(
    key: jax.Array,
    p: jax.Array,
    q: jax.Array,
    network: Network | Callable = quadratic,
    *,
    loss: str | RatioLoss = "log",
    steps: int = 2000,
    batch_size: int = 256,
    learning_rate: float = 1e-2,
    log_ratio: Callable | None = None,
) -> RatioFit:
    r"""Estimate :math:`\log p/q` from draws of p and draws of q.

    .. math:: \min_r \; \frac1n \sum_{i=1}^n \ell_p(r(x_i)) + \frac1m \sum_{j=1}^m \ell_q(r(x'_j)),
              \qquad x_i \sim p, \; x'_j \sim q.

    Every fifth draw is held out, for the report. A network, and :func:`quadratic`, see x standardized by the
    moments of all draws; other features see it as it is.

    Parameters
    ----------
    key
        A typed key, for a network's first weights and its minibatches.
    p, q
        Draws along the leading axis; there may be more of one than of the other.
    network
        A :class:`~himlib.networks.Network` of one x, such as :func:`classifier`. It is trained by Adam
        on four fifths of the draws; the parameters that are best on the rest are kept. Or a function
        that makes a vector of features of one x, such as :func:`quadratic`. Then r is linear in them
        and an intercept, the problem is convex, and Newton's method solves it on all draws (with more than a
        hundred features, from where L-BFGS comes to), without a penalty (and on four fifths, for the report
        alone). If features tell all draws apart by a nat, no finite r is best: the fit is saturated, and the
        size of its r means nothing.
    loss
        A name in :data:`himlib.losses.LOSSES` or a :class:`~himlib.losses.RatioLoss`.
    steps
        Steps of Adam, or the most that L-BFGS and Newton's method may take, each.
    batch_size
        Draws of each class in a minibatch of a network.
    learning_rate
        The first one of Adam for a network; it falls to a hundredth along a cosine.
    log_ratio
        The true one where it is known, ``log_ratio(x)`` for x with a leading axis.

    Returns
    -------
    RatioFit
        The log ratio as a function, ``r(x)`` for x with a leading axis, in nats; what held-out draws say of
        it; and in ``outcome`` how far to trust it.

    Raises
    ------
    TypeError, ValueError
        If a key is old-style, a loss unknown, a number out of range; if samples are too small, of
        different shapes or types, not finite, or without spread; if features are not finite.

    Examples
    --------
    >>> import jax
    >>> k_p, k_q, k_fit = jax.random.split(jax.random.key(0), 3)
    >>> p, q = 1 + jax.random.normal(k_p, (1000, 2)), jax.random.normal(k_q, (500, 2))
    >>> fit = fit_ratio(k_fit, p, q, log_ratio=lambda x: x.sum(axis=1) - 1)
    >>> print(f"{fit.kl:.1f} nats; exact: 1.0")
    1.0 nats; exact: 1.0
    >>> fit.outcome.name, bool(fit.rmse_p < 0.3), fit.r(p).shape
    ('OVERLAPPING', True, (1000,))
    """
    check_key(key)
    check_samples(p, q)
    p, q = jnp.asarray(p), jnp.asarray(q)
    if not callable(network) and not isinstance(network, Network):
        raise TypeError(f"network: expected a Network or a function of one x, got {type(network).__name__}.")
    check_counts(steps=steps, batch_size=batch_size)
    if not learning_rate > 0:
        raise ValueError(f"learning_rate: expected a positive number, got {learning_rate!r}.")
    with jax.default_matmul_precision("float32"):  # on some GPUs the default has three digits
        fit, lost = estimate(key, p, q, network, get_loss(loss), steps, batch_size, learning_rate)
    check_features(lost)
    return fit._replace(**errors(fit.r, p, q, log_ratio))
