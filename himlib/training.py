"""Run an algorithm: scanned chunks, progress, history, checkpoints, and a verdict at the end."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from himlib._checkpoints import Checkpoint, fingerprint_data
from himlib._checks import check_counts
from himlib.base import Algorithm, Info, State, check_state
from himlib.models import Frame
from himlib.random import check_key

__all__ = ["Outcome", "Result", "cosine_adam", "fit", "fit_seeds"]


class Outcome(Enum):
    """How a run ended; the value is advice in words."""

    AT_REST = (
        "q has come to rest, which is all that an optimizer can tell. Whether in the right place, "
        "himlib.verdict asks."
    )
    DRIFTING = (
        "q was still moving: over the last tenth of the last round its mean moved by more than half an "
        "sd. Take more steps: go on with fit(key, algorithm, data, steps, state=result.state) if the "
        "learning rates are constant; if they decay, as cosine_adam's, begin again with more steps. Or, if q "
        "only moves to and fro, let them decay."
    )
    SATURATED = (
        "The ratio network tells more samples apart than the width of q can account for: r is flat where q "
        "needs its slope, and q stays near where it began. Contrast with the predictive reference instead of "
        "the empirical one, give r residual features, or factorize the data into smaller pieces."
    )
    BLIND = (
        "r tells nothing: its accuracy is that of a coin, and q is as wide as the prior. x may not depend on "
        "beta, the features may not see both, r may have had too few steps, or the data may say nothing."
    )
    OUTSIDE = (
        "q's center left the proposal by more than three of its sds, where r was never trained. Let q wait "
        "longer for r, lower q's learning rate, or take more rounds, until it stays inside."
    )
    COLLAPSED = (
        "The sds of q fell below 1e-5 of the proposal's scale. Lower the posterior's learning "
        "rate, take more ratio steps, or check that covariates reach the ratio network."
    )
    NOT_FINITE = (
        "A loss, gradient or parameter became NaN or infinite: r or q diverged. The run stopped there, and "
        "the state is the last finite one. Lower the learning rates, or bound the features."
    )
    SIMULATOR_NOT_FINITE = (
        "A simulated x was NaN or infinite. The run stopped there, and the state is the last finite one. "
        "Bound the simulator's state, or narrow the prior. If its solver may fail, let it say so: an x such "
        'as {"x": jnp.where(ok, x, 0.0), "failed": ~ok} is a model of failure, from which r learns as well.'
    )
    INTERRUPTED = "Stopped by hand: state and history are those reached."


class Result(NamedTuple):
    """What a run leaves.

    Attributes
    ----------
    state
        The last state; the last finite one, if a step was not finite.
    history
        An Info of numpy arrays, one entry per step. A step that was not finite is its last entry.
    outcome
        The verdict, with advice in ``outcome.value``.
    advice
        The same advice, and what is known of this run: the step that was not finite, the share of the
        simulated x that were not, and the first beta that gave one.
    earlier
        The states in which the rounds before the last one ended.
    """

    state: State
    history: Info
    outcome: Outcome | tuple[Outcome, ...]
    advice: str | tuple[str, ...] = ""
    earlier: tuple[State, ...] = ()


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

    Returns
    -------
    optax.GradientTransformation
        For a tree of arrays of any shapes, which it works on as one vector.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> optimizer = cosine_adam(1e-2, 100)
    >>> optimizer.init(jnp.zeros(3))[1].count.item()
    0
    """
    # One flat vector instead of a dozen small arrays: fewer kernels to compile and to launch.
    return optax.flatten(optax.adam(optax.cosine_decay_schedule(learning_rate, steps, final)))


def descend(objective: Callable, optimizer: optax.GradientTransformation, carry: tuple, keys: jax.Array):
    """Take a step down ``objective(params, key)`` for each key, from params and the optimizer's state."""

    def step(carry, key):
        params, state = carry
        value, gradient = jax.value_and_grad(objective)(params, key)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    return jax.lax.scan(step, carry, keys)


