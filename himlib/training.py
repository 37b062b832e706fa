"""Run an algorithm: scanned chunks, progress, history, checkpoints, and a verdict at the end."""

import os
import tempfile
from collections.abc import Callable, Sequence
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from himlib.algorithm import Algorithm, Info, State
from himlib.checks import check_counts
from himlib.random import check_key

__all__ = ["Outcome", "Result", "cosine_adam", "fit", "fit_seeds"]


class Outcome(Enum):
    """How a run ended; the value is advice in words.

    Examples
    --------
    >>> Outcome.SATURATED.name
    'SATURATED'
    """

    CONVERGED = "q has come to rest. Whether in the right place, himlib.verdict.verdict asks."
    DRIFTING = (
        "q was still moving: over the last tenth of the last round its mean moved by more than half an "
        "sd. Take more steps, or decay the learning rate."
    )
    SATURATED = (
        "The ratio network tells nearly all samples apart (accuracy above 0.99, or more than the width of "
        "q can account for): r is flat where q needs its slope, and q stays near where it began. Contrast "
        "with the predictive reference instead of the empirical one, give r residual features, or "
        "factorize the data into smaller pieces."
    )
    COLLAPSED = (
        "The sds of q fell below 1e-5 of the proposal's scale. Lower the posterior's learning "
        "rate, take more ratio steps, or check that covariates reach the ratio network."
    )
    NOT_FINITE = (
        "A loss, gradient or parameter became NaN or infinite; the run stopped there. Lower the learning "
        "rates, bound the simulator's state, or bound the features."
    )
    INTERRUPTED = "Stopped by hand: state and history are those reached."


class Result(NamedTuple):
    """What a run leaves.

    Attributes
    ----------
    state
        The last state.
    history
        An Info of numpy arrays, one entry per step.
    outcome
        The verdict, with advice in ``outcome.value``.

    Examples
    --------
    >>> Result._fields
    ('state', 'history', 'outcome')
    """

    state: State
    history: Info
    outcome: Outcome


def cosine_adam(learning_rate: float, steps: int, final: float = 0.01) -> optax.GradientTransformation:
    """Adam whose learning rate falls along a cosine to ``final`` times its first value, over one round.

    Parameters
    ----------
    learning_rate
        The first learning rate.
    steps
        Steps that it will take in one round: those of :func:`fit`, times ``ratio_steps`` for the ratio.
    final
        The last learning rate as a share of the first.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> optimizer = cosine_adam(1e-2, 100)
    >>> optimizer.init(jnp.zeros(3))[1].count.item()
    0
    """
    # One flat vector instead of a dozen small arrays: fewer kernels to compile and to launch.
    return optax.flatten(optax.adam(optax.cosine_decay_schedule(learning_rate, steps, final)))


@lru_cache(maxsize=32)
def _compiled(algorithm: Algorithm, chunk: int) -> Callable:
    """Up to ``chunk`` steps; cached, so that a second fit of the same algorithm compiles nothing."""

    @jax.jit
    def run(key, state, data, length):
        def body(i, carry):
            state, history = carry
            state, info = algorithm.step(jax.random.fold_in(key, state.step), state, data)
            return state, jax.tree.map(lambda values, value: values.at[i].set(value), history, info)

        # A loop of traced length, and not a scan: the last, shorter chunk needs no second compilation.
        _, info = jax.eval_shape(algorithm.step, key, state, data)
        history = jax.tree.map(lambda leaf: jnp.zeros(chunk, leaf.dtype), info)
        state, history = jax.lax.fori_loop(0, length, body, (state, history))
        return state, history, algorithm.moments(state)

    return run


