"""Flax networks, turned into pure functions in one place."""

from collections.abc import Callable, MutableSequence, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.flatten_util import ravel_pytree

from himlib.random import check_key, normal

__all__ = [
    "MLP",
    "Network",
    "NoisyDense",
    "Standardize",
    "StochasticCell",
    "pure",
    "ratio_network",
    "separable_ratio",
    "straight_through",
]


class Network(NamedTuple):
    """A network as two pure functions, which need not be flax's.

    Attributes
    ----------
    init
        ``init(key, *batch) -> params``; ``batch`` are example inputs with a leading batch axis. The
        parameters are a pytree of floating-point arrays, of whatever shapes.
    apply
        ``apply(params, *inputs) -> output`` for ONE datum, to be lifted by vmap.
    pairs
        For a log ratio that has a quick way to it: r of each of n rows of x, z and covariate with each of m
        rows of beta, of shape (n, m). Its inputs are those of ``apply``, with a leading axis but for the
        center. Or None.

    Notes
    -----
    A ratio network takes ``(x, z, beta, covariate, center)`` and gives one number, of shape ().
    ``apply`` gets x and covariate in the shapes and units of a row of :class:`~himlib.base.Data`, z in those
    of the simulator, beta and the center of its proposal in those of the prior, as a dict where the prior is
    one; ``init`` gets each with a leading axis of rows. z or covariate are None where there are none. For
    :func:`~himlib.adversarial.joint_matching`, beta and center are None; :mod:`himlib.classification` and
    :mod:`himlib.ratio` have inputs of their own.

    Examples
    --------
    >>> network = Network(init=lambda key, x: {}, apply=lambda params, x: 2 * x)
    >>> network.apply({}, 3)
    6

    A log ratio that is quadratic in x and beta, without a layer:

    >>> def init(key, x, z, beta, covariate, center):
    ...     return jnp.zeros((3, 3))
    >>> def apply(params, x, z, beta, covariate, center):
    ...     features = jnp.stack([jnp.ones(()), x, beta])
    ...     return features @ params @ features
    >>> ratio = Network(init, apply)
    >>> rows = jnp.linspace(-1, 1, 5)
    >>> params = ratio.init(jax.random.key(0), rows, None, rows, None, rows)
    >>> ratio.apply(params, rows[0], None, rows[0], None, rows[0]).shape
    ()
    """

    init: Callable
    apply: Callable
    pairs: Callable | None = None


def pure(build: Callable) -> Network:
    """Turn a flax module into a pair of pure functions.

    Parameters
    ----------
    build
        ``build(rngs, *batch) -> nnx.Module``, given example inputs with a leading batch axis. The
        module is called on the inputs of one datum.

    Returns
    -------
    Network
        ``init(key, *batch)`` gives the parameters, a tree of arrays; ``apply(params, *inputs)`` calls the
        module.

    Examples
    --------
    >>> import jax
    >>> from flax import nnx
    >>> network = pure(lambda rngs, x: nnx.Linear(x.shape[-1], 2, rngs=rngs))
    >>> params = network.init(jax.random.key(0), jax.numpy.ones((5, 3)))
    >>> network.apply(params, jax.numpy.ones(3)).shape
    (2,)
    """

    def init(key, *batch):
        return nnx.to_pure_dict(nnx.state(build(nnx.Rngs(check_key(key)), *batch)))

    def apply(params, *inputs):
        # The structure is rebuilt from shapes alone, while tracing: params stays a plain pytree of arrays.
        dtype = jax.dtypes.canonicalize_dtype  # what JAX makes of NumPy's double precision
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), dtype(leaf.dtype)), inputs)
        graph, state = nnx.split(nnx.eval_shape(lambda *batch: build(nnx.Rngs(0), *batch), *shapes))
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state)(*inputs)

    return Network(init, apply)