def _hold(state: State, steps: float) -> State:
    """Let q(beta) wait for so many steps, and set off over as many, if the algorithm knows of waiting."""
    if state.wait is None:
        return state
    both = jnp.array([2, 1], state.wait.dtype) * int(steps)
    return state._replace(wait=jnp.broadcast_to(both, state.wait.shape))


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
        leaves = [
            leaf for leaf in jax.tree.leaves((state, history)) if jnp.issubdtype(leaf.dtype, jnp.inexact)
        ]
        finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
        return state, history, _look(algorithm, state), finite

    return run


def describe_simulated(x: Any, beta: Any) -> str:
    """Say how many rows of x are not finite, and which beta gave the first; nothing if all are.

    Examples
    --------
    >>> describe_simulated(jnp.array([0.0, jnp.nan, jnp.inf, 1.0]), {"rate": jnp.arange(4.0)})
    "50 % of the simulated x, the first at beta = {'rate': 1.0}"
    """
    rows = [np.asarray(jnp.isfinite(leaf)).reshape(len(leaf), -1).all(1) for leaf in jax.tree.leaves(x)]
    bad = ~np.all(rows, axis=0)
    if not bad.any():
        return ""
    digits = np.vectorize(lambda value: float(f"{value:.8g}"))
    first = jax.tree.map(lambda leaf: digits(np.asarray(leaf)[bad.argmax()]).tolist(), beta)
    return f"{100 * bad.mean():.3g} % of the simulated x, the first at beta = {first}"


def _stop(algorithm: Algorithm, key: jax.Array, data: Any, advance: Callable, info: Info, length: int):
    """Find the first step of a chunk that is not finite, and why.

    ``advance(n)`` runs the chunk's first n steps again. Returned are the number of finite steps, what the
    chunk is after these, the outcome and the advice.
    """
    bad = ~np.all([np.isfinite(values[:length]) for values in info], axis=0)
    good = int(bad.argmax()) if bad.any() else length - 1
    while not (reached := advance(good))[-1] and good:  # a state may break before its reports do
        good -= 1
    state, outcome, found = reached[0], Outcome.NOT_FINITE, ""
    if algorithm.simulated is not None:  # a function of the step's key
        made = jax.jit(algorithm.simulated)(jax.random.fold_in(key, state.step), state, data)
        if found := describe_simulated(*made):
            outcome, found = Outcome.SIMULATOR_NOT_FINITE, f": {found}"
    return good, reached, outcome, f"{outcome.value} It was step {int(state.step) + 1}{found}."


