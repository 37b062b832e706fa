r"""The posterior of the data at hand from a budget of simulations, each of which is kept and used again.

Rounds of simulations, each where the last one's posterior is, only wider, teach a log ratio of one datum
(sequential neural ratio estimation: Durkan, Murray and Papamakarios 2020),

.. math:: r(x, \beta) = \log p(x \mid \beta) - \log p(x) + c(x),

and particles are drawn from :math:`p(\beta) \exp \sum_n r(x_n, \beta)`. There is no q that could lose a mode.
"""

from collections.abc import Callable
from concurrent.futures import Executor
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from himlib._checkpoints import fingerprint, fingerprint_data
from himlib._checks import check_counts
from himlib._problem import TRIALS, check_forgotten, check_prior, check_problem
from himlib.base import Data, check_data
from himlib.few_simulations._bank import Bank, pack, unpack
from himlib.few_simulations._centering import LEAST, fit_potential, none
from himlib.few_simulations._classifiers import AMONG, mix, train
from himlib.few_simulations._coordinates import REACH, Coordinates, coordinates, ravel, robust, squash
from himlib.few_simulations.external import ExternalModel, collect, simulate_rows
from himlib.few_simulations.posterior import (
    CLASSIFIERS,
    Learned,
    Rounds,
    Seen,
    Simulated,
    bearable,
    beta_features,
    constrain,
    draw,
    finish,
    see,
    sum_of_ratios,
)
from himlib.models import HierarchicalImplicitModel
from himlib.networks import Network
from himlib.random import check_key

__all__ = ["fit_rounds"]

FEWEST = 20  # simulations of a round
NEAR, FAR = 2.0, 9.0  # T
WORTH = 1_000  # simulations

_beta_features_of = jax.jit(beta_features, static_argnames="where")
_squash = jax.jit(squash)


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
        beta = constrain(v, where=where)
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


