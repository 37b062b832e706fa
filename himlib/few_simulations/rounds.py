r"""The posterior of the data at hand from a budget of simulations, each of which is kept and used again.

Rounds of simulations, each where the last one's posterior is, only wider, teach a log ratio of one datum
(sequential neural ratio estimation: Durkan, Murray and Papamakarios 2020),

.. math:: r(x, \beta) = \log p(x \mid \beta) - \log p(x) + c(x),

and particles are drawn from :math:`p(\beta) \exp \sum_n r(x_n, \beta)`. There is no q that could lose a mode.
"""

from collections.abc import Callable
from concurrent.futures import Executor
from enum import Enum
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.linalg import eigh
from tqdm import tqdm

from himlib._checkpoints import fingerprint, fingerprint_data
from himlib._checks import check_counts
from himlib._problem import TRIALS, check_prior, check_problem
from himlib.base import Data, check_data
from himlib.few_simulations._bank import Bank, pack, unpack
from himlib.few_simulations._classifiers import AMONG, all_pairs, mix, train
from himlib.few_simulations._coordinates import REACH, Coordinates, coordinates, ravel, robust, squash
from himlib.few_simulations._particles import temper
from himlib.few_simulations.external import ExternalModel, collect, simulate_rows
from himlib.models import HierarchicalImplicitModel
from himlib.networks import Network, ratio_network, separable_ratio
from himlib.random import check_key

__all__ = ["Rounds", "RoundsOutcome", "fit_rounds"]

JOINT = ratio_network(hidden=(64, 64, 64), activation=jax.nn.silu)
CLASSIFIERS = JOINT, separable_ratio()  # once, so that they compile once