class MLP(nnx.Module):
    r"""Dense layers with an activation between them, and a last layer started near zero.

    Weights start normal with variance 1 / inputs, biases at zero.

    Parameters
    ----------
    sizes
        Widths of input, hidden layers and output.
    last_scale
        Factor on the initial weights of the last layer.

    Examples
    --------
    >>> from flax import nnx
    >>> MLP((3, 32, 1), rngs=nnx.Rngs(0))(jax.numpy.ones(3)).shape
    (1,)
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        rngs: nnx.Rngs,
        activation: Callable = jax.nn.squareplus,
        last_scale: float = 0.1,
    ):
        self.activation = activation
        shapes = list(pairwise(sizes))
        ends = list(accumulate(inputs * outputs for inputs, outputs in shapes))
        weights = jnp.split(normal(rngs.params(), (ends[-1],)), ends[:-1])  # one draw: less to compile
        scales = [inputs**-0.5 for inputs, _ in shapes]
        scales[-1] *= last_scale
        # Flax has a list of its own from 0.12 on, and before needs none.
        self.layers: MutableSequence[nnx.Linear] = getattr(nnx, "List", list)()
        for (inputs, outputs), weight, scale in zip(shapes, weights, scales, strict=True):
            layer = nnx.Linear(inputs, outputs, kernel_init=nnx.initializers.zeros_init(), rngs=rngs)
            layer.kernel[...] = scale * weight.reshape(inputs, outputs)
            self.layers.append(layer)

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class NoisyDense(nnx.Module):
    r"""A dense layer with noise injected: before its activation a, or added after it.

    .. math:: y = a(W h + V \epsilon + b) \qquad \text{or} \qquad y = a(W h + b) + V \epsilon.

    The first is a dense layer of the concatenation of noise and input: a nonlinear a makes y an implicit
    variable, with no density to write down. The second, ``additive``, and any layer without an
    activation are normal given h, see :meth:`transition`. Weights start normal with variance
    1 / (inputs + noise), biases at zero.

    Parameters
    ----------
    inputs, noise, outputs
        Sizes of h, :math:`\epsilon` and y; the kernel has the rows of V first, then those of W.
    activation
        A function or a module, or None for a linear layer.
    additive
        Add the noise after the activation.

    Examples
    --------
    >>> import jax
    >>> from flax import nnx
    >>> layer = NoisyDense(3, 2, 5, rngs=nnx.Rngs(0))
    >>> layer(jax.numpy.ones(2), jax.numpy.ones(3)).shape
    (5,)
    """

    def __init__(
        self,
        inputs: int,
        noise: int,
        outputs: int,
        *,
        rngs: nnx.Rngs,
        activation: Callable | None = jax.nn.relu,
        additive: bool = False,
    ):
        sizes = {"inputs": inputs, "noise": noise, "outputs": outputs}
        for name, size in sizes.items():
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name}: expected a positive integer, got {size!r}.")
        self.noise, self.activation, self.additive = noise, activation, additive
        self.kernel = nnx.Param(normal(rngs.params(), (noise + inputs, outputs)) * (noise + inputs) ** -0.5)
        self.bias = nnx.Param(jnp.zeros(outputs))

    def _drift(self, h):
        return h @ self.kernel[self.noise :] + self.bias[...]

    def __call__(self, noise: jax.Array, h: jax.Array) -> jax.Array:
        push = noise @ self.kernel[: self.noise]
        if self.activation is None:
            return self._drift(h) + push
        if self.additive:
            return self.activation(self._drift(h)) + push
        return self.activation(self._drift(h) + push)

    def transition(self, h: jax.Array) -> tuple[jax.Array, jax.Array]:
        r"""Mean and covariance :math:`V V^\top` of y given h, for a layer that makes it normal.

        Parameters
        ----------
        h
            Shape (..., inputs).

        Returns
        -------
        tuple of jax.Array
            The mean, shape (..., outputs), and the covariance, (outputs, outputs), whatever h is.

        Raises
        ------
        ValueError
            If the noise goes through an activation.
        """
        if self.activation is not None and not self.additive:
            raise ValueError(
                "transition: noise that goes through an activation is not normal any more; "
                "expected additive=True or activation=None."
            )
        push = self.kernel[: self.noise]
        drift = self._drift(h)
        return drift if self.activation is None else self.activation(drift), push.T @ push


class StochasticCell(nnx.Module):
    r"""One step of a recurrent network with noise injected (section 4 of Tran, Ranganath and Blei 2017).

    .. math:: z_t = g_z(x_{t-1}, z_{t-1}, \epsilon_{t,z}), \qquad x_t = g_x(z_t, \epsilon_{t,x}).

    Both are a :class:`NoisyDense` with layer normalization and ReLU; a dense layer after the second gives
    x, or the logits of its symbols.

    Parameters
    ----------
    size, hidden, noise
        Sizes of x, of z, and of each of the two noises.
    additive
        Add the noises after the ReLU: :math:`z_t` is then normal given the past.

    Examples
    --------
    A series of ten steps, from nothing:

    >>> import jax, jax.numpy as jnp
    >>> cell = pure(lambda rngs, z, x, noise: StochasticCell(6, 32, 8, rngs=rngs))
    >>> z, x, noise = jnp.zeros(32), jnp.zeros(6), jax.random.normal(jax.random.key(0), (10, 2, 8))
    >>> params = cell.init(jax.random.key(1), z[None], x[None], noise[:1])
    >>> def step(carry, noise):
    ...     z, x = cell.apply(params, *carry, noise)
    ...     return (z, x), x
    >>> jax.lax.scan(step, (z, x), noise)[1].shape
    (10, 6)
    """

    def __init__(self, size: int, hidden: int, noise: int, *, rngs: nnx.Rngs, additive: bool = False):
        def layer(inputs):
            activation = nnx.Sequential(nnx.LayerNorm(hidden, rngs=rngs), jax.nn.relu)
            return NoisyDense(inputs, noise, hidden, rngs=rngs, activation=activation, additive=additive)

        self.state, self.output = layer(size + hidden), layer(hidden)
        self.last = nnx.Linear(hidden, size, rngs=rngs)

    def __call__(self, z: jax.Array, x: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        z = self.state(noise[0], jnp.concatenate([x, z]))
        return z, self.last(self.output(noise[1], z))


def check_hidden(hidden: Sequence[int]) -> None:
    """Refuse widths of hidden layers that are no sequence, such as a number for one layer."""
    if not isinstance(hidden, Sequence):
        raise TypeError(f"hidden: expected a sequence of widths, such as (64,), got {hidden!r}.")


def standardization(batch: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation along the leading axis, in any units; 1 where nothing varies.

    In units of the largest entry, since squares of 1e-20 or 1e20 are no numbers of single precision. What
    varies by less than a millionth of its size is constant up to rounding.

    Examples
    --------
    >>> shift, scale = standardization(jnp.array([[1e-20, 7.0], [3e-20, 7.0]]))
    >>> print(f"{1e20 * shift[0]:.3f} {1e20 * scale[0]:.3f} {scale[1]:.0f}")
    2.000 1.000 1
    """
    unit = jnp.abs(batch).max(0)
    unit = jnp.where(unit > 0, unit, 1.0)
    scale = (batch / unit).std(0)
    return unit * (batch / unit).mean(0), jnp.where(scale > 1e-6, unit * scale, 1.0)


