"""A network that makes labels of features and noise, and what it predicts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx

from himlib._checks import check_counts
from himlib.classification.ratios import noise_points
from himlib.networks import Network, check_hidden, pure
from himlib.random import check_key, normal

__all__ = ["Generator", "predict"]

ROWS = 1024  # at a time, so that memory does not grow with them


@dataclass(frozen=True)
class Generator:
    r"""A network of features and noise whose K outputs decide a label.

    .. math:: h_1 = f(W_1^\top c / a_1 + s V^\top \epsilon + b_1), \quad
              h_l = f(W_l^\top h_{l-1} / a_l + b_l), \quad g = W_L^\top h_{L-1} / a_L + b_L.

    The product of features and :math:`W_1` is computed once for all noises of a row. Every weight and bias
    has prior N(0, 1).

    Parameters
    ----------
    features
        Length of a row's covariate.
    classes
        K.
    hidden
        Widths of the hidden layers.
    noise_size
        Number of standard normals injected into the first layer; zero makes g a function of the features.
    noise_scale
        s.
    fan_in
        Whether :math:`a_l` is the square root of the layer's number of inputs; if not, it is 1.
    output
        What makes a label of the logits g: ``"argmax"``, a hard label (the Bayesian GAN), or ``"softmax"``,
        a draw from their softmax (the Bayesian neural network, for which the paper has no noise).
    activation
        f.

    Raises
    ------
    TypeError, ValueError
        If a size is no count, hidden no sequence, or the output unknown.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> generator = Generator(features=5, classes=2)
    >>> weights = generator.init(jax.random.key(0))
    >>> generator.apply(weights, jnp.ones(5), jnp.linspace(-1, 1, 7)[:, None]).shape
    (7, 2)
    """

    features: int
    classes: int
    hidden: Sequence[int] = (20,)
    noise_size: int = 1
    noise_scale: float = 0.5
    fan_in: bool = False
    output: str = "argmax"
    activation: Callable = jax.nn.relu

    def __post_init__(self):
        check_hidden(self.hidden)
        object.__setattr__(self, "hidden", tuple(self.hidden))  # a list has no hash
        check_counts(features=self.features, classes=self.classes)
        check_counts(**{f"hidden[{i}]": width for i, width in enumerate(self.hidden)})
        if self.classes < 2 or not self.hidden:
            raise ValueError(
                f"expected classes >= 2 and a hidden layer, got classes={self.classes}, hidden={self.hidden}."
            )
        if not isinstance(self.noise_size, int) or self.noise_size < 0:
            raise ValueError(f"noise_size: expected zero or a positive integer, got {self.noise_size!r}.")
        if self.output not in ("argmax", "softmax"):
            raise ValueError(f"output: expected 'argmax' or 'softmax', got {self.output!r}.")
        if self.output == "argmax" and self.noise_size == 0:
            raise ValueError("noise_size: without noise an argmax is no distribution over labels.")

    @property
    def network(self) -> Network:
        """The flax network behind it, of (covariate, noise)."""
        return pure(lambda rngs, *batch: _Generator(self, rngs))

    def init(self, key: jax.Array) -> dict:
        """Draw all weights from their prior.

        Parameters
        ----------
        key
            A typed key.

        Returns
        -------
        dict
            A tree of arrays, as ``apply`` takes it.
        """
        return self.network.init(key)

    def apply(self, weights: dict, covariate: jax.Array, noise: jax.Array) -> jax.Array:
        """Logits of one row at each of its noises.

        Parameters
        ----------
        weights
            Of :meth:`init`, or drawn from q.
        covariate
            The features of one row, shape (features,).
        noise
            Standard normal, shape (noises, noise_size).

        Returns
        -------
        jax.Array
            Shape (noises, classes).
        """
        return self.network.apply(weights, covariate, noise)

    def probabilities(self, logits: jax.Array) -> jax.Array:
        """Probabilities of the labels given logits along the last axis: all on one label for an argmax.

        Parameters
        ----------
        logits
            Shape (..., classes).

        Returns
        -------
        jax.Array
            Shape (..., classes), along the last axis adding up to 1.
        """
        if self.output == "softmax":
            return jax.nn.softmax(logits)
        return jax.nn.one_hot(jnp.argmax(logits, axis=-1), self.classes, dtype=logits.dtype)


class _Generator(nnx.Module):
    noise: nnx.Param
    kernel_0: nnx.Param
    bias_0: nnx.Param

    def __init__(self, generator: Generator, rngs):
        self.generator = generator
        sizes = list(pairwise((generator.features, *generator.hidden, generator.classes)))
        shapes: list[tuple[str, tuple[int, ...]]] = [("noise", (generator.noise_size, generator.hidden[0]))]
        for layer, (inputs, outputs) in enumerate(sizes):
            shapes += [(f"kernel_{layer}", (inputs, outputs)), (f"bias_{layer}", (outputs,))]
        for name, shape in shapes:
            setattr(self, name, nnx.Param(normal(rngs.params(), shape)))
        self.scales = tuple(inputs**-0.5 if generator.fan_in else 1.0 for inputs, _ in sizes)

    def __call__(self, covariate, noise):
        values = self.scales[0] * (covariate @ self.kernel_0[...]) + self.bias_0[...]
        values = values + self.generator.noise_scale * (noise @ self.noise[...])
        for layer, scale in enumerate(self.scales[1:], 1):
            kernel, bias = getattr(self, f"kernel_{layer}"), getattr(self, f"bias_{layer}")
            values = scale * (self.generator.activation(values) @ kernel[...]) + bias[...]
        return values


@partial(jax.jit, static_argnames=("generator", "noises"))
def predict(
    key: jax.Array, generator: Generator, weights: dict, covariate: jax.Array, noises: int = 32
) -> jax.Array:
    r"""Predict labels by how often they come up, over draws of the weights and of the noise.

    .. math:: \hat p_y = \frac{n_y + 1/2}{n + K/2},

    with n the number of pairs of weights and noise and :math:`n_y` how many of them give label y. A softmax
    output is averaged as it is. The noises of each draw of the weights are spread evenly, with a random
    shift.

    Parameters
    ----------
    key
        A typed key.
    generator
        A :class:`Generator`.
    weights
        Draws with a leading axis, such as ``algorithm.sample(key, state, 200)``.
    covariate
        Rows of features.
    noises
        Noises for each draw of the weights.

    Returns
    -------
    jax.Array
        Probabilities, shape (rows, K).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> generator = Generator(features=2, classes=3)
    >>> weights = jax.vmap(generator.init)(jax.random.split(jax.random.key(0), 10))
    >>> predict(jax.random.key(1), generator, weights, jnp.ones((4, 2))).shape
    (4, 3)
    """
    draws = jax.tree.leaves(weights)[0].shape[0]
    noises = noises if generator.noise_size else 1

    def add(counts, draw):
        key, beta = draw
        noise = noise_points(noises, generator.noise_size, jax.random.uniform(key, (generator.noise_size,)))

        def count(row):
            return generator.probabilities(generator.apply(beta, row, noise)).sum(0)

        return counts + jax.lax.map(count, covariate, batch_size=ROWS), None

    start = jnp.zeros((len(covariate), generator.classes), jnp.result_type(*jax.tree.leaves(weights)))
    counts, _ = jax.lax.scan(add, start, (jax.random.split(check_key(key), draws), weights))
    pseudocount = 0.5 if generator.output == "argmax" else 0.0
    return (counts + pseudocount) / (draws * noises + generator.classes * pseudocount)