class RoundsOutcome(Enum):
    """How a run ended; the value is advice in words."""

    COMPLETED = (
        "The budget is spent, and the particles follow the prior times exp(r). Whether r has learned enough, "
        "a run with more simulations tells: it should give the same posterior."
    )
    NARROWING = (
        "The posterior of the last round is less than a third as wide as what was simulated for it, in some "
        "direction, so that few simulations fell where it is. Take more rounds."
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


class Rounds(NamedTuple):
    """A posterior, and what it was learned from.

    Attributes
    ----------
    beta
        Draws of the posterior, of equal weight, with a leading axis; a tree like the prior.
    log_ratio
        ``log_ratio(beta)``: the sum of r over the data, in nats, for rows of beta; up to a constant. With the
        prior's log density it is the log posterior, up to a constant.
    held_out
        Shape (rounds, 3): how badly the joint classifier, the separable one and their mixture tell which of
        128 beta a simulation belongs to that they have not seen, in nats; log 128 = 4.85 is chance.
    weights
        What the two classifiers count in r, shape (rounds, 2): so that they tell such simulations best. A sum
        well below 1 says that they were too sure of themselves, as with few simulations.
    simulations
        How many data were simulated.
    failed
        How many of them failed or were not finite.
    error
        The first exception of the simulator, or None.
    outcome
        The verdict, with advice in ``outcome.value``.
    """

    beta: Any
    log_ratio: Callable
    held_out: np.ndarray
    weights: np.ndarray
    simulations: int
    failed: int
    error: Exception | None
    outcome: RoundsOutcome

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
        n = len(jax.tree.leaves(self.beta)[0])
        rows = jax.random.randint(check_key(key), (size,), 0, n)
        return jax.tree.map(lambda leaf: leaf[rows], self.beta)


class _Seen(NamedTuple):
    """Classifiers with what turns x and v into what they see."""

    params: tuple
    weights: Any
    shift: Any
    scale: Any
    units: Any


def _beta_features(v, units, where):
    """What classifiers see of beta: the coordinates v, and beta itself in units of the newest round."""
    beta = jax.vmap(lambda row: ravel_pytree(where.constrain(row))[0])(v)
    return jnp.concatenate([v, squash(beta, *units)], axis=1)


def _sum_of_ratios(v, seen, s, *, where, classifiers):
    """The sum over the data of r, for rows of v."""
    told = _beta_features(v, seen.units, where)

    def add(total, row):
        first, second = (
            all_pairs(n, p, row[None], told)[0] for n, p in zip(classifiers, seen.params, strict=True)
        )
        return total + seen.weights[0] * first + seen.weights[1] * second, None

    return jax.lax.scan(add, jnp.zeros(len(v)), squash(s, seen.shift, seen.scale))[0]


_beta_features_of = jax.jit(_beta_features, static_argnames="where")
_constrain = jax.jit(lambda v, where: jax.vmap(where.constrain)(v), static_argnames="where")
_squash = jax.jit(squash)


@partial(jax.jit, static_argnames=("where", "classifiers"))
def _log_ratio(beta, seen, s, *, where, classifiers):
    u = jax.vmap(where.model.space.unconstrain)(beta)
    return _sum_of_ratios(where.from_unconstrained(u), seen, s, where=where, classifiers=classifiers)


@partial(jax.jit, static_argnames=("where", "classifiers", "particles"))
def _posterior(key, seen, s, power, box, *, where, classifiers, particles):
    """Particles of prior x exp(power r) within the box, and how often they moved in the end."""
    k_start, k_temper = jax.random.split(key)
    log_ratio = partial(_sum_of_ratios, seen=seen, s=s, where=where, classifiers=classifiers)

    def log_prior(v):
        inside = jnp.all((v >= box[0]) & (v <= box[1]), axis=1)
        return jnp.where(inside, jax.vmap(where.log_prior)(v), -jnp.inf)

    return temper(k_temper, where.draw(k_start, particles), log_prior, log_ratio, power)


def _box(v: np.ndarray) -> np.ndarray:
    """Where rows of v were simulated, and a fifth of its width beyond: further out r would be a guess."""
    low, high = v.min(0), v.max(0)
    return np.stack([low - (high - low) / 5, high + (high - low) / 5])


@partial(jax.jit, static_argnames="where")
def _simulate(key, v, covariate, *, where):
    return where.model.simulate_batch(key, jax.vmap(where.constrain)(v), covariate)[1]


def _simulated(key, i, v, covariate, example, where, model, bank, executor, progress):
    """x of a round, whether each is finite, and the first error; from the bank, if it is there."""
    if (stored := bank.find(f"x_{i}")) is not None:
        x, ok = unpack(stored, example)
        progress.update(len(ok))
        return x, ok, None
    if isinstance(model, ExternalModel):
        beta = _constrain(v, where=where)
        return _simulate_outside(key, i, model, beta, covariate, example, bank, executor, progress)
    x = _simulate(key, v, covariate, where=where)
    bank.keep(f"x_{i}", **pack(x, ok := _finite(x)))
    progress.update(len(ok))
    return x, ok, None


def _simulate_outside(key, i, model, beta, covariate, example, bank, executor, progress):
    """A round of an external simulator: the chunks that the bank holds of it already, and the rest."""
    beta, covariate = jax.tree.map(np.asarray, (beta, covariate))
    seed = tuple(int(word) for word in np.asarray(jax.random.key_data(key)).ravel())
    parts, error = [unpack(chunk, example) for chunk in bank.chunks(i)], None
    done = sum(len(ok) for _, ok in parts)
    progress.update(done)
    rows = range(done, len(jax.tree.leaves(beta)[0]))
    for start, results in simulate_rows(model, seed, beta, covariate, rows, executor):
        x, ok, first = collect(results, example)
        parts.append((x, ok))
        error = error or first
        if (
            error is not None
            and i == 0
            and start + len(ok) >= TRIALS
            and not any(fine.any() for _, fine in parts)
        ):
            error.add_note("Raised in simulate(rng, beta, covariate), and no simulation so far gave an x.")
            raise error
        bank.keep(f"chunk_{i}_{start:09d}", **pack(x, ok))
        progress.update(len(ok))
    whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    bank.keep(f"x_{i}", **pack(*whole))
    bank.forget_chunks(i)
    return *whole, error


def _rows(tree, index):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)