def fit(
    key: jax.Array,
    algorithm: Algorithm,
    data: Any,
    steps: int,
    *,
    rounds: int = 1,
    chunk: int = 100,
    progress: bool = True,
    checkpoint: str | Path | None = None,
) -> Result:
    """Run LFVI for a number of rounds, each of a number of steps.

    Parameters
    ----------
    key
        A typed key; the same key gives the same run, interrupted or not.
    algorithm
        From :func:`himlib.lfvi.lfvi`.
    data
        The observations, :class:`himlib.lfvi.Data`.
    steps
        Steps per round.
    rounds
        Rounds; between two of them the proposal is refined and r starts afresh.
    chunk
        Steps between two looks from outside: for progress, checkpoint and Ctrl-C.
    progress
        Show a progress bar.
    checkpoint
        A file to write after each chunk, whole or not at all; if it is there, the run goes on from it
        and ends bit for bit as it would have without the interruption.

    Returns
    -------
    Result
        With the outcome CONVERGED, or else one that says what to do.

    Raises
    ------
    TypeError, ValueError
        If a key is old-style, a count is no positive integer, or the checkpoint is of another run.

    Examples
    --------
    >>> import jax, optax
    >>> from himlib.families import MeanFieldNormal
    >>> from himlib.lfvi import Data, lfvi
    >>> from himlib.models import HierarchicalImplicitModel
    >>> from himlib.networks import ratio_network
    >>> import numpyro.distributions as dist
    >>> model = HierarchicalImplicitModel(dist.Normal(0, 1), noise_shape=(),
    ...     generate=lambda noise, beta, covariate: (None, beta + noise))
    >>> algorithm = lfvi(model, MeanFieldNormal(), ratio_network(hidden=(16,)),
    ...     ratio_optimizer=cosine_adam(1e-2, 20), posterior_optimizer=cosine_adam(1e-2, 20))
    >>> result = fit(jax.random.key(0), algorithm, Data(jax.numpy.ones(10)), 20, chunk=10, progress=False)
    >>> result.history.elbo.shape
    (20,)
    """
    check_counts(steps=steps, rounds=rounds, chunk=chunk)
    k_init, k_step, k_refine = jax.random.split(check_key(key), 3)
    if not isinstance(algorithm, Algorithm):
        raise TypeError(f"algorithm: expected what himlib.lfvi.lfvi returns, got {type(algorithm).__name__}.")
    if checkpoint is not None and not Path(checkpoint).parent.is_dir():
        raise ValueError(f"checkpoint: the directory {Path(checkpoint).parent} does not exist.")
    state, pieces = algorithm.init(k_init, data), []
    if rounds > 1:  # refuse now what could not be refined after the first round
        jax.eval_shape(algorithm.refine, k_refine, state, data)
    if checkpoint is not None and Path(checkpoint).exists():
        state, pieces = _load(Path(checkpoint), key, state)
    chunk = min(chunk, max(1, steps // 10))  # the verdict looks at the last tenth
    run, outcome, total = _compiled(algorithm, chunk), None, steps * rounds
    with tqdm(total=total, initial=int(state.step), disable=not progress, desc="LFVI", unit="step") as bar:
        try:
            while (done := int(state.step)) < total and outcome is None:
                if done and done % steps == 0:
                    state = algorithm.refine(jax.random.fold_in(k_refine, done), state, data)
                length = min(chunk, steps - done % steps)
                reached, info, moments = run(k_step, state, data, length)
                piece = Info(*(np.asarray(values)[:length] for values in info)), np.asarray(moments)
                state, pieces = reached, [*pieces, piece]  # together: Ctrl-C falls before or after
                if checkpoint is not None:
                    _save(Path(checkpoint), key, state, pieces)
                bar.update(length)
                last = {"elbo": f"{piece[0].elbo[-1]:.4g}", "accuracy": f"{piece[0].accuracy[-1]:.2f}"}
                bar.set_postfix(last, refresh=False)
                if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, piece[0]))):
                    outcome = Outcome.NOT_FINITE
        except KeyboardInterrupt:
            if not pieces:
                raise
            outcome = Outcome.INTERRUPTED
    infos, moments = zip(*pieces, strict=True)
    history = Info(*map(np.concatenate, zip(*infos, strict=True)))
    return Result(state, history, outcome or _judge(history, moments, steps, chunk))


@lru_cache(maxsize=32)
def _lifted(algorithm: Algorithm, chunk: int) -> Callable:
    return jax.jit(jax.vmap(_compiled(algorithm, chunk), (0, 0, None, None)))