def fit(
    key: jax.Array,
    algorithm: Algorithm,
    data: Any,
    steps: int,
    *,
    rounds: int = 1,
    wait: float = 0.2,
    chunk: int = 100,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    frame: Frame | None = None,
    state: State | None = None,
) -> Result:
    """Run LFVI for a number of rounds, each of a number of steps.

    Parameters
    ----------
    key
        A typed key; the same key gives the same run, interrupted or not.
    algorithm
        From :func:`himlib.variational.lfvi`.
    data
        The observations, :class:`himlib.base.Data`.
    steps
        Steps per round.
    rounds
        Rounds; between two of them the proposal is refined and r starts afresh.
    wait
        Share of each round's steps in which q(beta) waits for r. Over as many more the weight of the data in
        its objective, and its steps, grow with the square of time. An r that has yet to learn would send q
        where r is never trained, the more surely the more globals there are. Where the proposal follows q,
        r learns where q is, and q does not wait.
    chunk
        Steps between two looks from outside: for progress, checkpoint and Ctrl-C.
    progress
        Show a progress bar.
    checkpoint
        A file to write after each chunk, whole or not at all; if it is there, the run goes on from it
        and ends bit for bit as it would have without the interruption. It knows its run: key, data,
        model, settings, steps and chunk must be the same (and the version of JAX, whose programs differ);
        there may be more rounds. Beside it lies the history, a second file of the same name and
        ``.history``; the two belong together.
    frame
        Location and scale, in unconstrained coordinates, of the first proposal and of q before its first
        step; None takes the prior's. Narrow frames at several places find several modes. Where the reference
        does not move with the proposal, as ``reference="empirical"`` or a function of yours, exp(elbo)
        weighs them, up to the errors of r, which add up over the data.
    state
        Go on from this state of another run of the algorithm, such as ``result.state``, in place of a
        new one: its optimizers and its proposal go on as well, and steps and rounds count from there.
        With the same key this is what the longer run would have given, bit for bit where the chunks are
        of the same size too.

    Returns
    -------
    Result
        With the outcome AT_REST, or else one that says what to do.

    Raises
    ------
    TypeError, ValueError
        If a key is old-style, a count is no positive integer, frame does not fit the model, or
        checkpoint or state are of another run.

    Examples
    --------
    >>> import jax, optax
    >>> from himlib import Data, HierarchicalImplicitModel, MeanFieldNormal, lfvi, ratio_network
    >>> import numpyro.distributions as dist
    >>> model = HierarchicalImplicitModel(dist.Normal(0, 1), noise_shape=(),
    ...     generate=lambda noise, beta, covariate: (None, beta + noise))
    >>> algorithm = lfvi(model, MeanFieldNormal(), ratio_network(hidden=(16,)),
    ...     ratio_optimizer=cosine_adam(1e-2, 20), posterior_optimizer=cosine_adam(1e-2, 20))
    >>> result = fit(jax.random.key(0), algorithm, Data(jax.numpy.ones(10)), 20, chunk=10, progress=False)
    >>> result.history.elbo.shape
    (20,)
    >>> more = fit(jax.random.key(0), algorithm, Data(jax.numpy.ones(10)), 10, state=result.state,
    ...     progress=False)
    >>> int(more.state.step), more.history.elbo.shape
    (30, (10,))
    """
    check_counts(steps=steps, rounds=rounds, chunk=chunk)
    if not 0 <= wait < 0.5:
        raise ValueError(f"wait: expected a share of the steps in [0, 0.5), got {wait!r}.")
    k_init, k_step, k_refine = jax.random.split(check_key(key), 3)
    if not isinstance(algorithm, Algorithm):
        raise TypeError(f"algorithm: expected what himlib.lfvi returns, got {type(algorithm).__name__}.")
    if checkpoint is not None and not Path(checkpoint).parent.is_dir():
        raise ValueError(f"checkpoint: the directory {Path(checkpoint).parent} does not exist.")
    if frame is not None and (state is not None or algorithm.proposal is None):
        raise ValueError("frame: a state has its own, and only lfvi proposes beta; pass frame=None.")
    first = algorithm.init(k_init, data) if frame is None else algorithm.init(k_init, data, frame)
    prior = first.frame
    first = _hold(first, wait * steps) if state is None else _check_alike(state, first)
    if rounds > 1:  # refuse now what could not be refined after the first round
        jax.eval_shape(algorithm.refine, k_refine, first, data)
    chunk = min(chunk, max(1, steps // 10))  # the verdict looks at the last tenth
    run, outcome, advice, total, file = _compiled(algorithm, chunk), None, "", steps * rounds, None
    state, pieces, earlier = first, list[tuple[Info, np.ndarray]](), tuple[State, ...]()
    if checkpoint is not None:

        def program():
            programs = [
                jax.jit(algorithm.step).trace(k_step, first, data),
                jax.jit(algorithm.moments).trace(first),
            ]
            with suppress(ValueError):  # one round is all that there is
                programs.append(jax.jit(algorithm.refine).trace(k_refine, first, data))
            return [program.jaxpr for program in programs]

        marks = {
            "key": jax.random.key_data(key),
            "data": fingerprint_data(data),
            "steps": steps,
            "chunk": chunk,
        }
        file = Checkpoint(Path(checkpoint), first, program, **marks)
        state, pieces, earlier = file.load()
    begin = int(first.step)
    if file is not None and int(state.step) > begin + total:
        file.refuse("rounds are more")
    with tqdm(
        total=total, initial=int(state.step) - begin, disable=not progress, desc="LFVI", unit="step"
    ) as bar:
        try:
            while (done := int(state.step) - begin) < total and outcome is None:
                if done and done % steps == 0:
                    earlier = (*earlier, state)
                    state = algorithm.refine(jax.random.fold_in(k_refine, begin + done), state, data)
                    state = _hold(state, wait * steps)
                length = min(chunk, steps - done % steps)
                reached, info, moments, finite = run(k_step, state, data, length)
                if not finite:
                    advance = partial(run, k_step, state, data)
                    good, (reached, _, moments, _), outcome, advice = _stop(
                        algorithm, k_step, data, advance, info, length
                    )
                    length = good + 1
                piece = Info(*(np.asarray(values)[:length] for values in info)), np.asarray(moments)
                state, pieces = reached, [*pieces, piece]  # together: Ctrl-C falls before or after
                if file is not None and finite:
                    file.save(state, *piece, earlier)
                bar.update(length)
                last = {"elbo": f"{piece[0].elbo[-1]:.4g}", "accuracy": f"{piece[0].accuracy[-1]:.2f}"}
                bar.set_postfix(last, refresh=False)
        except KeyboardInterrupt:
            if not pieces:
                raise
            outcome = Outcome.INTERRUPTED
    infos, moments = zip(*pieces, strict=True)
    history = Info(*map(np.concatenate, zip(*infos, strict=True)))
    outcome = outcome or _judge(history, moments, prior, steps, chunk)
    return Result(state, history, outcome, advice or outcome.value, earlier)


def _check_alike(state: Any, expected: State) -> State:
    """Return the state, if it could be one of this run."""
    check_state(state)

    def kind(state):
        leaves, tree = jax.tree.flatten(state)
        return tree, [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]

    if kind(state) != kind(expected):
        raise ValueError(
            "state: expected one of this algorithm, got other parameters, shapes or types; of many seeds, "
            "take one: jax.tree.map(lambda leaf: leaf[0], result.state)."
        )
    return state


@lru_cache(maxsize=32)
def _lifted(algorithm: Algorithm, chunk: int) -> Callable:
    return jax.jit(jax.vmap(_compiled(algorithm, chunk), (0, 0, None, None)))


def fit_seeds(
    keys: jax.Array,
    algorithm: Algorithm,
    data: Any,
    steps: int,
    *,
    wait: float = 0.2,
    chunk: int = 100,
    progress: bool = True,
) -> Result:
    """Run :func:`fit` for each key, all of them side by side in one round.

    Parameters
    ----------
    keys
        Typed keys, such as ``jax.random.split(jax.random.key(0), 10)``.
    algorithm
        Pure functions, as :func:`himlib.variational.lfvi` and
        :func:`himlib.classification.bayesian_classifier` build them.
    data
        The observations, the same for all.
    steps
        Steps of each run.
    wait
        As for :func:`fit`.
    chunk
        Steps between two looks from outside.
    progress
        Show a progress bar.

    Returns
    -------
    Result
        State and history with a leading axis of seeds; outcome and advice are tuples, one for each. A run
        that becomes NaN keeps its last finite state; its history is NaN after the step that was not finite.

    Raises
    ------
    TypeError, ValueError
        If keys are old-style or one key alone, or a count is no positive integer.

    Examples
    --------
    >>> import jax, optax
    >>> from himlib import Data, PointMass
    >>> from himlib.classification import Generator, bayesian_classifier
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
    state, pieces = _hold(jax.jit(jax.vmap(algorithm.init, (0, None)))(k_init, data), wait * steps), []
    prior = jax.tree.map(lambda leaf: leaf[0], state.frame)
    chunk = min(chunk, max(1, steps // 10))
    run = _lifted(algorithm, chunk)
    ended: dict[int, tuple] = {}
    with tqdm(total=steps, disable=not progress, desc=f"{len(keys)} seeds", unit="step") as bar:
        for done in range(0, steps, chunk):
            length = min(chunk, steps - done)
            reached, info, moments, finite = run(k_step, state, data, length)
            if ended:  # stays where it was
                still = np.array(list(ended))
                reached = jax.tree.map(lambda new, old: new.at[still].set(old[still]), reached, state)  # noqa: B023
            for seed in set(np.flatnonzero(~np.asarray(finite)).tolist()) - set(ended):

                def advance(count):
                    again = run(k_step, state, data, count)  # noqa: B023
                    return jax.tree.map(lambda leaf: leaf[seed], again)  # noqa: B023

                own = Info(*(values[seed] for values in info))
                good, (last, *_), *verdict = _stop(algorithm, k_step[seed], data, advance, own, length)
                ended[seed] = done + good + 1, *verdict
                reached = jax.tree.map(lambda new, old: new.at[seed].set(old), reached, last)  # noqa: B023
            state = reached
            pieces.append((Info(*(np.asarray(values)[:, :length] for values in info)), np.asarray(moments)))
            bar.update(length)
    infos, moments = zip(*pieces, strict=True)
    history = Info(*(np.concatenate(values, axis=1) for values in zip(*infos, strict=True)))
    for seed, (stop, *_) in ended.items():
        for values in history:
            values[seed, stop:] = np.nan

    def judge(seed):
        if seed in ended:
            return ended[seed][1:]
        own = Info(*(values[seed] for values in history))
        outcome = _judge(own, [values[seed] for values in moments], prior, steps, chunk)
        return outcome, outcome.value

    outcomes, advice = zip(*map(judge, range(len(keys))), strict=True)
    return Result(state, history, outcomes, advice)


def _look(algorithm: Algorithm, state: State) -> jax.Array:
    """Mean and sd of q, then location and scale of the proposal: (4, d)."""
    moments = algorithm.moments(state)
    proposal = moments if algorithm.proposal is None else algorithm.proposal(state)
    return jnp.concatenate([moments, proposal])


def _judge(history: Info, looks: Sequence, prior: Any, steps: int, chunk: int) -> Outcome:
    """Read the outcome off the last tenth of the last round, and off where the last two rounds ended."""
    tenth = max(1, steps // 10)
    location, scale, *_ = looks[-1]
    accuracies = history.accuracy[-tenth:]
    accuracy, spread = accuracies.mean(), history.spread[-1]
    if accuracy > 0.9 and spread > 0:
        # Telling beta's own x from another takes a Kullback-Leibler divergence of so many nats (data
        # processing), and by about as many one datum would narrow q: half of that is asked for.
        sure: Any = min(accuracy, 1 - 1e-6)
        needed = (2 * sure - 1) * np.log(sure / (1 - sure))
        if -location.size * np.log(spread) < needed / 2:
            return Outcome.SATURATED
    elif accuracy > 0.99:
        return Outcome.SATURATED  # beside a point
    if 0 < spread < 1e-5:
        return Outcome.COLLAPSED
    each = -(-steps // chunk)  # looks in a round
    for mean, _, center, width in looks[-1 : -each - 2 : -each]:
        if np.any(np.abs(mean - center) > 3 * width):
            return Outcome.OUTSIDE
    back = each - (steps - tenth) // chunk  # looks since the last tenth began
    before = looks[max(0, len(looks) - 1 - back)][0]
    if np.any(np.abs(location - before) > 0.5 * np.where(scale > 0, scale, 1.0)):
        return Outcome.DRIFTING
    noise = max(4 * accuracies.std() / len(accuracies) ** 0.5, 2e-3)
    if abs(accuracy - 0.5) < noise and np.all(scale > 0.8 * np.asarray(prior.scale)):
        return Outcome.BLIND
    return Outcome.AT_REST