class Standardize(nnx.Module):
    """Shift and scale inputs by the moments of an example batch; nothing here is trained.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> print(Standardize(jnp.array([[0.0], [2.0]]))(jnp.array([4.0])))
    [3.]
    """

    def __init__(self, batch: jax.Array):
        shift, scale = standardization(batch)
        self.shift, self.scale = nnx.Variable(shift), nnx.Variable(scale)

    def __call__(self, x: jax.Array) -> jax.Array:
        return (x - jax.lax.stop_gradient(self.shift[...])) / jax.lax.stop_gradient(self.scale[...])


class _Head(nnx.Module):
    """Standardized features to a scalar: an MLP plus, where wanted, a quadratic form."""

    def __init__(self, features: Callable, hidden, activation, quadratic: bool, rngs, batch):
        values = jax.vmap(features)(*batch)
        if values.ndim != 2:
            raise ValueError(f"features: expected a vector for each datum, got shape {values.shape[1:]}.")
        size = values.shape[-1]
        self.features = features
        self.standardize = Standardize(values)
        self.mlp = MLP((size, *hidden, 1), rngs=rngs, activation=activation)
        self.quadratic = nnx.Param(jnp.zeros((size, size))) if quadratic else None

    def __call__(self, *inputs):
        values = self.standardize(self.features(*inputs))
        output = self.mlp(values)[0]
        if self.quadratic is not None:
            output = output + values @ self.quadratic[...] @ values
        return output


