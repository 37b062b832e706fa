r"""What rounds of simulations end with: a posterior, and what one does with it.

.. math:: p(\beta \mid x_{1:N}) = p(\beta) \exp \Big( \sum_n r(x_n, \beta) \Big) / Z.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.linalg import eigh

from himlib._checks import check_counts
from himlib.base import Data, check_data
from himlib.draws import importance
from himlib.families import Family, SplineFlow
from himlib.few_simulations._bank import read, write
from himlib.few_simulations._centering import Potential, potential_at
from himlib.few_simulations._classifiers import AMONG, all_pairs
from himlib.few_simulations._coordinates import KNOTS, Coordinates, coordinates, ravel, squash
from himlib.few_simulations._particles import attainable, ess_share, temper
from himlib.few_simulations.density import Density, maximize_likelihood, units_of
from himlib.few_simulations.external import ExternalModel
from himlib.models import HierarchicalImplicitModel
from himlib.networks import Network, ratio_network, separable_ratio
from himlib.random import check_key

__all__ = ["Rounds", "RoundsOutcome", "load_rounds"]

JOINT = ratio_network(hidden=(64, 64, 64), activation=jax.nn.silu)
CLASSIFIERS = JOINT, separable_ratio()  # once, so that they compile once
PROBE = KNOTS // 4
NOWHERE = -1e30  # r where nothing was simulated: finite, as 0 times it is a power that is not yet raised


class RoundsOutcome(Enum):
    """How a run ended; the value is advice in words."""

    COMPLETED = (
        "The budget is spent, and the particles follow the prior times exp(r). Whether r has learned enough, "
        "a run with more simulations tells: it should give the same posterior."
    )
    NARROWING = (
        "The posterior of the last round is less than half as wide as was foreseen when its simulations were "
        "chosen, in some direction, so that few of them fell where it is. Take more rounds."
    )
    UNSETTLED = (
        "The r of the round before, with fewer simulations, has another posterior: its draws are worth less "
        "than a tenth of their number here. The posterior may be off by several of its sds. Take more "
        "simulations; with many data, whose errors add up, lfvi."
    )
    OUTSIDE = (
        "More than a tenth of the posterior lies beyond everything that was simulated, where r is a guess. "
        "Take more rounds, or pairs that reach as far as the posterior."
    )
    BLIND = (
        "r tells nothing: it does no better than chance on simulations that it has not seen. x may not "
        "depend on beta, the features may not see it or be too many, or the data may say nothing."
    )
    STUCK = (
        "Hardly any particle moves: the particles are few distinct points. r is too steep for them; take "
        "more rounds, or more simulations."
    )
    OVERFITTED = (
        "The classifiers were too sure of simulations that they had not seen, so that r was weakened by a "
        "fifth or more. The posterior may be off by a third of its sd or more: take more simulations, or "
        "fewer features."
    )
    MANY_FAILED = (
        "More than half of the simulations failed or were not finite. The posterior accounts for that, as "
        "failures say something about beta, but few simulations are left. Bound the simulator's state, or "
        "narrow the prior."
    )


class Seen(NamedTuple):
    """Classifiers with what turns x and v into what they see."""

    params: tuple
    weights: Any
    shift: Any
    scale: Any
    units: Any
    potential: Any  # what is taken from r to center its score


class Simulated(NamedTuple):
    """All that was simulated: features of x, coordinates of beta, and whether there is an x."""

    s: np.ndarray
    v: np.ndarray
    ok: np.ndarray

    @property
    def box(self) -> np.ndarray:
        """Where there is an x, and a fifth of its width beyond: further out r would be a guess."""
        low, high = self.v[self.ok].min(0), self.v[self.ok].max(0)
        return np.stack([low - (high - low) / 5, high + (high - low) / 5])


class Learned(NamedTuple):
    """What a posterior is made of: coordinates, networks, what they see of a datum; simulations, and r."""

    where: Coordinates
    classifiers: tuple[Network, Network]
    features: Callable
    simulated: Simulated
    newest: np.ndarray  # v of the last round
    seen: Seen
    before: Seen | None  # of the round before
    widen: float  # what a round has in mind to be wider than the posterior, as a variance


class Draws(NamedTuple):
    """Particles: their v, their r, the logarithm of what the posterior integrates to, and how they moved."""

    v: np.ndarray
    r: np.ndarray
    log_total: float
    moved: float


def beta_features(v, units, where):
    """What classifiers see of beta: the coordinates v, and beta itself in units of the newest round."""
    beta = jax.vmap(lambda row: ravel_pytree(where.constrain(row))[0])(v)
    return jnp.concatenate([v, squash(beta, *units)], axis=1)


def sum_of_ratios(v, seen, s, *, where, classifiers):
    """The sum over the data of r, for rows of v."""
    told = beta_features(v, seen.units, where)

    def add(total, row):
        first, second = (
            all_pairs(n, p, row[None], told)[0] for n, p in zip(classifiers, seen.params, strict=True)
        )
        return total + seen.weights[0] * first + seen.weights[1] * second, None

    total = jax.lax.scan(add, jnp.zeros(len(v)), squash(s, seen.shift, seen.scale))[0]
    return total - len(s) * potential_at(v, seen.potential)


constrain = jax.jit(lambda v, where: jax.vmap(where.constrain)(v), static_argnames="where")
_sum_of_ratios = jax.jit(sum_of_ratios, static_argnames=("where", "classifiers"))


@partial(jax.jit, static_argnames=("where", "classifiers"))
def _log_ratio(beta, seen, s, *, where, classifiers):
    v = where.from_unconstrained(jax.vmap(where.model.space.unconstrain)(beta))
    return v, sum_of_ratios(v, seen, s, where=where, classifiers=classifiers)


@partial(jax.jit, static_argnames=("where", "classifiers", "particles", "free"))
def _draw(key, seen, s, power, box, fixed, *, where, classifiers, particles, free):
    k_start, k_temper = jax.random.split(key)

    def whole(v):
        return jnp.broadcast_to(fixed.astype(v.dtype), (len(v), where.size)).at[:, free].set(v)

    def log_ratio(v):
        v = whole(v)
        inside = jnp.all((v >= box[0]) & (v <= box[1]), axis=1)
        return jnp.where(inside, sum_of_ratios(v, seen, s, where=where, classifiers=classifiers), NOWHERE)

    def log_prior(v):
        return jax.vmap(where.log_prior)(whole(v))

    free = np.array(free)
    v, *rest = temper(k_temper, where.draw(k_start, particles)[:, free], log_prior, log_ratio, power)
    return whole(v), *rest


def draw(key, seen, simulated, s, power, where, classifiers, particles, fixed=None) -> Draws:
    """Particles of prior x exp(power r), within the box; where ``fixed`` is a number they all have it."""
    fixed = np.full(where.size, np.nan, np.float32) if fixed is None else fixed
    free = tuple(int(i) for i in np.flatnonzero(np.isnan(fixed)))
    v, r, log_total, moved = _draw(
        key, seen, s, power, simulated.box, fixed,
        where=where, classifiers=classifiers, particles=particles, free=free,
    )  # fmt: skip
    return Draws(np.asarray(v), np.asarray(r), float(log_total), float(moved))


def bearable(v, log_weights, ok, seen, s, power, where, classifiers) -> float:
    """The power of exp(r), at most ``power``, that what was simulated last can bear."""
    r = _sum_of_ratios(v, seen, s, where=where, classifiers=classifiers)
    return float(attainable(r, log_weights, ok, np.float32(power)))


@dataclass(frozen=True)
class Rounds:
    """A posterior, and what it was learned from.

    Attributes
    ----------
    beta
        Draws of the posterior, of equal weight, with a leading axis; a tree like the prior.
    held_out
        Shape (rounds, 3): how badly the joint classifier, the separable one and their mixture tell which of
        128 beta a simulation belongs to that they have not seen, in nats; log 128 = 4.85 is chance.
    weights
        What the two classifiers count in r, shape (rounds, 2): so that they tell such simulations best. A sum
        well below 1 says that they were too sure of themselves, as with few simulations.
    agreement
        What the draws are worth, as a share of their number, for the posterior by the r of the round before:
        its effective sample size. Near 1 where more simulations changed nothing; NaN after a single round.
    simulations
        How many data were simulated.
    failed
        How many of them failed or were not finite.
    error
        The first exception of the simulator, or None.
    outcome
        The verdict, with advice in ``outcome.value``.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, numpyro.distributions as dist
    >>> from himlib.few_simulations import fit_rounds
    >>> model = HierarchicalImplicitModel(dist.Normal(0, 1), noise_shape=(),
    ...     generate=lambda noise, beta, covariate: (None, beta + noise))
    >>> run = fit_rounds(jax.random.key(0), model, Data(jnp.ones(1)), simulations=1_000, rounds=2,
    ...     particles=1_000, progress=False)
    >>> run.log_prob(run.sample(jax.random.key(1), 5)).shape
    (5,)
    >>> other = run.at(jax.random.key(2), Data(jnp.array([0.8])))  # no new simulations
    >>> bool(other.beta.mean() < run.beta.mean())
    True
    """

    beta: Any
    held_out: np.ndarray
    weights: np.ndarray
    agreement: float
    simulations: int
    failed: int
    error: Exception | None
    outcome: RoundsOutcome
    _data: np.ndarray = field(repr=False)
    _draws: Draws = field(repr=False)
    _learned: Learned = field(repr=False)

    def sample(self, key: jax.Array, size: int) -> Any:
        """Draw from the posterior: ``size`` of its particles, with replacement.

        Parameters
        ----------
        key
            A typed key.
        size
            The number of draws.

        Returns
        -------
        Any
            A tree like the prior, with a leading axis of ``size``.
        """
        rows = jax.random.randint(check_key(key), (size,), 0, len(self._draws.v))
        return jax.tree.map(lambda leaf: leaf[rows], self.beta)

    def log_ratio(self, beta: Any) -> jax.Array:
        r"""Sum r over the data, in nats.

        .. math:: \sum_n r(x_n, \beta) = \log p(x_{1:N} \mid \beta) + \text{const}.

        Parameters
        ----------
        beta
            Rows: a tree like the prior, with a leading axis.

        Returns
        -------
        jax.Array
            Of shape (rows,). Outside of where the particles may go, too, where it is a guess.
        """
        return self._log_ratio(beta)[1]

    def _log_ratio(self, beta):
        of = self._learned
        return _log_ratio(beta, of.seen, self._data, where=of.where, classifiers=of.classifiers)

    def log_prob(self, beta: Any) -> jax.Array:
        r"""Tell the logarithm of the posterior's density, normalized.

        .. math:: \log p(\beta) + \sum_n r(x_n, \beta) - \log Z,

        with Z from the particles' way from the prior (Del Moral, Doucet and Jasra 2006). It is the density
        of what was learned, and as right as r is. Z is no evidence, as r has a constant of its own.

        Parameters
        ----------
        beta
            Rows: a tree like the prior, with a leading axis; within the prior's support.

        Returns
        -------
        jax.Array
            In nats, of shape (rows,); minus infinity beyond what was simulated and a fifth of its width.
        """
        v, r = self._log_ratio(beta)
        low, high = self._learned.simulated.box
        prior = jax.vmap(self._learned.where.model.log_prior)(beta)
        inside = jnp.all((v >= low) & (v <= high), axis=1)
        return jnp.where(inside, prior + r - self._draws.log_total, -jnp.inf)

    def at(self, key: jax.Array, data: Data) -> "Rounds":
        """Infer the posterior of other data, of any number, without a simulation.

        r has learned where these rounds simulated: about anywhere after one round, from the prior, and near
        the first posterior after several. ``outcome`` tells by OUTSIDE, NARROWING and UNSETTLED where that
        was too far; ``fit_rounds(..., start=run)`` then goes on from here.

        Parameters
        ----------
        key
            A typed key.
        data
            Data like the first ones, with covariates if these had some.

        Returns
        -------
        Rounds
            A posterior as wide as r says, of as many particles.

        Raises
        ------
        ValueError
            If the data have other features than the first ones.
        """
        check_data(data, None)
        s = see(jax.jit(jax.vmap(self._learned.features)), data)
        if s.shape[1] != self._data.shape[1]:
            raise ValueError(f"data: expected {self._data.shape[1]} features of one, got {s.shape[1]}.")
        of = self._learned
        draws = draw(
            check_key(key), of.seen, of.simulated, s, 1.0, of.where, of.classifiers, len(self._draws.v)
        )
        return finish(of, s, draws, self.held_out, self.weights, self.failed, self.error)

    def given(self, key: jax.Array, known: dict) -> Any:
        r"""Draw from the posterior of some parameters, given others.

        Parameters
        ----------
        key
            A typed key.
        known
            Names of the prior, a dict, and a value for each.

        Returns
        -------
        dict
            Draws of all parameters, with a leading axis; those that are known are constant.

        Raises
        ------
        TypeError
            If the prior is no dict.
        ValueError
            If a name or a value is not the prior's, or is far from all simulations, or none is left to draw.
        """
        if not isinstance(self.beta, dict):
            raise TypeError("given: names parameters, and the prior is no dict.")
        if not known or not set(known) < set(self.beta):
            raise ValueError(
                f"known: expected some of {sorted(self.beta)}, but not all, got {sorted(known)}."
            )
        of = self._learned
        one = jax.tree.map(lambda leaf: leaf[:1], self.beta)
        for name, value in known.items():
            leaves, tree = jax.tree.flatten(one[name])
            try:  # lists are arrays, as the prior has no lists where it has an array
                given = [jnp.asarray(leaf, float)[None] for leaf in tree.flatten_up_to(value)]
            except (TypeError, ValueError):
                given = []
            if [leaf.shape for leaf in given] != [leaf.shape for leaf in leaves]:
                raise ValueError(f"known: expected {name} as the prior has it, got {value!r}.")
            one[name] = tree.unflatten(given)
        v = np.float32(of.where.unwind(one)[0])
        if not np.isfinite(v).all():
            raise ValueError(f"known: expected values within the prior's support, got {known!r}.")
        is_known = np.array([name in known for name in of.where.names])
        low, high = of.simulated.box
        if (is_known & ((v < low) | (v > high))).any():
            raise ValueError(f"known: expected values where simulations were, or near, got {known!r}.")
        fixed = np.where(is_known, v, np.float32(np.nan))
        drawn = draw(
            check_key(key), of.seen, of.simulated, self._data, 1.0, of.where, of.classifiers,
            len(self._draws.v), fixed,
        )  # fmt: skip
        return constrain(drawn.v, where=of.where)

    def density(
        self, key: jax.Array, family: Family | None = None, *, steps: int = 3_000, batch: int = 256,
        rate: float = 3e-3, draws: int = 4_000,
    ) -> Density:  # fmt: skip
        r"""Fit a q(beta) to the draws, by maximum likelihood.

        .. math:: \max_\lambda \sum_l \log q(\beta_l; \lambda)

        Unlike the ELBO it punishes a q that leaves draws out, so that q covers every mode that has some. It
        has smooth draws without end, and its density is quick.

        Parameters
        ----------
        key
            A typed key.
        family
            A :class:`~himlib.families.Family` with a density; the default is a
            :class:`~himlib.families.SplineFlow`.
        steps, batch, rate
            Of Adam.
        draws
            How many fresh draws of q are weighted, to tell how far importance weights go.

        Returns
        -------
        Density
            q, with draws, a density, and its importance weights.

        Raises
        ------
        ValueError
            If the family has no density, or a count is not positive.
        """
        family = SplineFlow() if family is None else family
        check_counts(steps=steps, batch=batch, draws=draws)
        if getattr(family, "distribution", None) is None:
            raise ValueError(f"family: expected one with a density, got {type(family).__name__}.")
        k_fit, k_draw = jax.random.split(check_key(key))
        location, scale = units = units_of(self._draws.v)
        v = jnp.asarray((self._draws.v - location) / scale)
        params = maximize_likelihood(k_fit, v, rate, family=family, steps=steps, batch=batch)
        fresh = family.sample(params, k_draw, draws)
        v = location + scale * fresh
        of, (low, high) = self._learned, self._learned.simulated.box
        r = _sum_of_ratios(v, of.seen, self._data, where=of.where, classifiers=of.classifiers)
        target = jax.vmap(of.where.log_prior)(v) + r
        log_weights = target - family.distribution(params).log_prob(fresh)  # type: ignore[misc]
        inside = jnp.all((v >= low) & (v <= high), axis=1)
        told = importance(jnp.where(inside, log_weights, -jnp.inf))
        return Density(family, params, told, of.where, units)

    def save(self, path: Any) -> None:
        """Save everything but the model, its features and the simulator's error, for :func:`load_rounds`.

        Parameters
        ----------
        path
            A file, which is written whole or not at all; ``.npz`` by custom.
        """
        of = self._learned
        seen = {} if of.before is None else _leaves("before", of.before)
        write(
            Path(path),
            **seen,
            **_leaves("seen", of.seen),
            **{f"simulated_{name}": value for name, value in of.simulated._asdict().items()},
            **{f"draws_{name}": np.asarray(value) for name, value in self._draws._asdict().items()},
            newest=of.newest,
            widen=np.asarray(of.widen),
            data=self._data,
            held_out=self.held_out,
            weights=self.weights,
            failed=np.asarray(self.failed),
            prior=of.where.knots[::PROBE],
        )


def _leaves(name: str, seen: Seen) -> dict[str, np.ndarray]:
    return {f"{name}_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(seen))}


def load_rounds(
    path: Any,
    model: HierarchicalImplicitModel | ExternalModel,
    *,
    features: Callable = ravel,
    classifiers: tuple[Network, Network] | None = None,
) -> Rounds:
    """Load what :meth:`Rounds.save` has saved, in this process or in another: the same draws, bit for bit.

    Parameters
    ----------
    path
        The file.
    model
        The model of the run; of an external one the prior alone is asked for.
    features, classifiers
        As they were given to :func:`~himlib.few_simulations.fit_rounds`.

    Returns
    -------
    Rounds
        The posterior; without the simulator's error, which is not kept.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the prior or the classifiers are others.

    Examples
    --------
    >>> import tempfile, jax, jax.numpy as jnp, numpyro.distributions as dist
    >>> from himlib.few_simulations import fit_rounds
    >>> model = HierarchicalImplicitModel(dist.Normal(0, 1), noise_shape=(),
    ...     generate=lambda noise, beta, covariate: (None, beta + noise))
    >>> run = fit_rounds(jax.random.key(0), model, Data(jnp.ones(1)), simulations=1_000, rounds=2,
    ...     particles=1_000, progress=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run.save(f"{folder}/run.npz")
    ...     again = load_rounds(f"{folder}/run.npz", model)
    >>> bool((run.beta == again.beta).all())
    True
    """
    stored = read(Path(path))
    where = coordinates(model.inner if isinstance(model, ExternalModel) else model)
    prior, here = stored["prior"], where.knots[::PROBE]
    if prior.shape != here.shape or not np.allclose(prior, here, 1e-3, 1e-3 * np.ptp(here, axis=0)):
        raise ValueError("model: expected the prior that was saved, got another.")
    networks = classifiers or CLASSIFIERS
    simulated = Simulated(*(stored[f"simulated_{name}"] for name in Simulated._fields))
    rows = simulated.s[:2], jax.eval_shape(lambda v: beta_features(v, (0.0, 1.0), where), simulated.v[:2])
    center = jnp.zeros((2, rows[1].shape[1]))
    params = tuple(
        jax.eval_shape(n.init, jax.random.key(0), rows[0], None, rows[1], None, center) for n in networks
    )
    tree = jax.tree.structure(Seen(params, 0, 0, 0, (0, 0), Potential(0, 0, 0, 0)))

    def seen(name):
        leaves = [stored[f"{name}_{i}"] for i in range(tree.num_leaves) if f"{name}_{i}" in stored]
        if len(leaves) != tree.num_leaves:
            raise ValueError("classifiers: expected those that were saved, got others.")
        return tree.unflatten(leaves)

    before = seen("before") if "before_0" in stored else None
    newest, widen = stored["newest"], float(stored["widen"])
    learned = Learned(where, networks, features, simulated, newest, seen("seen"), before, widen)
    draws = Draws(
        stored["draws_v"], stored["draws_r"], float(stored["draws_log_total"]), float(stored["draws_moved"])
    )
    rest = stored["held_out"], stored["weights"], int(stored["failed"]), None
    return finish(learned, stored["data"], draws, *rest)


def see(look: Callable, data: Data) -> np.ndarray:
    """Features of each datum, (N, size)."""
    s = np.asarray(look(data.x, data.covariate), np.float32)
    if s.ndim != 2 or not np.isfinite(s).all():
        raise ValueError(f"features: expected a vector of finite numbers at the data, got {s[0]}.")
    return s


def finish(learned: Learned, s, draws: Draws, held_out, weights, failed, error) -> Rounds:
    """Name what is wrong with a posterior, if anything is, and give it to the user."""
    agreement = np.nan
    if learned.before is not None:
        r = _sum_of_ratios(draws.v, learned.before, s, where=learned.where, classifiers=learned.classifiers)
        agreement = float(ess_share(r - draws.r))
    outcome = judge(learned, draws, agreement, held_out[-1, 2], weights[-1].sum())
    beta = constrain(draws.v, where=learned.where)
    total = len(learned.simulated.ok)
    return Rounds(beta, held_out, weights, agreement, total, failed, error, outcome, s, draws, learned)


def judge(learned: Learned, draws: Draws, agreement: float, loss: float, total: float) -> RoundsOutcome:
    """Name what is wrong, if anything is."""
    simulated = learned.simulated
    if simulated.ok.mean() < 0.5:
        return RoundsOutcome.MANY_FAILED
    if draws.moved < 0.02:
        return RoundsOutcome.STUCK
    # Where the prior is N(0, I). Of a posterior that is narrower, r had told more than the last round sees.
    blind = loss > np.log(AMONG) - 0.02
    if blind and np.linalg.eigvalsh(np.atleast_2d(np.cov(draws.v, rowvar=False)))[0] > 0.5:
        return RoundsOutcome.BLIND
    fine = simulated.v[simulated.ok]
    beyond = (draws.v < fine.min(0)) | (draws.v > fine.max(0))
    if beyond.any(1).mean() > 0.1:
        return RoundsOutcome.OUTSIDE
    if least_width(learned.newest, draws.v) * np.sqrt(learned.widen) < 1 / 2:
        return RoundsOutcome.NARROWING
    if agreement < 0.1:
        return RoundsOutcome.UNSETTLED
    return RoundsOutcome.OVERFITTED if blind or total < 0.85 else RoundsOutcome.COMPLETED


def least_width(wide: np.ndarray, narrow: np.ndarray) -> float:
    """The least sd of rows in units of others' sd, over all directions.

    Examples
    --------
    >>> rows = np.random.default_rng(0).normal(size=(1000, 2))
    >>> turned = rows @ np.array([[1.0, 1.0], [0.1, -0.1]])  # narrow along (1, -1), not along an axis
    >>> print(round(least_width(rows, turned), 2))
    0.14
    """
    before, after = (np.atleast_2d(np.cov(rows, rowvar=False)) for rows in (wide, narrow))
    return float(np.sqrt(max(eigh(after, before + 1e-12 * np.eye(len(before)), eigvals_only=True)[0], 0.0)))
