r"""The arithmetic grammar S -> x, S+S, S-S, S*S, S/S: strings whose distribution is known exactly.

The grammar is ambiguous, x+x*x has two trees, but its language is plain: an x, then any number of
operators each followed by an x. A string of length :math:`2k - 1` has k leaves, the x's; there are
:math:`4^{k-1}` such strings, each with as many trees as the Catalan number :math:`C_{k-1}` says.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from himlib._checks import check_counts
from himlib.random import check_key

__all__ = ["SYMBOLS", "ArithmeticGrammar", "StringStatistics"]

#: Symbol i of an encoded string is ``SYMBOLS[i]``; the last one ends a string and fills its row.
SYMBOLS = "x+-*/_"
OPERATORS, END = 4, 5
FIRST = 3  # the operators whose joint entropy is reported


class StringStatistics(NamedTuple):
    """How well strings speak the language: together, for no one of these numbers says it.

    Attributes
    ----------
    valid
        Share of strings that are in the language.
    length_distance
        Total variation distance between their lengths (valid or not) and the exact distribution.
    unique
        Distinct valid strings per valid string; 0 if none is valid.
    operator_entropy
        Plug-in entropy in nats of the first three operators together, over the valid strings that have
        as many: at most 3 log 4 = 4.159, and less by about 63 / (2 n) in n such strings of the best source.

    Examples
    --------
    >>> StringStatistics(1.0, 0.0, 0.5, 4.1).valid
    1.0
    """

    valid: float
    length_distance: float
    unique: float
    operator_entropy: float


@dataclass(frozen=True)
class ArithmeticGrammar:
    r"""A distribution over the strings of the arithmetic grammar (section 4 of Tran et al. 2017).

    The number k of leaves is drawn first, then k - 1 independent operators:

    .. math:: p(s) = p(k) \prod_{i=1}^{k-1} p(o_i), \qquad k = 1, \dots, K.

    By default both are uniform: all lengths are equally frequent. The paper only says that strings have
    at most 15 symbols. A grammar whose rules have probabilities is of this form too, :meth:`from_rules`.

    Parameters
    ----------
    max_length
        Symbols in an encoded row, and the most T that a string has: :math:`K = \lceil T / 2 \rceil`.
    leaves
        p(k), K numbers that sum to one; by default equal.
    operators
        The probabilities of + - * / in this order.

    Raises
    ------
    ValueError
        If the length is no positive integer, or the probabilities are no probabilities.

    Examples
    --------
    >>> import jax
    >>> grammar = ArithmeticGrammar()
    >>> symbols = grammar.sample(jax.random.key(0), 1000)
    >>> bool(grammar.is_valid(symbols).all()), grammar.decode(grammar.encode("x+x*x"))
    (True, 'x+x*x')
    >>> f"{grammar.entropy:.3f} nats"
    '6.931 nats'
    """

    max_length: int = 15
    # None is for the constructor alone: __post_init__ puts the default in its place.
    leaves: Sequence[float] = None  # type: ignore[assignment]
    operators: Sequence[float] = (0.25, 0.25, 0.25, 0.25)

    def __post_init__(self):
        check_counts(max_length=self.max_length)
        most = (self.max_length + 1) // 2
        leaves = (1 / most,) * most if self.leaves is None else self.leaves
        object.__setattr__(self, "leaves", check_probabilities("leaves", leaves, most))
        object.__setattr__(self, "operators", check_probabilities("operators", self.operators, OPERATORS))

    @classmethod
    def over_strings(cls, max_length: int = 15) -> "ArithmeticGrammar":
        r"""Uniform over all strings of at most ``max_length`` symbols: :math:`p(k) \propto 4^{k-1}`.

        Parameters
        ----------
        max_length
            As of the class.

        Returns
        -------
        ArithmeticGrammar
            With the operators alike.
        """
        counts = [cls.count_strings(length) for length in range(1, max_length + 1, 2)]
        return cls(max_length, [count / sum(counts) for count in counts])

    @classmethod
    def from_rules(cls, rules: Sequence[float], max_length: int = 15) -> "ArithmeticGrammar":
        r"""A probabilistic grammar, given that a string has at most ``max_length`` symbols.

        Its rules have probabilities :math:`(p_x, p_+, p_-, p_*, p_/)`; all trees of a string are alike:

        .. math:: p(s) \propto C_{k-1} \, p_x^k \prod_{i=1}^{k-1} p_{o_i}, \quad
                  p(k) \propto C_{k-1} \, p_x^k (1 - p_x)^{k-1}.

        Short strings prevail whatever the rules: at :math:`p_x = 1/2`, 62 % are a single x.

        Parameters
        ----------
        rules
            :math:`(p_x, p_+, p_-, p_*, p_/)`, which add up to 1.
        max_length
            As of the class.

        Returns
        -------
        ArithmeticGrammar
            With the lengths and operators that they imply.
        """
        leaf, *operators = check_probabilities("rules", rules, 1 + OPERATORS)
        if not 0 < leaf < 1:
            raise ValueError(f"rules: expected S -> x with a probability between 0 and 1, got {leaf}.")
        lengths = range(1, max_length + 1, 2)
        weights = [cls.count_trees(n) * leaf * (leaf * (1 - leaf) / 4) ** (n // 2) for n in lengths]
        leaves = [weight / sum(weights) for weight in weights]
        return cls(max_length, leaves, [probability / sum(operators) for probability in operators])

    @staticmethod
    def count_strings(length: int) -> int:
        """Count the strings of one length: 4^(k-1) of length 2 k - 1, none of an even length."""
        return OPERATORS ** (length // 2) if length % 2 else 0

    @staticmethod
    def count_trees(length: int) -> int:
        """Count the parse trees of all strings of one length: a Catalan number for each string."""
        k = length // 2
        return math.comb(2 * k, k) // (k + 1) * ArithmeticGrammar.count_strings(length)

    @property
    def length_probabilities(self) -> np.ndarray:
        """Exact distribution of the length, shape (max_length + 1,); entry l is that of l symbols."""
        probabilities = np.zeros(self.max_length + 1)
        probabilities[1::2] = self.leaves
        return probabilities

    @property
    def entropy(self) -> float:
        r"""Entropy of a string in nats, the least mean negative log likelihood of any model.

        .. math:: H(k) + E[k - 1] \, H(o); \qquad \log 8 + 3.5 \log 4 = 6.931 \text{ by default.}
        """
        operators = sum(k * probability for k, probability in enumerate(self.leaves))
        return entropy(self.leaves) + operators * entropy(self.operators)

    def sample(self, key: jax.Array, size: int) -> jax.Array:
        """Draw encoded strings.

        Parameters
        ----------
        key
            A typed key.
        size
            Number of strings.

        Returns
        -------
        jax.Array
            Symbols, int32 of shape (size, max_length).
        """
        k_leaves, k_operators = jax.random.split(check_key(key))
        leaves = 1 + jax.random.categorical(k_leaves, jnp.log(jnp.array(self.leaves)), shape=(size, 1))
        logits, shape = jnp.log(jnp.array(self.operators)), (size, len(self.leaves))
        drawn = jax.random.categorical(k_operators, logits, shape=shape)
        rows = jnp.stack([jnp.zeros_like(drawn), 1 + drawn], -1).reshape(size, -1)
        inside = jnp.arange(self.max_length) < 2 * leaves - 1
        return jnp.where(inside, rows[:, : self.max_length], END).astype(jnp.int32)

    def is_valid(self, symbols: jax.Array | np.ndarray) -> jax.Array:
        """Tell which encoded strings are in the language, with ends behind.

        Parameters
        ----------
        symbols
            Shape (..., max_length), integers.

        Returns
        -------
        jax.Array
            Booleans of shape (...).
        """
        symbols = self._check(symbols)
        ended = jnp.cumsum(symbols == END, -1) > 0
        fits = jnp.where(jnp.arange(self.max_length) % 2, (symbols > 0) & (symbols < END), symbols == 0)
        fits = jnp.where(ended, symbols == END, fits)
        return fits.all(-1) & ((~ended).sum(-1) % 2 == 1)

    def log_prob(self, symbols: jax.Array) -> jax.Array:
        """Give the exact log p(s) of encoded strings.

        Parameters
        ----------
        symbols
            Shape (..., max_length), integers.

        Returns
        -------
        jax.Array
            In nats, of shape (...); -inf for what is not in the language.
        """
        symbols = self._check(symbols)
        costs = jnp.log(jnp.array([1.0, *self.operators, 1.0]))  # an x and an end cost nothing
        leaves = jnp.log(jnp.array(self.leaves))[(symbols == 0).sum(-1) - 1]
        return jnp.where(self.is_valid(symbols), leaves + costs[symbols].sum(-1), -jnp.inf)

    def encode(self, text: str) -> np.ndarray:
        """Turn a string into a row of symbols, filled up with ends.

        Parameters
        ----------
        text
            At most ``max_length`` of the characters of ``SYMBOLS``, in the language or not.

        Returns
        -------
        numpy.ndarray
            Symbols, int32 of shape (max_length,).

        Raises
        ------
        ValueError
            If it has other characters, or too many.
        """
        unknown = sorted(set(text) - set(SYMBOLS))
        if unknown:
            raise ValueError(f"text: expected symbols of {SYMBOLS!r}, got {''.join(unknown)!r}.")
        if len(text) > self.max_length:
            raise ValueError(f"text: expected at most max_length={self.max_length} symbols, got {len(text)}.")
        return np.array([SYMBOLS.index(symbol) for symbol in text.ljust(self.max_length, "_")], np.int32)

    def decode(self, symbols: jax.Array | np.ndarray) -> str:
        """Turn one row of symbols, shape (max_length,), into a string, without the ends that fill it up."""
        if np.ndim(self._check(symbols)) > 1:
            raise ValueError(f"symbols: expected one row, got shape {np.shape(symbols)}.")
        return "".join(SYMBOLS[symbol] for symbol in np.asarray(symbols)).rstrip("_")

    def statistics(self, symbols: jax.Array | np.ndarray) -> StringStatistics:
        """Judge encoded strings; for reports, hence not under jit.

        Parameters
        ----------
        symbols
            Shape (n, max_length), integers.

        Returns
        -------
        StringStatistics
            Numbers of Python, of all n strings together.
        """
        symbols = np.asarray(self._check(symbols))
        if symbols.ndim != 2 or not len(symbols):
            raise ValueError(f"symbols: expected shape (n, {self.max_length}), got {symbols.shape}.")
        lengths = np.where((symbols == END).any(1), (symbols == END).argmax(1), self.max_length)
        shares = np.bincount(lengths, minlength=self.max_length + 1) / len(symbols)
        strings = symbols[np.asarray(self.is_valid(symbols))]
        long = strings[(strings == 0).sum(1) > FIRST][:, 1 : 2 * FIRST : 2]
        _, counts = np.unique(long, axis=0, return_counts=True)
        return StringStatistics(
            valid=len(strings) / len(symbols),
            length_distance=float(np.abs(shares - self.length_probabilities).sum() / 2),
            unique=len(np.unique(strings, axis=0)) / max(1, len(strings)),
            operator_entropy=entropy(counts / max(1, len(long))),
        )

    def _check(self, symbols):
        """Refuse what is no row of whole numbers, such as text or one-hot vectors."""
        shape, dtype = np.shape(symbols), getattr(symbols, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.integer) or shape[-1:] != (self.max_length,):
            got = f"shape {shape} and {dtype}; encode turns text, and argmax one-hot vectors, into them."
            raise ValueError(f"symbols: expected integers of shape (..., {self.max_length}), got {got}")
        return symbols


def check_probabilities(name: str, values: Sequence[float], size: int) -> tuple[float, ...]:
    """Return probabilities as a tuple, which can be hashed, if there are ``size`` that sum to one."""
    values = tuple(map(float, values))
    if len(values) != size or not all(value >= 0 for value in values) or abs(sum(values) - 1) > 1e-6:
        raise ValueError(f"{name}: expected {size} probabilities that sum to one, got {values}.")
    return values


def entropy(probabilities: Sequence[float] | np.ndarray) -> float:
    """The entropy of a discrete distribution, in nats."""
    return -sum(float(value) * math.log(value) for value in probabilities if value > 0)