class _Ratio(nnx.Module):
    def __init__(self, features, hidden, activation, quadratic, baseline, rngs, batch):
        self.head = _Head(features, hidden, activation, quadratic, rngs, batch)
        if baseline:
            x, z, _, covariate, center = batch
            batch = (x, z, center, covariate, center)
            self.baseline: _Head | None = _Head(features, hidden, activation, quadratic, rngs, batch)
        else:
            self.baseline = None

    def __call__(self, x, z, beta, covariate, center):
        output = self.head(x, z, beta, covariate, center)
        if self.baseline is not None:
            output = output - self.baseline(x, z, center, covariate, center)
        return output


def concatenate(x: Any, z: Any, beta: Any, covariate: Any, center: Any) -> jax.Array:
    """Everything the ratio may see, as one vector (the center of the proposal is a constant)."""
    return ravel_pytree((x, z, beta, covariate))[0]


def ratio_network(
    features: Callable = concatenate,
    hidden: Sequence[int] = (64, 64),
    *,
    quadratic: bool = True,
    baseline: bool = False,
    activation: Callable = jax.nn.squareplus,
) -> Network:
    r"""A network for the log ratio :math:`r(x_n, z_n, \beta; \theta)` of one datum.

    .. math:: r = h(u) + u^\top Q u, \qquad u = \text{standardized } features(x, z, \beta, c, center).

    Parameters
    ----------
    features
        ``features(x, z, beta, covariate, center) -> vector`` for one datum; ``center`` is the center
        of the current proposal of beta. The default concatenates all but the center. Features are
        standardized by their moments over the first simulated batch.
    hidden
        Widths of the hidden layers of h.
    quadratic
        Add the quadratic form, started at zero: log densities are often nearly quadratic.
    baseline
        Subtract a second such network, evaluated at beta = center. It carries the part of the log
        ratio that does not depend on beta (the reference's density), so that the first is free to see
        beta only through a residual.
    activation
        Between hidden layers.

    Returns
    -------
    Network
        ``init(key, x, z, beta, covariate, center)`` of example batches, and
        ``apply(params, x, z, beta, covariate, center)`` of one datum: a scalar, in nats.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> network = ratio_network()
    >>> x = z = beta = jnp.linspace(-1, 1, 5)
    >>> params = network.init(jax.random.key(0), x, z, beta, None, beta)
    >>> network.apply(params, x[0], z[0], beta[0], None, beta[0]).shape
    ()
    """
    check_hidden(hidden)
    settings = (features, tuple(hidden), activation, quadratic, baseline)
    return pure(lambda rngs, *batch: _Ratio(*settings, rngs, batch))


