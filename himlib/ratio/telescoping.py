"""A log ratio as a sum of smaller ones, over bridges between waymarks."""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from himlib._checks import check_counts, check_samples
from himlib.networks import Network, standardization
from himlib.random import check_key
from himlib.ratio._fitting import effective_sample_size, errors, total
from himlib.ratio.fit import fit_ratio, quadratic
from himlib.ratio.results import RatioFit, RatioOutcome, judge

__all__ = ["Telescope", "telescope"]


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
    """

    r: Partial
    bridges: tuple[RatioFit, ...]
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

    Returns
    -------
    Telescope
        The log ratio as a function, ``r(x)`` for x with a leading axis, in nats; the fit of each bridge; and
        in ``outcome`` how far to trust their sum.

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
