r"""The locals of many data: q(z | x, beta) of one datum, learned from pairs that the model makes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.flatten_util import ravel_pytree

from himlib._checks import check_counts
from himlib._problem import check_problem, noted
from himlib.base import Data, check_data
from himlib.diagnostics import rank_test
from himlib.families import Family, MixtureOfNormals
from himlib.models import Frame, HierarchicalImplicitModel, check_frame, check_model, propose
from himlib.networks import MLP, Standardize, check_hidden, pure, standardization
from himlib.random import check_key, draw_rows
from himlib.training import descend

__all__ = ["LocalOutcome", "Locals", "fit_locals"]

FAR = 4.0  # scales of the frame beyond which q was not trained
RANKED, AMONG = 2000, 99  # new simulations, and draws of q that each is ranked among
OFF = 0.05  # of the ranks' distribution function: what may be missed of a probability
PRODUCTS = 64  # of two linear functions each, beside the hidden layers
PATIENCE = 100  # steps in a row whose gradient is not finite, which are left out
BLOCK = 20_000  # draws at once


class LocalOutcome(Enum):
    """What new simulations say of q; the value is advice in words."""

    CALIBRATED = (
        "The z of new simulations rank among draws of q as any other, up to 0.05 of a probability, averaged "
        "over the proposal and over x."
    )
    MISCALIBRATED = (
        "The z of new simulations do not rank as draws of q would: a probability is off by more than 0.05. "
        "Take more steps, features that see how x, beta and the covariate bear on z, or another family."
    )
    NOT_FINITE = "The loss, or a draw, was NaN or infinite: bound the features, or lower the rate."


def concatenate(x: Any, beta: Any, covariate: Any) -> jax.Array:
    """All that q may see, as one vector."""
    return ravel_pytree((x, beta, covariate))[0]


class _Conditional(nnx.Module):
    """Parameters of a family, as a function of features."""

    def __init__(self, features, hidden, size, rngs, batch):
        values = jax.vmap(features)(*batch)
        if values.ndim != 2:
            raise ValueError(f"features: expected a vector for each datum, got shape {values.shape[1:]}.")
        self.features, self.standardize = features, Standardize(values)
        inputs = values.shape[1]
        self.mlp = MLP((inputs, *hidden, size), rngs=rngs)
        # What is linear or a product, such as c * z, should not have to be learned by bends.
        self.factors = MLP((inputs + 1, 2 * PRODUCTS), rngs=rngs, last_scale=1.0)
        self.products = nnx.Param(jnp.zeros((PRODUCTS + inputs, size)))

    def __call__(self, *inputs):
        values = self.standardize(self.features(*inputs))
        left, right = jnp.split(self.factors(jnp.append(values, 1.0)), 2)
        return self.mlp(values) + jnp.concatenate([left * right, values]) @ self.products[...]


@dataclass(frozen=True, eq=False)
class Locals:
    r"""q(z | x, beta, c) of any datum, from :func:`~himlib.many_data.fit_locals`.

    Attributes
    ----------
    loss
        :math:`-E \log q` at each step, in nats, for z less the mean and over the sd of the first
        simulations.
    ranks
        Of the z of 2,000 new simulations among 99 draws of q each, (2000, d): uniform on 0, ..., 99 if q is
        right. What is wrong here and there in opposite ways, they do not see.
    off
        The largest difference of their distribution function from the uniform one, (d,).
    p_value
        Of a q that is exact, by :func:`~himlib.diagnostics.rank_test`, (d,).
    outcome
        The verdict, with advice in ``outcome.value``.

    Examples
    --------
    >>> from himlib import FullRankNormal
    >>> from himlib.simulators.conjugate import ConjugateGaussian
    >>> data, frame = Data(jnp.array([1.0, 3.0])), Frame(jnp.zeros(1), jnp.ones(1))
    >>> found = fit_locals(jax.random.key(0), ConjugateGaussian().model, data, frame,
    ...     family=FullRankNormal(), hidden=(8,), steps=10)
    >>> beta = jnp.linspace(-1, 1, 5)
    >>> z = found.sample(jax.random.key(1), data, beta)
    >>> z.shape, found.log_prob(z, data, beta).shape
    ((5, 2), (5, 2))
    """

    loss: np.ndarray
    ranks: np.ndarray
    off: np.ndarray
    p_value: np.ndarray
    outcome: LocalOutcome
    _params: Any
    _conditional: "_Amortized"
    _frame: Frame

    def sample(self, key: jax.Array, data: Data, beta: Any) -> Any:
        r"""Draw one z of each datum for each :math:`\beta`: with draws of its posterior, joint draws.

        Parameters
        ----------
        key
            A typed key.
        data
            N data, with their covariates. For more than memory has draws of: a slice after the other.
        beta
            S rows: a tree like the prior, with a leading axis.

        Returns
        -------
        Any
            A tree like z, with leading axes (S, N).

        Raises
        ------
        TypeError, ValueError
            If the data are not like those of the model, or a :math:`\beta` lies where q was not trained.
        """
        check_key(key)
        beta = self._check(data, beta)
        return _draw(key, self._params, data, beta, conditional=self._conditional)

    def log_prob(self, z: Any, data: Data, beta: Any) -> jax.Array:
        r"""Tell :math:`\log q(z_n \mid x_n, \beta, c_n)` in nats, shape (S, N).

        Parameters
        ----------
        z
            A tree like that of :meth:`sample`, with leading axes (S, N).
        data, beta
            As for :meth:`sample`.

        Returns
        -------
        jax.Array
            Where a density of the model is known, its logarithm less this one weighs the draws
            (:func:`himlib.draws.importance`); of an implicit model there is none, and no such correction.
        """
        beta = self._check(data, beta)
        expected = len(jax.tree.leaves(beta)[0]), len(jax.tree.leaves(data)[0])
        got = {jnp.shape(leaf)[:2] for leaf in jax.tree.leaves(z)}
        if got != {expected}:
            raise ValueError(
                f"z: expected leading axes {expected}, of beta and of the data, got {sorted(got)}."
            )
        return _log_prob(self._params, z, data, beta, conditional=self._conditional)

    def _check(self, data, beta):
        check_data(data, None)
        model = self._conditional.model
        check_problem(model, data, self._frame)
        tree = jax.tree.structure(jax.eval_shape(model.sample_prior, jax.random.key(0)))
        if jax.tree.structure(beta) != tree or not all(jnp.ndim(leaf) for leaf in jax.tree.leaves(beta)):
            raise ValueError(f"beta: expected rows of a tree like the prior, {tree}, with a leading axis.")
        beta = jax.tree.map(jnp.asarray, beta)
        u = np.asarray(_unconstrain(beta, model=model), np.float64)
        far = np.abs((u - self._frame.location) / self._frame.scale).max()
        if not far <= FAR:
            raise ValueError(
                f"beta: a row lies {far:.3g} scales of the frame from its center, where q was not trained "
                f"(up to {FAR:.0f} are allowed): fit the locals on a wider frame."
            )
        return beta


@dataclass(frozen=True)
class _Amortized:
    """What is compiled for: a model, a family, and what its parameters are a function of."""

    model: HierarchicalImplicitModel
    family: Family
    features: Callable
    hidden: tuple[int, ...]

    def start(self, key, z, x, beta, covariate):
        """Parameters, from rows that the model made."""
        flat = jax.vmap(lambda row: ravel_pytree(row)[0])(z)
        base = self.family.init(flat.shape[1])
        size = ravel_pytree(base)[0].size
        shift, scale = standardization(flat)
        network = self._network(size).init(key, x, beta, covariate)
        return {"network": network, "base": base, "shift": shift, "scale": scale}

    def _network(self, size):
        return pure(lambda rngs, *batch: _Conditional(self.features, self.hidden, size, rngs, batch))

    def _at(self, params, x, beta, covariate):
        base, unravel = ravel_pytree(params["base"])
        return unravel(base + self._network(base.size).apply(params["network"], x, beta, covariate))

    def log_prob(self, params, z, x, beta, covariate):
        """For one datum."""
        shift, scale = jax.lax.stop_gradient((params["shift"], params["scale"]))
        q = self.family.distribution(self._at(params, x, beta, covariate))  # type: ignore[misc]
        v = (ravel_pytree(z)[0] - shift) / scale
        return q.log_prob(v[None])[0] - jnp.log(scale).sum()

    def sample(self, params, key, x, beta, covariate, size=1):
        """For one datum: rows of numbers, (size, d)."""
        v = jax.lax.stop_gradient(self.family.distribution(self._at(params, x, beta, covariate)))  # type: ignore[misc]
        return params["shift"] + params["scale"] * v.sample(key, (size,))

    def simulate(self, key, data, frame, size):
        k_rows, k_beta, k_model = jax.random.split(key, 3)
        covariate = draw_rows(k_rows, data, size).covariate
        beta = jax.vmap(self.model.space.constrain)(propose(k_beta, frame, size))
        z, x = self.model.simulate_batch(k_model, beta, covariate)
        return z, x, beta, covariate


@partial(jax.jit, static_argnames="model")
def _unconstrain(beta, *, model):
    return jax.vmap(model.space.unconstrain)(beta)


def _over_rows(function, size, rows):
    """Map over the data in blocks of about so many draws."""
    return jax.lax.map(function, rows, batch_size=max(1, BLOCK // size))


@partial(jax.jit, static_argnames="conditional")
def _draw(key, params, data, beta, *, conditional):
    size, count = len(jax.tree.leaves(beta)[0]), len(jax.tree.leaves(data)[0])
    one = jax.tree.map(lambda leaf: leaf[0], params["example"])
    unravel = ravel_pytree(one)[1]

    def of_datum(row):
        number, (x, covariate) = row
        keys = jax.random.split(jax.random.fold_in(key, number), size)
        draw = jax.vmap(conditional.sample, (None, 0, None, 0, None))(params, keys, x, beta, covariate)
        return jax.vmap(unravel)(draw[:, 0])

    draws = _over_rows(of_datum, size, (jnp.arange(count), tuple(data)))
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), draws)


@partial(jax.jit, static_argnames="conditional")
def _log_prob(params, z, data, beta, *, conditional):
    size = len(jax.tree.leaves(beta)[0])

    def of_datum(row):
        z, (x, covariate) = row
        return jax.vmap(conditional.log_prob, (None, 0, None, 0, None))(params, z, x, beta, covariate)

    z = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), z)
    return _over_rows(of_datum, size, (z, tuple(data))).T


@partial(jax.jit, static_argnames=("conditional", "steps", "size"))
def _train(key, data, frame, rate, *, conditional, steps, size):
    k_init, k_first, k_steps = jax.random.split(key, 3)
    z, *rest = conditional.simulate(k_first, data, frame, size)
    params = conditional.start(k_init, z, *rest)
    schedule = optax.cosine_decay_schedule(rate, steps)
    optimizer = optax.flatten(optax.chain(optax.clip_by_global_norm(10.0), optax.adam(schedule)))
    optimizer = optax.apply_if_finite(optimizer, PATIENCE)

    def objective(params, key):
        rows = conditional.simulate(key, data, frame, size)
        log_q = jax.vmap(conditional.log_prob, (None, 0, 0, 0, 0))(params, *rows)
        return -log_q.mean() - jnp.log(jax.lax.stop_gradient(params["scale"])).sum()

    carry = params, optimizer.init(params)
    (params, _), loss = descend(objective, optimizer, carry, jax.random.split(k_steps, steps))
    return {**params, "example": jax.tree.map(lambda leaf: leaf[:1], z)}, loss


@partial(jax.jit, static_argnames="conditional")
def _rank(key, params, data, frame, *, conditional):
    k_model, k_draw = jax.random.split(key)
    z, *rest = conditional.simulate(k_model, data, frame, RANKED)
    truth = jax.vmap(lambda row: ravel_pytree(row)[0])(z)

    def below(row):
        key, truth, rest = row
        return (conditional.sample(params, key, *rest, size=AMONG) < truth).sum(0)

    ranks = jax.lax.map(below, (jax.random.split(k_draw, RANKED), truth, rest), batch_size=BLOCK // AMONG)
    finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()
    return ranks, finite


def fit_locals(
    key: jax.Array,
    model: HierarchicalImplicitModel,
    data: Data,
    frame: Frame,
    *,
    family: Family = MixtureOfNormals(components=3),  # noqa: B008
    features: Callable = concatenate,
    hidden: Sequence[int] = (64, 64),
    steps: int = 4000,
    batch_size: int = 1024,
    rate: float = 3e-3,
) -> Locals:
    r"""Learn q(z | x, beta, c), one for all data, by maximum likelihood on pairs that the model makes.

    .. math:: \max_\phi\; E_{\beta \sim \text{frame}}\, E_{(z, x) \sim p(z, x \mid \beta, c)}
              \log q(z \mid x, \beta, c; \phi),

    whose optimum is :math:`p(z \mid x, \beta, c)` itself. Given :math:`\beta`, the locals of a hierarchy
    depend on their own datum alone, and one call of the simulator gives z and x together: no ratio is needed,
    no adversary, and as many pairs as one likes. q is any family with a density, its parameters a network's.
    So, with draws of the posterior of :math:`\beta`,

    .. math:: p(\beta, z_1, \dots, z_N \mid x)
              = p(\beta \mid x) \prod_{n=1}^N p(z_n \mid x_n, \beta, c_n).

    Parameters
    ----------
    key
        A typed key.
    model
        The model, with its z: any tree of real numbers, best without bounds (a logarithm, say).
    data
        Where covariates come from; x is not looked at.
    frame
        The :math:`\beta` that q is trained at: the normal with this location and scale, in unconstrained
        coordinates. Three posterior sds are a good scale, such as
        ``Frame(fit.mean, 3 * np.sqrt(np.diag(fit.covariance)))`` of a
        :class:`~himlib.many_data.ScoreFit`.
    family
        A :class:`~himlib.families.Family` with a density.
    features
        ``features(x, beta, covariate) -> vector`` for one datum: what q sees. Groups of different size
        are padded, with their size as a covariate, and features that skip what is padded.
    hidden
        Widths of the hidden layers, beside which there are a linear map, and products of two.
    steps, batch_size
        Steps of Adam, and simulations in each.
    rate
        The first learning rate; it falls to zero along a cosine.

    Returns
    -------
    Locals
        With the outcome CALIBRATED, or else one that says what to do.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of range, or the model has no z.

    Examples
    --------
    >>> from himlib import FullRankNormal
    >>> from himlib.simulators.conjugate import ConjugateGaussian
    >>> exact, data = ConjugateGaussian(), Data(jnp.array([1.0, 3.0]))
    >>> found = fit_locals(jax.random.key(0), exact.model, data, Frame(jnp.zeros(1), jnp.ones(1)),
    ...     family=FullRankNormal(), hidden=(8,), steps=300)
    >>> z = found.sample(jax.random.key(1), data, jnp.zeros(2000))
    >>> z.shape, bool(jnp.abs(z.mean(0) - exact.local_posterior(data.x, 0.0).mean).max() < 0.1)
    ((2000, 2), True)
    """
    check_key(key)
    check_model(model)
    check_hidden(hidden)
    check_counts(steps=steps, batch_size=batch_size)
    if getattr(family, "distribution", None) is None:
        raise TypeError(f"family: expected a Family with a density, got {type(family).__name__}.")
    if not callable(features):
        raise TypeError(f"features: expected a function, got {type(features).__name__}.")
    if not rate > 0:
        raise ValueError(f"rate: expected a positive number, got {rate!r}.")
    frame = check_frame(frame, model.space.size)
    z = check_problem(model, data, frame)
    if z is None:
        raise ValueError("model: gives no z, so that there are no locals to infer; see himlib.models.")
    if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(z)):
        raise ValueError("model: gives z that are not real numbers, which q has a density for.")
    conditional = _Amortized(model, family, features, tuple(hidden))
    where = jax.tree.map(jnp.float32, frame)
    k_train, k_rank = jax.random.split(key)
    with noted("In features(x, beta, covariate), of one datum."):
        params, loss = _train(
            k_train, data, where, rate, conditional=conditional, steps=steps, size=batch_size
        )
    ranks, finite = _rank(k_rank, params, data, where, conditional=conditional)
    ranks = np.asarray(ranks)
    grid = np.arange(AMONG + 1)
    off = np.abs((ranks[..., None] <= grid).mean(0) - (grid + 1) / (AMONG + 1)).max(1)
    outcome = LocalOutcome.CALIBRATED if off.max() <= OFF else LocalOutcome.MISCALIBRATED
    if not finite or not np.isfinite(loss[-1]):
        outcome = LocalOutcome.NOT_FINITE
    p_value = rank_test(ranks, AMONG).p_value
    return Locals(np.asarray(loss), ranks, off, p_value, outcome, params, conditional, frame)
