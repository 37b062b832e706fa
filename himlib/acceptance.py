"""The loop that :mod:`himlib.abc` runs: propose, simulate, summarize, measure, select, count."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from himlib.algorithm import Data
from himlib.checks import check_counts
from himlib.models import HierarchicalImplicitModel
from himlib.problem import check_problem, noted
from himlib.random import check_key, normal

CHUNK = 20  # batches, or steps of all chains, between two looks from outside
FEW = 30.0  # effective draws below which no mean is worth quoting
FAILING = 0.01  # share of simulations that are not finite from which the outcome speaks of them


class ABCOutcome(Enum):
    """How a run ended; the value is advice in words.

    Examples
    --------
    >>> ABCOutcome.NONE_ACCEPTED.name
    'NONE_ACCEPTED'
    """

    COMPLETED = (
        "Draws of the ABC posterior at this tolerance. Halve the tolerance to see whether it still matters."
    )
    NONE_ACCEPTED = (
        "No simulation came within the tolerance. Raise it above the nearest distance, spend more "
        "simulations, use fewer summaries or standardized ones, or go there by degrees with smc."
    )
    STUCK = (
        "No chain ever moved: every draw is a repeated starting point. Take a smaller step, or a larger "
        "tolerance."
    )
    FEW = "Fewer than 30 effective draws. Raise the tolerance, or spend more simulations."
    OUT_OF_SIMULATIONS = (
        "The cap on simulations came before the last tolerance: the draws are those of the last "
        "generation that was completed. Spend more simulations, or be content with its tolerance."
    )
    NOT_FINITE = (
        "No simulation was finite, or its distance was not. Bound the simulator's state, narrow the "
        "prior, or mend the summary."
    )
    SUCCESSES_ONLY = (
        "More than 1 % of the simulations were not finite, and counted as rejected: the draws are of the ABC "
        "posterior given that the simulator succeeds. Bound its state or narrow the prior; or, if failure "
        "is part of the model, return a flag for it beside x, and let the summary see it."
    )
    INTERRUPTED = "Stopped by hand: the draws are those made so far."


class Generation(NamedTuple):
    """What sequential Monte Carlo reports; arrays with an entry for each generation.

    Attributes
    ----------
    tolerance, acceptance, ess
        Of the generation.
    simulations
        Spent up to its end.

    Examples
    --------
    >>> Generation._fields
    ('tolerance', 'acceptance', 'ess', 'simulations')
    """

    tolerance: np.ndarray
    acceptance: np.ndarray
    ess: np.ndarray
    simulations: np.ndarray


class ABCResult(NamedTuple):
    """Weighted draws of the ABC posterior, and what they cost.

    Attributes
    ----------
    beta
        The draws, with a leading axis; from chains, one chain after the other.
    weights
        They add up to 1, and are equal but for :func:`smc`.
    distances
        One for each draw, none above the tolerance.
    tolerance
        At which the draws were accepted.
    simulations
        Data sets simulated, never more than was allowed.
    acceptance
        Share of the simulations that were accepted: of all for :func:`rejection`, of the chains' steps
        for :func:`mcmc`, of the last generation for :func:`smc`.
    ess
        Effective sample size: draws accepted, or :math:`1 / \\sum_i w_i^2`, or for chains the smallest of
        the unconstrained coordinates' by autocorrelation.
    nearest
        The smallest distance of all simulations, for choosing a tolerance.
    not_finite
        Simulations that were not finite or had no finite distance. They count as rejected.
    outcome
        The verdict, with advice in ``outcome.value``.
    history
        A :class:`Generation` for :func:`smc`, else None.

    Examples
    --------
    >>> ABCResult._fields[:3]
    ('beta', 'weights', 'distances')
    """

    beta: Any
    weights: np.ndarray
    distances: np.ndarray
    tolerance: float
    simulations: int
    acceptance: float
    ess: float
    nearest: float
    not_finite: int
    outcome: ABCOutcome
    history: Generation | None = None


def simulate(model, summary, key, beta, data):
    """A data set for each row of beta: its summary, and whether it is finite."""
    size, rows = (jax.tree.leaves(tree)[0].shape[0] for tree in (beta, data.x))
    betas = jax.tree.map(lambda leaf: jnp.repeat(leaf, rows, axis=0), beta)
    covariate = jax.tree.map(lambda leaf: jnp.tile(leaf, (size,) + (1,) * (leaf.ndim - 1)), data.covariate)
    _, x = model.simulate_batch(key, betas, covariate)
    x = jax.tree.map(lambda leaf: leaf.reshape(size, rows, *leaf.shape[1:]), x)
    finite = [jnp.isfinite(leaf).reshape(size, -1).all(1) for leaf in jax.tree.leaves(x)]
    return jax.vmap(lambda x: summary(Data(x, data.covariate)))(x), jnp.stack(finite).all(0)


class Programs(NamedTuple):
    """What is compiled once for a model, a summary and a distance."""

    from_prior: Callable
    from_kernel: Callable
    walk: Callable
    log_density: Callable
    log_mixture: Callable
    space: Callable


@lru_cache(maxsize=32)
def compiled(model: HierarchicalImplicitModel, summary: Callable, distance: Callable) -> Programs:
    def space():  # refuses a discrete prior, with which rejection has no trouble
        return model.space

    def measure(key, beta, data):
        """Distances of data sets simulated at each row of beta; infinite where anything is not finite."""
        simulated, finite = simulate(model, summary, key, beta, data)
        distances = jax.vmap(distance, (0, None))(simulated, summary(data))
        return jnp.where(finite & jnp.isfinite(distances), distances, jnp.inf)

    def repeat(function, first, length, carry):
        """Run ``carry, out = function(i, carry)`` from i = first and stack what comes out, up to CHUNK."""
        shapes = jax.eval_shape(function, first, carry)[1]
        out = jax.tree.map(lambda leaf: jnp.zeros((CHUNK, *leaf.shape), leaf.dtype), shapes)

        def body(i, carried):
            carry, out = carried
            carry, new = function(first + i, carry)
            return carry, jax.tree.map(lambda all, one: all.at[i].set(one), out, new)

        # Of traced length, and not a scan: a shorter chunk needs no compilation of its own.
        return jax.lax.fori_loop(0, length, body, (carry, out))

    def proposing(propose):
        """Propose, simulate and measure batch after batch in one loop: nothing else is kept."""

        @partial(jax.jit, static_argnames="batch")
        def run(key, first, length, data, population, batch):
            def step(i, _):
                k_propose, k_simulate = jax.random.split(jax.random.fold_in(key, i))
                draws, beta = propose(k_propose, batch, population)
                return None, (draws, measure(k_simulate, beta, data))

            return repeat(step, first, length, None)[1]

        return run

    def prior(key, batch, _):
        beta = model.sample_prior(key, (batch,))
        return beta, beta

    def kernel(key, batch, population):
        u, factor, cumulative = population
        k_ancestor, k_noise = jax.random.split(key)
        ancestor = jnp.searchsorted(cumulative, jax.random.uniform(k_ancestor, (batch,)) * cumulative[-1])
        u = u[jnp.minimum(ancestor, len(u) - 1)] + normal(k_noise, (batch, u.shape[1])) @ factor.T
        return u, jax.vmap(space().constrain)(u)

    def log_density(u):
        return model.log_prior(space().constrain(u)) + space().log_jacobian(u)

    @jax.jit
    def walk(key, first, length, data, state, tolerance, step):
        """Metropolis-Hastings in unconstrained coordinates, all chains at once."""

        def move(i, state):
            u, log_p, distances = state
            k_propose, k_simulate, k_accept = jax.random.split(jax.random.fold_in(key, i), 3)
            proposal = u + step * normal(k_propose, u.shape)
            new = proposal, jax.vmap(log_density)(proposal)
            measured = measure(k_simulate, jax.vmap(space().constrain)(proposal), data)
            within = jnp.log(jax.random.uniform(k_accept, log_p.shape)) < new[1] - log_p
            accept = within & (measured <= tolerance) & jnp.isfinite(measured)
            state = (
                jnp.where(accept[:, None], proposal, u),
                jnp.where(accept, new[1], log_p),
                jnp.where(accept, measured, distances),
            )
            return state, (state[0], state[2], measured, accept)

        return repeat(move, first, length, state)

    @jax.jit
    def log_mixture(u, whitened, means, log_weights):
        """log prior density less log density of the mixture that u was proposed from, up to a constant."""

        def one(pair):
            u, v = pair
            square = jnp.sum((v - means) ** 2, -1)
            return log_density(u) - jax.nn.logsumexp(log_weights - square / 2)

        return jax.lax.map(one, (u, whitened), batch_size=256)

    return Programs(
        proposing(prior), proposing(kernel), walk, jax.jit(jax.vmap(log_density)), log_mixture, space
    )


@dataclass
class Run:
    """Counts what is simulated, whoever asks for it, and never lets it pass the cap."""

    key: jax.Array
    model: HierarchicalImplicitModel
    data: Data
    summary: Callable
    distance: Callable
    limit: int
    progress: bool
    simulations: int = 0
    not_finite: int = 0
    nearest: float = math.inf
    interrupted: bool = False
    acceptance: float = 0.0
    bar: Any = field(init=False)

    def __post_init__(self):
        check_key(self.key)
        check_summary(self.model, self.data, self.summary)
        if not callable(self.distance):
            raise TypeError(f"distance: expected a function of two summaries, got {self.distance!r}.")
        self.data = jax.tree.map(jnp.asarray, self.data)
        observed = self.summary(self.data)
        if not bool(jnp.all(jnp.isfinite(observed))):
            raise ValueError(f"summary: not finite at the data, {np.asarray(observed)}.")
        shape = getattr(jax.eval_shape(self.distance, observed, observed), "shape", None)
        if shape != ():
            raise ValueError(f"distance: expected one number for two summaries, got shape {shape}.")
        check_counts(simulations=self.limit)
        self.programs = compiled(self.model, self.summary, self.distance)
        self.bar = tqdm(total=self.limit, disable=not self.progress, desc="ABC", unit="simulation")

    def count(self, distances, **report):
        self.simulations += distances.size
        self.not_finite += int(np.isinf(distances).sum())
        self.nearest = min(self.nearest, float(distances.min()))
        self.bar.update(distances.size)
        self.bar.set_postfix(report, refresh=False)

    def accept(self, key, batch, population=None, *, tolerance=math.inf, wanted=None, best=None, limit=None):
        """Simulate until enough draws are within the tolerance or the limit is reached.

        Proposals are from the prior, or from a kernel around a population. Of the draws within the
        tolerance come back the first ``wanted``, or the nearest ``best``, and their distances.
        """
        program = self.programs.from_prior if population is None else self.programs.from_kernel
        limit, pieces, accepted, spent, first = limit or self.limit, [], 0, 0, 0
        try:
            while self.simulations < limit and (wanted is None or accepted < wanted):
                length = math.ceil((limit - self.simulations) / batch)
                if wanted is not None:  # as many as it will take at the rate seen so far
                    needed = (wanted - accepted) * max(spent, 1) / (accepted + 1)
                    length = min(length, math.ceil(needed / batch))
                length = min(length, CHUNK)
                made = jax.device_get(program(key, first, length, self.data, population, batch=batch))
                left = min(length * batch, limit - self.simulations)
                made = take(merged(made), slice(left))
                within = np.isfinite(made[1]) & (made[1] <= tolerance)
                pieces.append(take(made, within))
                accepted, spent, first = accepted + int(within.sum()), spent + left, first + length
                self.count(made[1], accepted=accepted)
                if best is not None:
                    pieces = [nearest(joined(pieces), best)]
        except KeyboardInterrupt:
            if not self.simulations:
                raise
            self.interrupted = True
        self.acceptance = accepted / max(spent, 1)
        return take(joined(pieces), slice(wanted)) if pieces else (None, np.empty(0))

    def result(self, beta, distances, tolerance, acceptance, ess, weights=None, history=None, **signs):
        self.bar.close()
        size = len(distances)
        return ABCResult(
            beta=beta,
            weights=np.full(size, 1 / max(size, 1), np.float32) if weights is None else weights,
            distances=distances,
            tolerance=float(tolerance),
            simulations=self.simulations,
            acceptance=float(acceptance),
            ess=float(ess),
            nearest=self.nearest,
            not_finite=self.not_finite,
            outcome=self.judge(size, ess, **signs),
            history=history,
        )

    def judge(self, size, ess, stuck=False, short=False):
        signs = {
            ABCOutcome.INTERRUPTED: self.interrupted,
            ABCOutcome.NOT_FINITE: self.not_finite == self.simulations,
            ABCOutcome.NONE_ACCEPTED: size == 0,
            ABCOutcome.STUCK: stuck,
            ABCOutcome.OUT_OF_SIMULATIONS: short,
            ABCOutcome.FEW: ess < FEW,
            ABCOutcome.SUCCESSES_ONLY: self.not_finite > FAILING * self.simulations,
        }
        return next((outcome for outcome, sign in signs.items() if sign), ABCOutcome.COMPLETED)


def joined(pieces):
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)


def merged(tree):
    """The first two axes as one."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)


def take(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def nearest(found, count):
    """The draws of the smallest distances, nearest first."""
    return take(found, np.argsort(found[1], kind="stable")[:count])


def check_summary(model, data, summary):
    check_problem(model, data, least=0.0)  # what is not finite is counted, as rejected
    if not callable(summary):
        raise TypeError(f"summary: expected a function of Data, got {type(summary).__name__}.")
    with noted("Raised in summary(data), which gets all of Data: data.x.mean() is one."):
        made = jax.eval_shape(summary, data)
    if len(getattr(made, "shape", (0, 0))) > 1:
        got = f"shape {made.shape}" if hasattr(made, "shape") else type(made).__name__
        raise ValueError(f"summary: expected a number or a vector for a whole data set, got {got}.")


def check_tolerance(tolerance):
    if not tolerance >= 0:
        raise ValueError(f"tolerance: expected a number, zero or more, got {tolerance!r}.")