def fit_seeds(
    keys: jax.Array, algorithm: Algorithm, data: Any, steps: int, *, chunk: int = 100, progress: bool = True
) -> Result:
    """Run :func:`fit` for each key, all of them side by side in one round.

    Parameters
    ----------
    keys
        Typed keys, such as ``jax.random.split(jax.random.key(0), 10)``.
    algorithm
        Pure functions, as :func:`himlib.lfvi.lfvi` and :func:`himlib.classification.bayesian_classifier`
        build them.
    data
        The observations, the same for all.
    steps
        Steps of each run.
    chunk
        Steps between two looks from outside.
    progress
        Show a progress bar.

    Returns
    -------
    Result
        State and history with a leading axis of seeds; the outcome is a tuple, one for each. A run that
        becomes NaN goes on beside the others.

    Raises
    ------
    TypeError, ValueError
        If keys are old-style or one key alone, or a count is no positive integer.

    Examples
    --------
    >>> import jax, optax
    >>> from himlib.classification import bayesian_classifier
    >>> from himlib.families import PointMass
    >>> from himlib.label_generator import Generator
    >>> from himlib.lfvi import Data
    >>> algorithm = bayesian_classifier(Generator(features=1, classes=2), PointMass(),
    ...     ratio_optimizer=optax.adam(1e-2), posterior_optimizer=optax.adam(1e-2))
    >>> data = Data(jax.numpy.array([0, 1, 1]), jax.numpy.ones((3, 1)))
    >>> keys = jax.random.split(jax.random.key(0), 5)
    >>> fit_seeds(keys, algorithm, data, 20, progress=False).history.elbo.shape
    (5, 20)
    """
    check_counts(steps=steps, chunk=chunk)
    if check_key(keys).ndim != 1:
        raise ValueError("keys: expected a vector of keys, as of jax.random.split, got one; see fit.")
    k_init, k_step, _ = jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(keys)
    state, pieces = jax.jit(jax.vmap(algorithm.init, (0, None)))(k_init, data), []
    chunk = min(chunk, max(1, steps // 10))
    run = _lifted(algorithm, chunk)
    with tqdm(total=steps, disable=not progress, desc=f"{len(keys)} seeds", unit="step") as bar:
        for done in range(0, steps, chunk):
            length = min(chunk, steps - done)
            state, info, moments = run(k_step, state, data, length)
            pieces.append((Info(*(np.asarray(values)[:, :length] for values in info)), np.asarray(moments)))
            bar.update(length)
    infos, moments = zip(*pieces, strict=True)
    history = Info(*(np.concatenate(values, axis=1) for values in zip(*infos, strict=True)))

    def judge(seed):
        own = Info(*(values[seed] for values in history))
        if not all(np.isfinite(values).all() for values in own):
            return Outcome.NOT_FINITE
        return _judge(own, [values[seed] for values in moments], steps, chunk)

    return Result(state, history, tuple(map(judge, range(len(keys)))))


def _judge(history: Info, moments: Sequence, steps: int, chunk: int) -> Outcome:
    """Read the verdict off the last tenth of the last round."""
    tenth = max(1, steps // 10)
    location, scale = moments[-1]
    accuracy, spread = history.accuracy[-tenth:].mean(), history.spread[-1]
    if accuracy > 0.99:
        return Outcome.SATURATED
    if accuracy > 0.9 and spread > 0:
        # Telling beta's own x from another takes a Kullback-Leibler divergence of so many nats (data
        # processing), and by as many nats at least one datum would narrow q.
        needed = (2 * accuracy - 1) * np.log(accuracy / (1 - accuracy))
        if -location.size * np.log(spread) < needed:
            return Outcome.SATURATED
    if 0 < spread < 1e-5:
        return Outcome.COLLAPSED
    back = -(-steps // chunk) - (steps - tenth) // chunk  # chunks since the last tenth began
    before, _ = moments[max(0, len(moments) - 1 - back)]
    if np.any(np.abs(location - before) > 0.5 * np.where(scale > 0, scale, 1.0)):
        return Outcome.DRIFTING
    return Outcome.CONVERGED


def _save(path: Path, key: jax.Array, state: State, pieces: list) -> None:
    """Write aside, then rename: a kill leaves the old file or the new one, never half a file."""
    arrays = {f"state_{i}": leaf for i, leaf in enumerate(jax.tree.leaves(state))}
    for i, (info, moments) in enumerate(pieces):
        arrays |= {
            f"piece_{i}_{name}": values for name, values in {**info._asdict(), "moments": moments}.items()
        }
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        np.savez(file, key=jax.random.key_data(key), pieces=len(pieces), **arrays)
    os.replace(file.name, path)


def _load(path: Path, key: jax.Array, state: State) -> tuple[State, list]:
    leaves, tree = jax.tree.flatten(state)
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            saved_key = arrays["key"]
            saved = [arrays[f"state_{i}"] for i in range(sum(name.startswith("state_") for name in arrays))]
            pieces = [
                (Info(*(arrays[f"piece_{i}_{name}"] for name in Info._fields)), arrays[f"piece_{i}_moments"])
                for i in range(int(arrays["pieces"]))
            ]
    except (BadZipFile, EOFError, KeyError, ValueError) as error:
        raise ValueError(f"checkpoint: {path.name} cannot be read ({error}); delete it.") from error
    if not np.array_equal(saved_key, jax.random.key_data(key)) or [
        (leaf.shape, leaf.dtype) for leaf in saved
    ] != [(leaf.shape, leaf.dtype) for leaf in leaves]:
        raise ValueError(
            f"checkpoint: {path.name} is of another run (its key or parameters differ); name a new file."
        )
    return tree.unflatten(map(jnp.asarray, saved)), pieces
