"""Ratios for labels: log Pr(label) of an implicit classifier, read off the logits at a few fixed noises."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax.nn import leaky_relu, log_sigmoid
from jax.scipy.special import logsumexp, ndtri

from himlib.networks import MLP, Network, check_hidden, pure

__all__ = ["count_ratio", "margin_ratio", "margins", "noise_points", "subtract_baseline"]

NUMBERS = ("log_slope", "inner_offset", "outer_offset")


@partial(jax.jit, static_argnums=(0, 1))
def noise_points(size: int, dimension: int, shift: jax.Array | float = 0.5) -> jax.Array:
    r"""Spread points evenly under a standard normal, one row for each.

    .. math:: \epsilon_a = \Phi^{-1}(u_a), \qquad
              u_{a0} = \frac{a + s_0}{A}, \quad
              u_{aj} = (a \, \varphi^{-j} + s_j) \bmod 1 \quad (j \ge 1),

    where :math:`\varphi^d = \varphi + 1` in d dimensions: a Kronecker sequence.

    Parameters
    ----------
    size
        A, the number of points.
    dimension
        d, the number of coordinates, which may be zero.
    shift
        s in (0, 1), one for each coordinate, or one for all. A uniform one gives each point exactly the
        standard normal distribution.

    Returns
    -------
    jax.Array
        Shape (size, dimension).

    Examples
    --------
    >>> [round(float(point), 2) for point in noise_points(3, 1)[:, 0]]
    [-0.97, 0.0, 0.97]
    >>> noise_points(8, 2).shape
    (8, 2)
    """
    root = 2.0
    for _ in range(40):  # a fixed point, reached to a rounding
        root = (1 + root) ** (1 / max(dimension, 1))
    index, shift = jnp.arange(size)[:, None], jnp.broadcast_to(shift, (dimension,))
    rest = (index * jnp.asarray([root**-j for j in range(1, dimension)]) + shift[1:]) % 1
    points = jnp.concatenate([(index + shift[:1]) / size, rest], axis=1)
    return ndtri(jnp.clip(points, 1e-7, 1 - 1e-7))


def margins(logits: jax.Array) -> jax.Array:
    r"""By how much each label leads: :math:`g_y - \log \sum_{k \ne y} e^{g_k}` along the last axis.

    Its sigmoid is the softmax.

    Parameters
    ----------
    logits
        Shape (..., K), in nats.

    Returns
    -------
    jax.Array
        Shape (..., K), in nats.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> print(margins(jnp.array([2.0, -1.0])))
    [ 3. -3.]
    """
    itself = jnp.eye(logits.shape[-1], dtype=bool)
    return logits - logsumexp(jnp.where(itself, -jnp.inf, logits[..., None, :]), axis=-1)


def count_ratio(learned: bool = True) -> Network:
    r"""Count the anchors at which a label wins, smoothly:

    .. math:: r(y, c, \beta) = \log \Big[\frac1A \sum_a \sigma(s\, m_{ay} + b)\Big] + \log K + t.

    Only the slope s > 0 and the offsets b and t are learned. r never falls as a label's margin grows.

    Parameters
    ----------
    learned
        If False, s = 1 and b = t = 0 stay. Then r is the log of a softmax averaged over the anchors, plus
        log K: the exact ratio if labels are drawn from that softmax.

    Returns
    -------
    Network
        ``apply(params, margins, covariate)`` takes margins of shape (A, K) and gives K ratios.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> logits = jnp.array([[1.0, 0.0, 2.0]])
    >>> r = count_ratio(learned=False).apply({}, margins(logits), None)
    >>> bool(jnp.allclose(r, jax.nn.log_softmax(logits[0]) + jnp.log(3)))
    True
    """

    def init(key, margin, covariate):
        return {name: jnp.zeros((), margin.dtype) for name in NUMBERS if learned}

    def apply(params, margin, covariate):
        log_slope, inner, outer = (params.get(name, 0.0) for name in NUMBERS)
        votes = log_sigmoid(jnp.exp(log_slope) * margin + inner)
        anchors, classes = margin.shape
        return logsumexp(votes, axis=0) + jnp.log(classes / anchors) + outer

    return Network(init, apply)


def margin_ratio(hidden: Sequence[int] = (32, 32)) -> Network:
    r"""Leave it to a network of a label's A margins, each squashed to :math:`m / (1 + |m| / 8)`.

    It can fit Pr(label) well and yet slope the wrong way, which is all that the weights learn from:
    compare :func:`count_ratio`.

    Parameters
    ----------
    hidden
        Widths of the hidden layers.

    Returns
    -------
    Network
        ``init(key, margins, covariates)`` for margins (N, A, K) of example rows; ``apply(params, margins,
        covariate)`` for one row, whose margins are (A, K): r of each label, shape (K,).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> ratio = margin_ratio()
    >>> params = ratio.init(jax.random.key(0), jnp.zeros((5, 8, 3)), jnp.zeros((5, 2)))
    >>> ratio.apply(params, jnp.zeros((8, 3)), jnp.zeros(2)).shape
    (3,)
    """
    check_hidden(hidden)
    network = pure(lambda rngs, margin: MLP((margin.shape[-1], *hidden, 1), rngs=rngs, activation=leaky_relu))

    def apply(params, margin, covariate):
        squashed = (margin / (1 + jnp.abs(margin) / 8)).T
        return jax.vmap(network.apply, (None, 0))(params, squashed)[:, 0]

    return Network(lambda key, margin, covariate: network.init(key, margin[:, :, 0]), apply)


class _Baseline(MLP):
    """Of the covariate alone; the margins only tell the number of labels."""

    def __call__(self, margin, covariate):  # type: ignore[override]
        return super().__call__(covariate)


def subtract_baseline(ratio: Network, hidden: Sequence[int] = (32,)) -> Network:
    r"""Let a ratio carry a part without weights, :math:`r(y, c, \beta) = a(y, c, \beta) - b_y(c)`.

    Needed where the reference is the empirical distribution of the labels: b then learns
    :math:`\log (K q(y \mid c))`. It has no part in the gradient of the weights.

    Parameters
    ----------
    ratio
        a, such as :func:`count_ratio`.
    hidden
        Widths of the hidden layers of b.

    Returns
    -------
    Network
        With the inputs and outputs of ``ratio``.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> ratio = subtract_baseline(count_ratio())
    >>> params = ratio.init(jax.random.key(0), jnp.zeros((5, 8, 3)), jnp.zeros((5, 2)))
    >>> sorted(params)
    ['baseline', 'ratio']
    """
    check_hidden(hidden)

    baseline = pure(
        lambda rngs, margin, covariate: _Baseline((covariate.shape[-1], *hidden, margin.shape[-1]), rngs=rngs)
    )

    def init(key, margin, covariate):
        k_ratio, k_baseline = jax.random.split(key)
        return {
            "ratio": ratio.init(k_ratio, margin, covariate),
            "baseline": baseline.init(k_baseline, margin, covariate),
        }

    def apply(params, margin, covariate):
        b = baseline.apply(params["baseline"], margin, covariate)
        return ratio.apply(params["ratio"], margin, covariate) - b

    return Network(init, apply)