class _Separable(nnx.Module):
    def __init__(self, hidden, rank, activation, rngs, batch):
        datum, beta = (
            jax.vmap(lambda *leaves: ravel_pytree(leaves)[0])(*rows) for rows in self.sides(*batch)
        )
        self.scale = rank**-0.5
        self.standardize_datum, self.standardize_beta = Standardize(datum), Standardize(beta)
        settings = {"rngs": rngs, "activation": activation, "last_scale": 1.0}
        self.phi = MLP((datum.shape[-1], *hidden, rank), **settings)
        self.psi = MLP((beta.shape[-1], *hidden, rank + 1), **settings)

    @staticmethod
    def sides(x, z, beta, covariate, center):
        return (x, z, covariate), (beta,)

    def parts(self, *inputs):
        datum, beta = (ravel_pytree(side)[0] for side in self.sides(*inputs))
        return self.phi(self.standardize_datum(datum)), self.psi(self.standardize_beta(beta))

    def __call__(self, *inputs):
        phi, psi = self.parts(*inputs)
        return self.scale * phi @ psi[:-1] + psi[-1]


class _Parts(_Separable):
    def __call__(self, *inputs):
        return self.parts(*inputs)


def separable_ratio(
    hidden: Sequence[int] = (64, 64), rank: int = 64, *, activation: Callable = jax.nn.silu
) -> Network:
    r"""A network for a log ratio in which x and beta meet in a scalar product.

    .. math:: r(x, z, \beta, c) = k^{-1/2} \phi(x, z, c)^\top \psi(\beta) + \psi_0(\beta).

    All pairs of n data with m parameters cost n + m evaluations and one product of matrices, which is what a
    softmax loss over a whole batch asks for (Ma and Collins 2018).

    Parameters
    ----------
    hidden
        Widths of the hidden layers of both networks.
    rank
        k, the number of outputs of :math:`\phi`.
    activation
        Between hidden layers.

    Returns
    -------
    Network
        As of :func:`ratio_network`, with ``pairs``. Inputs are standardized by their moments over the first
        batch.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> network = separable_ratio()
    >>> x, beta = jnp.ones((5, 3)), jnp.linspace(-1, 1, 4)
    >>> params = network.init(jax.random.key(0), x, None, beta, None, beta)
    >>> network.pairs(params, x, None, beta, None, beta[0]).shape
    (5, 4)
    """
    check_hidden(hidden)
    settings = (tuple(hidden), rank, activation)
    network, parts = (
        pure(lambda rngs, *batch, kind=kind: kind(*settings, rngs, batch)) for kind in (_Separable, _Parts)
    )

    def pairs(params, x, z, beta, covariate, center):
        def of_datum(x, z, covariate, beta):
            return parts.apply(params, x, z, beta, covariate, center)[0]

        def of_beta(x, z, covariate, beta):
            return parts.apply(params, x, z, beta, covariate, center)[1]

        (one_x, one_z, one_c), one = jax.tree.map(lambda leaf: leaf[0], ((x, z, covariate), beta))
        phi = jax.vmap(of_datum, (0, 0, 0, None))(x, z, covariate, one)
        psi = jax.vmap(of_beta, (None, None, None, 0))(one_x, one_z, one_c, beta)
        return rank**-0.5 * phi @ psi[:, :-1].T + psi[:, -1]

    return Network(network.init, network.apply, pairs)


def straight_through(logits: jax.Array) -> jax.Array:
    r"""Choose the likeliest symbol, with the gradient of the softmax (Bengio, Leonard and Courville 2013).

    Forward, the result is exactly one-hot, so that no classifier can tell soft symbols from hard ones. The
    gradient is biased: the true one is zero almost everywhere.

    Parameters
    ----------
    logits
        Shape (..., symbols).

    Returns
    -------
    jax.Array
        One-hot, of the shape and type of the logits.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> logits = jnp.array([0.0, 2.0, 1.0])
    >>> print(straight_through(logits))
    [0. 1. 0.]
    >>> bool((jax.jacobian(straight_through)(logits) == jax.jacobian(jax.nn.softmax)(logits)).all())
    True
    """
    soft = jax.nn.softmax(logits)
    hard = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1], dtype=soft.dtype)
    return hard + (soft - jax.lax.stop_gradient(soft))
