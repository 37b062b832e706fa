r"""Estimate a log density ratio from two samples, and tell how far to trust it.

A function r is trained to tell draws of p from draws of q. Its minimizer tells :math:`\log p/q`
(Sugiyama, Suzuki and Kanamori 2012); where the two are far apart, a sum of smaller log ratios does better.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from himlib.checks import check_counts, check_samples
from himlib.losses import RatioLoss, get_loss
from himlib.networks import Network, ratio_network, standardization
from himlib.random import check_key
from himlib.ratio_training import (
    bin_probabilities,
    check_features,
    correct,
    effective_sample_size,
    errors,
    fit_features,
    fit_network,
    held_out,
    separation,
    total,
)  # fmt: skip

__all__ = [
    "RatioFit", "RatioOutcome", "Reliability", "Telescope",
    "classifier", "fit_ratio", "quadratic", "telescope",
]  # fmt: skip


class RatioOutcome(Enum):
    """How far an estimate can be trusted; the value is advice in words.

    Examples
    --------
    >>> RatioOutcome.SATURATED.name
    'SATURATED'
    """

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
    """The verdict on one fit, not on a batch of them; its value is advice in words."""
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

    Examples
    --------
    >>> Reliability._fields
    ('predicted', 'observed', 'weight')
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

    Examples
    --------
    >>> RatioFit._fields[:3]
    ('r', 'loss', 'accuracy')
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

    outcome = property(judge)


class Telescope(NamedTuple):
    r"""A log ratio as the sum of those between neighbors on a path from p to q.

    Attributes
    ----------
    r
        ``r(x)``: estimated :math:`\log p/q` in nats, the sum over the bridges.
    bridges
        A :class:`RatioFit` for each pair of neighbors, from p to q.
    kl
        Mean of r over all draws of p.
    effective_sample_size, saturated, is_ratio, rmse_p, rmse_q
        As in :class:`RatioFit`; saturated if any bridge is.

    Examples
    --------
    >>> Telescope._fields[:2]
    ('r', 'bridges')
    """

    r: Partial
    bridges: tuple[RatioFit, ...]
    kl: jax.Array
    effective_sample_size: jax.Array
    saturated: jax.Array
    is_ratio: jax.Array
    rmse_p: jax.Array | None = None
    rmse_q: jax.Array | None = None

    outcome = property(judge)


def quadratic(x: jax.Array) -> jax.Array:
    r"""List all :math:`x_i` and :math:`x_i x_j, i \le j`: in these the log ratio of two normals is linear.

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
    """Make a network of one x: :func:`himlib.networks.ratio_network`, with its options, for x alone.

    Make it once for many fits: each new network is compiled anew.

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
        and an intercept, the problem is convex, and L-BFGS and Newton's method solve it on all draws,
        without a penalty (and on four fifths, for the report alone). If features tell all draws apart, no
        finite r is best: the fit is saturated, and the size of its r means nothing.
    loss
        A name in :data:`himlib.losses.LOSSES` or a :class:`~himlib.losses.RatioLoss`.
    steps
        Steps of Adam, or the most that L-BFGS and Newton's method may take together.
    batch_size
        Draws of each class in a minibatch of a network.
    learning_rate
        The first one of Adam for a network; it falls to a hundredth along a cosine.
    log_ratio
        The true one where it is known, ``log_ratio(x)`` for x with a leading axis.

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


def telescope(
    key: jax.Array,
    p: jax.Array,
    q: jax.Array,
    network: Network | Callable = quadratic,
    *,
    bridges: int = 4,
    log_ratio: Callable | None = None,
    **options,
) -> Telescope:
    r"""Estimate :math:`\log p/q` as a sum over bridges between waymarks (Rhodes, Xu and Gutmann 2020).

    .. math:: x_k = \sqrt{1 - a_k^2}\, x_0 + a_k x_K, \quad x_0 \sim p, \; x_K \sim q, \qquad
              \log \frac{p}{q} = \sum_{k=0}^{K-1} \log \frac{p_k}{p_{k+1}},

    in which x is less the mean of all draws. With :math:`v` the ratio of the variances of q and p, each a sum
    over the coordinates in units of their pooled standard deviations,

    .. math:: a_k^2 = \frac{v^{k/K} - 1}{v - 1}, \quad \text{or } k/K \text{ if } v = 1,

    so that the variances along the path go by equal factors.

    Parameters
    ----------
    key, p, q, network, log_ratio
        As for :func:`fit_ratio`.
    bridges
        Their number K; 1 is :func:`fit_ratio` itself.
    options
        Passed on to :func:`fit_ratio` for each bridge.

    Raises
    ------
    TypeError, ValueError
        As :func:`fit_ratio` does.

    Examples
    --------
    >>> import jax
    >>> k_p, k_q, k_fit = jax.random.split(jax.random.key(0), 3)
    >>> p, q = 1e-3 * jax.random.normal(k_p, (2000,)), jax.random.normal(k_q, (2000,))
    >>> print(f"{telescope(k_fit, p, q).kl:.1f} nats; exact: 6.4")
    6.4 nats; exact: 6.4
    """
    check_samples(p, q)
    p, q = jnp.asarray(p), jnp.asarray(q)
    check_counts(bridges=bridges)
    k_pairs, *keys = jax.random.split(check_key(key), bridges + 1)
    middle, scale = standardization(jnp.concatenate([p, q]))
    size = min(len(p), len(q))
    first = (p[:size] - middle) / scale
    last = (jax.random.permutation(k_pairs, q)[:size] - middle) / scale
    v = last.var(0).sum() / first.var(0).sum()
    even = jnp.abs(v - 1) < 1e-3
    path = [p]
    for share in np.arange(1, bridges) / bridges:  # a^2 and 1 - a^2 apart, for one of them may be tiny
        forth = jnp.where(even, share, (v**share - 1) / jnp.where(even, 1.0, v - 1))
        back = jnp.where(even, 1 - share, (v - v**share) / jnp.where(even, 1.0, v - 1))
        path.append(middle + scale * (jnp.sqrt(back) * first + jnp.sqrt(forth) * last))
    pairs = pairwise([*path, q])
    fits = tuple(fit_ratio(k, *pair, network, **options) for k, pair in zip(keys, pairs, strict=True))
    r = Partial(total, [fit.r for fit in fits])
    return Telescope(
        r=r,
        bridges=fits,
        kl=r(p).mean(),
        effective_sample_size=effective_sample_size(r(q)),
        saturated=jnp.stack([fit.saturated for fit in fits]).any(0),
        is_ratio=fits[0].is_ratio,
        **errors(r, p, q, log_ratio),
    )