def _finite(x) -> np.ndarray:
    """Which rows are finite."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(x)]
    return np.all([np.isfinite(leaf).reshape(len(leaf), -1).all(1) for leaf in leaves], axis=0)


def _steps(total: int, last: bool) -> tuple[int, int]:
    """Steps of the joint and of the separable classifier, for so many simulations in all."""
    more = max(total / 10_000, 0.1)
    return (
        (int(1500 * more**0.3), int(2000 * more**0.38))
        if last
        else (int(600 * more**0.22), int(1500 * more**0.3))
    )


def fit_rounds(
    key: jax.Array,
    model: HierarchicalImplicitModel | ExternalModel,
    data: Data,
    *,
    simulations: int = 10_000,
    rounds: int = 5,
    features: Callable = ravel,
    classifiers: tuple[Network, Network] | None = None,
    particles: int = 10_000,
    widen: float = 2.0,
    pairs: tuple[Any, Any] | None = None,
    executor: Executor | None = None,
    bank: Any = None,
    progress: bool = True,
) -> Rounds:
    r"""Infer the posterior of the data from a budget of simulations, spent in rounds.

    .. math:: p(\beta \mid x_{1:N}) \propto p(\beta) \exp \sum_{n=1}^N r(x_n, \beta).

    Round by round, beta is drawn from the prior first, and from particles of :math:`p(\beta) e^{r / T}`
    later, where T widens them. All simulations so far teach two classifiers, started afresh, to tell the beta
    of an x from others: one of x and beta together from 8 others, and one that is a scalar product of a
    function of x and one of beta from 255. They are weighted as suits simulations that neither has seen.
    At the end the particles have T = 1. They keep to where simulations were, and a fifth of its width beyond,
    as r is a guess further out; so the reach grows round by round.

    **Many data.** The errors of r add up over the data, and with them the proposals go astray. With 10,000
    simulations mean and log variance of 30 data were off by up to .3 posterior sds, with sds of .86 to 1.3 of
    the exact; the line through 40 data by up to .3, .75 to .95. With 200 data it was 3 in one of two runs,
    which ended NARROWING, and .7 in the other, which COMPLETED. For hundreds, take
    :func:`~himlib.variational.lfvi`, which centers its score.

    **Failures.** A simulation that fails, or is not finite, gives no pair, but its beta remains among those
    that pairs are contrasted with. So r learns :math:`\log p(x, \text{success} \mid \beta)` up to a constant,
    and the posterior is that given that the data, which are there, did not fail.

    Parameters
    ----------
    key
        A typed key. The same key gives the same simulations, whoever runs them.
    model
        A model in JAX, or an :class:`ExternalModel`. Its local latents are integrated out.
    data
        The observations. With N of them, r is learned for one datum, and summed; a covariate of each is drawn
        with it. One observation has a leading axis of 1.
    simulations
        How many data are simulated: at least 500, pairs included.
    rounds
        In how many rounds, of equal size.
    features
        ``features(x, covariate) -> vector`` for one datum: what classifiers see of it, in any units; the
        default is all of it. Where x is a row of independent draws, they learn more from these as N data, or
        from statistics such as the mean and the logarithm of the sd: by 20 draws of a normal as one row, at
        10,000 simulations, the posterior was off by up to .45 of its sd.
    classifiers
        Two :class:`~himlib.networks.Network` of (features of x, None, features of beta, None, center): the
        first tells a beta from 8 others, the second from 255. By default ``ratio_network`` with three layers
        and :func:`~himlib.networks.separable_ratio`.
    particles
        How many draws represent the posterior, at least 100. With N data each costs N times as much.
    widen
        T, at least 1.
    pairs
        ``(beta, x)`` or ``(beta, x, covariate)``: pairs of the model that were simulated before, with leading
        axes, at any beta, which must reach where the posterior is. They come first, and are counted beside
        ``simulations``, which may then be 0.
    executor
        For an external model: what simulates, of the ``concurrent.futures`` protocol, such as a
        ``ProcessPoolExecutor``, ``dask.distributed.Client.get_executor()`` or an ``MPIPoolExecutor``. By
        default this process, one after another.
    bank
        A folder that keeps all simulations as they are made. If it is there, the run goes on from it, and
        ends as it would have. It knows its run: key, data, model and sizes must be the same; of a simulator
        outside of JAX it knows its own code and a partial's arguments, and nothing of what these call.
    progress
        Show a progress bar.

    Returns
    -------
    Rounds
        Draws of the posterior, their log ratio, and how well r tells unseen simulations.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of range, if simulator and data do not agree, or if the
        bank is of another run.
    Exception
        What the simulator raises, if none of the first 200 simulations gives an x.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, numpyro.distributions as dist
    >>> model = HierarchicalImplicitModel(dist.Normal(0, 1), noise_shape=(),
    ...     generate=lambda noise, beta, covariate: (None, beta + noise))
    >>> run = fit_rounds(jax.random.key(0), model, Data(jnp.ones(1)), simulations=1_000, rounds=2,
    ...     particles=1_000, progress=False)
    >>> run.beta.shape, run.simulations, run.failed
    ((1000,), 1000, 0)
    """
    check_key(key)
    if isinstance(model, ExternalModel):
        inner = model.inner
        check_data(data, None)
        check_prior(inner)
    else:
        inner = model
        check_problem(model, data, least=0.05)
    where = coordinates(inner)
    before = None if pairs is None else _check_pairs(pairs, data, where)
    given = 0 if before is None else len(before[0])
    check_counts(rounds=rounds)
    if not isinstance(particles, int) or particles < 100:
        raise ValueError(f"particles: expected an integer of at least 100, got {particles!r}.")
    if not isinstance(simulations, int) or simulations < 0 or simulations + given < 500:
        raise ValueError(
            f"simulations: expected an integer of at least 500, pairs included, got {simulations!r}."
        )
    if 0 < simulations < rounds:
        raise ValueError(
            f"simulations: expected at least one for each of {rounds} rounds, got {simulations}."
        )
    if not isinstance(widen, int | float) or not 1 <= widen < np.inf:
        raise ValueError(f"widen: expected a number of at least 1, got {widen!r}.")
    if executor is not None and not hasattr(executor, "submit"):
        raise TypeError(f"executor: expected one of concurrent.futures, got {type(executor).__name__}.")
    classifiers = classifiers or CLASSIFIERS
    if len(classifiers) != 2 or not all(isinstance(network, Network) for network in classifiers):
        raise TypeError(f"classifiers: expected two Networks, got {classifiers!r}.")
    if not callable(features):
        raise TypeError(f"features: expected a function of (x, covariate), got {type(features).__name__}.")
    see = jax.jit(jax.vmap(features))
    s_data = np.asarray(see(data.x, data.covariate), np.float32)
    if s_data.ndim != 2 or not np.isfinite(s_data).all():
        raise ValueError(f"features: expected a vector of finite numbers at the data, got {s_data[0]}.")
    example = jax.tree.map(lambda leaf: np.asarray(leaf[0]), data.x)
    sizes = [given] * (given > 0) + [simulations // rounds] * rounds * (simulations > 0)
    total = sum(sizes)
    marks = {
        "key": fingerprint(key),
        "data": fingerprint_data(data),
        "model": _fingerprint_model(model, inner, data.covariate),
        "pairs": fingerprint_data(before),
        "sizes": [*sizes, particles, widen],
    }
    store = Bank(bank, marks)
    s, v = np.zeros((total, s_data.shape[1]), np.float32), np.zeros((total, where.size), np.float32)
    ok = np.zeros(total, bool)
    draws, error, at = np.zeros((0, where.size)), None, 0
    held: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    with tqdm(total=simulations, disable=not progress, desc="simulations") as bar:
        for i, size in enumerate(sizes):
            k_v, k_x, k_rows, *k_classifiers, k_particles = jax.random.split(jax.random.fold_in(key, i), 6)
            # One for the proposals, which a bank may hold already, and another for what is set aside.
            rng, apart = np.random.default_rng(np.asarray(jax.random.key_data(k_rows))).spawn(2)
            rows, last = slice(at, at + size), i == len(sizes) - 1
            at += size
            if i == 0 and before is not None:
                v[rows], x, covariate = before
                ok[rows] = _finite(x)
            else:
                if (stored := store.find(f"v_{i}")) is not None:
                    v[rows], index = stored["v"], stored["index"]
                else:
                    fresh = len(draws) == 0
                    v[rows] = where.draw(k_v, size) if fresh else draws[rng.choice(len(draws), size)]
                    index = rng.integers(len(s_data), size=size)
                    taught = {} if fresh else {"losses": held[-1], "weights": weights[-1]}
                    store.keep(f"v_{i}", v=v[rows], index=index, **taught)
                covariate = _rows(data.covariate, index)
                x, ok[rows], first = _simulated(
                    k_x, i, v[rows], covariate, example, where, model, store, executor, bar
                )
                error = error or first
            if not ok.any():
                raise ValueError(f"simulator: none of {at} simulations gave a finite x.") from error
            s[rows] = np.where(ok[rows, None], see(x, covariate), 0.0)
            if not last and (after := store.find(f"v_{i + 1}")) is not None:
                held.append(after["losses"])  # what this round has taught is in the next one's proposals
                weights.append(after["weights"])
                continue
            seen, losses = _learn(
                k_classifiers, apart, where, classifiers, s, v, ok, at, rows, _steps(total, last)
            )
            held.append(losses)
            weights.append(np.asarray(seen.weights))
            power = 1.0 if last else 1 / widen
            draws, moved = _posterior(
                k_particles, seen, s_data, power, _box(v[:at][ok[:at]]),
                where=where, classifiers=classifiers, particles=particles,
            )  # fmt: skip
            draws = np.asarray(draws)
    outcome = _judge(ok.mean(), moved, held[-1][2], weights[-1].sum(), v[ok], v[rows], draws)
    log_ratio = partial(_log_ratio, seen=seen, s=s_data, where=where, classifiers=classifiers)
    beta = _constrain(draws, where=where)
    failed = int((~ok).sum())
    return Rounds(beta, log_ratio, np.array(held), np.array(weights), total, failed, error, outcome)


def _judge(fine, moved, loss, total, simulated, newest, posterior) -> RoundsOutcome:
    """Name what is wrong, if anything is; rows of v are all simulated, the newest, and the posterior."""
    if fine < 0.5:
        return RoundsOutcome.MANY_FAILED
    if moved < 0.02:
        return RoundsOutcome.STUCK
    if loss > np.log(AMONG) - 0.02:
        return RoundsOutcome.BLIND
    beyond = (posterior < simulated.min(0)) | (posterior > simulated.max(0))
    if beyond.any(1).mean() > 0.1:
        return RoundsOutcome.OUTSIDE
    if least_width(newest, posterior) < 1 / 3:
        return RoundsOutcome.NARROWING
    return RoundsOutcome.OVERFITTED if total < 0.85 else RoundsOutcome.COMPLETED


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


def _fingerprint_model(model: Any, inner: HierarchicalImplicitModel, covariate: Any) -> str:
    """Prior, by some draws and their density, and simulator; of one outside of JAX its own code."""
    beta = inner.sample_prior(jax.random.key(0), (3,))
    prior = fingerprint_data((beta, jax.vmap(inner.log_prior)(beta)))
    if isinstance(model, ExternalModel):
        return fingerprint([prior, _code(model.simulate), model.batch])
    rows = jax.tree.map(lambda leaf: leaf[np.zeros(3, int)], covariate)
    return fingerprint([prior, jax.make_jaxpr(model.simulate_batch)(jax.random.key(0), beta, rows)])


def _code(function: Any) -> list:
    """What tells a function from another: its name, its own code, and what a partial gives it."""
    if isinstance(function, partial):
        return [_code(function.func), repr(function.args), repr(function.keywords)]
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    if code is None:
        return [name]
    return [
        name,
        code.co_code.hex(),
        [str(value) for value in code.co_consts if not hasattr(value, "co_code")],
    ]


def _check_pairs(pairs: Any, data: Data, where: Coordinates) -> tuple:
    """Bring pairs to coordinates, x and covariate, with leading axes of one length."""
    if not isinstance(pairs, tuple) or len(pairs) not in (2, 3):
        raise TypeError(f"pairs: expected (beta, x) or (beta, x, covariate), got {type(pairs).__name__}.")
    beta, x, covariate = (*pairs, None)[:3]
    if jax.tree.structure(covariate) != jax.tree.structure(data.covariate):
        raise ValueError(
            "pairs: expected covariates where the data have some, and none where they have none."
        )
    beta, x, covariate = jax.tree.map(np.asarray, (beta, x, covariate))
    lengths = {len(leaf) for leaf in jax.tree.leaves((beta, x, covariate))}
    if len(lengths) != 1:
        raise ValueError(f"pairs: expected leading axes of one length, got {sorted(lengths)}.")
    one = jax.eval_shape(lambda: where.model.sample_prior(jax.random.key(0), ()))
    for name, made, like in (("beta", beta, one), ("x", x, jax.tree.map(lambda leaf: leaf[0], data.x))):
        shapes, expected = jax.tree.map(lambda leaf: leaf.shape[1:], made), jax.tree.map(np.shape, like)
        if shapes != expected:
            what = "the prior's draws" if name == "beta" else "those of data.x"
            raise ValueError(f"pairs: expected {name} with rows like {what}, {expected}, got {shapes}.")
    v = where.unwind(jax.tree.map(np.float32, beta))
    if not (fine := ~np.isnan(v).any(1)).all():
        raise ValueError(f"pairs: {(~fine).sum()} beta of {len(v)} are not finite or outside of the prior.")
    return np.clip(v, -REACH, REACH) if where.known.all() else v, x, covariate


def _learn(keys, rng, where, classifiers, s, v, ok, filled, newest, steps):
    """Train both classifiers on what is filled of the bank, and mix them."""
    h = AMONG * max(2, round(0.05 * len(s) / AMONG))
    groups = max(2, round(0.05 * filled / AMONG))
    order = rng.permutation(filled)
    out, kept = order[: groups * AMONG], order[groups * AMONG :]
    fine = newest if ok[newest].any() else slice(0, filled)
    shift, scale = robust(s[fine][ok[fine]])
    natural = jax.tree.map(lambda leaf: leaf.reshape(len(leaf), -1), _constrain(v[newest], where=where))
    units = robust(np.concatenate(jax.tree.leaves(natural), axis=1))
    shift, scale, units = jax.tree.map(np.float32, (shift, scale, units))
    columns = np.asarray(_squash(s, shift, scale)), np.asarray(_beta_features_of(v, units, where=where)), ok
    held = tuple(np.concatenate([a[out], np.zeros((h - len(out), *a.shape[1:]), a.dtype)]) for a in columns)
    place = np.concatenate([kept, np.zeros(len(s) - len(kept), int)])  # the rest is never looked at
    full = tuple(a[place] for a in columns)
    first = tuple(a[newest] for a in columns[:2])
    common = (full, np.uint32(len(kept)), first, held, np.int32(groups))
    joint, loss_joint = train(
        keys[0], *common, np.int32(steps[0]), network=classifiers[0], others=8, batch=256, rate=1e-2
    )
    apart, loss_apart = train(
        keys[1], *common, np.int32(steps[1]), network=classifiers[1], others=255, batch=256, rate=5e-3
    )
    weights, loss = mix((joint, apart), held, np.int32(groups), networks=classifiers)
    return _Seen((joint, apart), weights, shift, scale, units), np.array([loss_joint, loss_apart, loss])