def _variance(rows: int, size: int, number: int) -> float:
    """T: as large as leaves rows of a round the worth of a thousand, where the posterior of many data is.

    Of them each says little about beta within their posterior: what it says is learned from afar. Rows of
    N(0, T I) are worth (2 T - 1)^(d / 2) / T^d of their number for N(0, I).
    """
    if number < LEAST:
        return NEAR
    share = min(WORTH / max(rows, 1), 1.0) ** (2 / size)
    return float(np.clip((1 + np.sqrt(1 - share)) / share, NEAR, FAR))


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
    widen: float | None = None,
    pairs: tuple[Any, ...] | None = None,
    start: Rounds | None = None,
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

    **Many data.** The errors of r add up over the data. So from ten data on, if simulations are many enough,
    r is centered: its score at a beta has the mean zero over simulations there, as that of a log density has,
    and what it has beside is taken away. Early rounds, whose r is coarse, raise it to no more than what was
    simulated last can bear: a power at which that is worth a fiftieth of its number, or forty of it. With
    10,000 simulations mean and log variance of 30 data were off by up to .33 posterior sds, with sds of .92
    to 1.16 of the exact, in five data sets. With 200 data they were .2 and .3 off in two, with sds of .6 and
    1.8, and one of them ended UNSETTLED. With 150 transitions of two populations and 150,000 simulations four
    of five unseen series were at most .35 off, with sds of .9 to 1.2; the fifth, with a much narrower
    posterior, was 6 off, and UNSETTLED. For hundreds of data and more take
    :func:`~himlib.variational.lfvi`, which centers its score, too.

    **Failures.** A simulation that fails, or is not finite, gives no pair, but its beta remains among those
    that pairs are contrasted with. So r learns :math:`\log p(x, \text{success} \mid \beta)` up to a constant,
    and the posterior is that given that the data, which are there, did not fail.

    Parameters
    ----------
    key
        A typed key. The same key gives the same simulations, whoever runs them.
    model
        A model in JAX without locals (of one with them, ``model.marginal``), or an :class:`ExternalModel`.
    data
        The observations. With N of them, r is learned for one datum, and summed; a covariate of each is drawn
        with it. One observation has a leading axis of 1.
    simulations
        How many data are simulated: at least 500, pairs included; rounded down to a multiple of the rounds.
    rounds
        In how many rounds, of equal size, at least 20 simulations each.
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
        T, at least 1; by default 2 for fewer than ten data. Near the posterior of more of them, each says
        little about beta, and r learns it from beta that are further apart: T is as large, up to 9, as leaves
        a round the worth of 1,000 simulations there.
    pairs
        ``(beta, x)`` or ``(beta, x, covariate)``: pairs of the model that were simulated before, with leading
        axes, at any beta, which must reach where the posterior is. They come first, and are counted beside
        ``simulations``, which may then be 0.
    start
        A run to go on from, of the same model and features: its simulations and r are there already, and what
        comes is simulated where it says that the data's posterior is. The data may be others. They are
        counted beside ``simulations``.
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
        check_forgotten(check_problem(model, data, least=0.05))
    where = coordinates(inner)
    before = None if pairs is None else _check_pairs(pairs, data, where)
    given = 0 if before is None else len(before[0])
    if start is not None:
        _check_start(start, where, pairs)
        features, classifiers = start._learned.features, start._learned.classifiers
        given = start.simulations
    check_counts(rounds=rounds)
    if not isinstance(particles, int) or particles < 100:
        raise ValueError(f"particles: expected an integer of at least 100, got {particles!r}.")
    if not isinstance(simulations, int) or simulations < 0 or simulations + given < 500:
        raise ValueError(
            f"simulations: expected an integer of at least 500, pairs included, got {simulations!r}."
        )
    if 0 < simulations < FEWEST * rounds or (start is not None and simulations == 0):
        raise ValueError(
            f"simulations: expected at least {FEWEST} for each of {rounds} rounds, got {simulations}."
        )
    if widen is None:
        widen = _variance(simulations // rounds, where.size, jax.tree.leaves(data)[0].shape[0])
    if not isinstance(widen, int | float) or not 1 <= widen < np.inf:
        raise ValueError(f"widen: expected a number of at least 1, got {widen!r}.")
    if executor is not None and not hasattr(executor, "submit"):
        raise TypeError(f"executor: expected one of concurrent.futures, got {type(executor).__name__}.")
    classifiers = classifiers or CLASSIFIERS
    if len(classifiers) != 2 or not all(isinstance(network, Network) for network in classifiers):
        raise TypeError(f"classifiers: expected two Networks, got {classifiers!r}.")
    if not callable(features):
        raise TypeError(f"features: expected a function of (x, covariate), got {type(features).__name__}.")
    look = jax.jit(jax.vmap(features))
    s_data = see(look, data)
    example = jax.tree.map(lambda leaf: np.asarray(leaf[0]), data.x)
    sizes = [given] * (before is not None) + [simulations // rounds] * rounds * (simulations > 0)
    total = sum(sizes) + (given if before is None else 0)
    marks = {
        "key": fingerprint(key),
        "data": fingerprint_data(data),
        "model": _fingerprint_model(model, inner, data.covariate),
        "pairs": fingerprint_data(before if start is None else start._learned.simulated),
        "sizes": [*sizes, particles, widen],
    }
    store = Bank(bank, marks)
    s, v = np.zeros((total, s_data.shape[1]), np.float32), np.zeros((total, where.size), np.float32)
    ok = np.zeros(total, bool)
    seen: Any = None
    newest: Any = None
    draws: Any = None
    error, at = None, 0
    held: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    if start is not None:
        if start._data.shape[1] != s.shape[1]:
            raise ValueError(f"start: expected features of size {s.shape[1]}, got {start._data.shape[1]}.")
        at = given
        s[:at], v[:at], ok[:at] = start._learned.simulated
        seen, newest = start._learned.seen, start._learned.newest
        held, weights = list(start.held_out), list(start.weights)
        k_start = jax.random.fold_in(key, len(sizes))
        power = 1 / widen
        draws = draw(k_start, seen, start._learned.simulated, s_data, power, where, classifiers, particles)
    with tqdm(total=simulations, disable=not progress, desc="simulations") as bar:
        for i, size in enumerate(sizes):
            k_v, k_x, k_rows, *k_classifiers, k_particles = jax.random.split(jax.random.fold_in(key, i), 6)
            # One for the proposals, which a bank may hold already, and another for what is set aside.
            rng, apart = np.random.default_rng(np.asarray(jax.random.key_data(k_rows))).spawn(2)
            rows, last = slice(at, at + size), i == len(sizes) - 1
            at += size
            told = np.zeros(size)  # log density of the proposals, beside the prior's
            if i == 0 and before is not None:
                v[rows], x, covariate = before
                ok[rows] = _finite(x)
            else:
                if (stored := store.find(f"v_{i}")) is not None:
                    v[rows], index, told = stored["v"], stored["index"], stored["told"]
                else:
                    taught = {} if i == 0 else {"losses": held[-1], "weights": weights[-1]}
                    if draws is None:
                        v[rows] = where.draw(k_v, size)
                    else:
                        chosen = rng.choice(len(draws.v), size)
                        v[rows], told = draws.v[chosen], power * draws.r[chosen]
                    index = rng.integers(len(s_data), size=size)
                    store.keep(f"v_{i}", v=v[rows], index=index, told=told, **taught)
                covariate = _rows(data.covariate, index)
                x, ok[rows], first = _simulated(
                    k_x, i, v[rows], covariate, example, where, model, store, executor, bar
                )
                error = error or first
            if not ok.any():
                raise ValueError(f"simulator: none of {at} simulations gave a finite x.") from error
            s[rows] = np.where(ok[rows, None], look(x, covariate), 0.0)
            newest = v[rows]
            if i < len(sizes) - 2 and (after := store.find(f"v_{i + 1}")) is not None:
                held.append(after["losses"])  # what this round has taught is in the next one's proposals
                weights.append(after["weights"])
                continue
            previous = seen
            seen, losses = _learn(
                k_classifiers, apart, where, classifiers, s, v, ok, at, rows, _steps(total, last)
            )
            held.append(losses)
            weights.append(np.asarray(seen.weights))
            if i > 0:
                of_one = _of_one(where, classifiers)
                potential = fit_potential(newest, s[rows], ok[rows], len(s_data), seen, of_one)
                seen = seen._replace(potential=potential)
            power = 1.0 if last else 1 / widen
            if not last:
                power = bearable(newest, -told, ok[rows], seen, s_data, power, where, classifiers)
            simulated = Simulated(s[:at], v[:at], ok[:at])
            draws = draw(k_particles, seen, simulated, s_data, power, where, classifiers, particles)
    learned = Learned(where, classifiers, features, simulated, newest, seen, previous, widen)
    return finish(learned, s_data, draws, np.array(held), np.array(weights), int((~ok).sum()), error)


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


def _check_start(start: Any, where: Coordinates, pairs: Any) -> None:
    """Refuse a run to go on from that is none, or of another model."""
    if not isinstance(start, Rounds):
        raise TypeError(f"start: expected what fit_rounds returns, got {type(start).__name__}.")
    if pairs is not None:
        raise ValueError("start: pairs come first in the first run, and are part of it.")
    if start._learned.where.size != where.size or not np.array_equal(start._learned.where.knots, where.knots):
        raise ValueError("start: expected a run of this prior, got one of another.")


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


@lru_cache(maxsize=32)
def _of_one(where, classifiers):
    """r, as a function of v, s and what was learned; one function, so that it compiles once."""
    return lambda v, s, seen: sum_of_ratios(v, seen, s, where=where, classifiers=classifiers)


def _learn(keys, rng, where, classifiers, s, v, ok, filled, newest, steps):
    """Train both classifiers on what is filled of the bank, and mix them."""
    h = AMONG * max(2, round(0.05 * len(s) / AMONG))
    groups = max(2, round(0.05 * filled / AMONG))
    order = rng.permutation(filled)
    out, kept = order[: groups * AMONG], order[groups * AMONG :]
    fine = newest if ok[newest].any() else slice(0, filled)
    shift, scale = robust(s[fine][ok[fine]])
    natural = jax.tree.map(lambda leaf: leaf.reshape(len(leaf), -1), constrain(v[newest], where=where))
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
    return Seen((joint, apart), weights, shift, scale, units, none(v.shape[1])), np.array(
        [loss_joint, loss_apart, loss]
    )
