"""Rejection, Markov chains and sequential Monte Carlo, each a way to spend the same simulations."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.diagnostics import effective_sample_size

from himlib._checks import check_counts
from himlib.abc._programs import CHUNK, joined, merged, nearest, simulate, take
from himlib.abc._run import Run, check_summary, check_tolerance
from himlib.abc.results import ABCResult, Generation
from himlib.base import Data
from himlib.models import HierarchicalImplicitModel
from himlib.random import check_key

__all__ = ["euclidean", "mcmc", "rejection", "smc", "standardize"]


def euclidean(simulated: jax.Array, observed: jax.Array) -> jax.Array:
    r"""Euclidean distance of two summaries, :math:`\sqrt{\sum_i (s_i - s_{obs,i})^2}`.

    Parameters
    ----------
    simulated, observed
        Summaries of one shape.

    Returns
    -------
    jax.Array
        A scalar, in the summaries' units.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> float(euclidean(jnp.array([3.0, 0.0]), jnp.array([0.0, 4.0])))
    5.0
    """
    difference = simulated - observed
    largest = jnp.max(jnp.abs(difference), initial=0.0)
    unit = jnp.where(largest > 0, largest, 1.0)  # squares of 1e-20 or 1e20 are no numbers of single precision
    return unit * jnp.sqrt(jnp.sum((difference / unit) ** 2))


def rejection(
    key: jax.Array,
    model: HierarchicalImplicitModel,
    data: Data,
    *,
    summary: Callable,
    distance: Callable = euclidean,
    simulations: int,
    tolerance: float | None = None,
    quantile: float | None = None,
    batch: int = 400,
    progress: bool = True,
) -> ABCResult:
    r"""Rejection ABC: simulate at draws of the prior, keep those that come close (Pritchard et al. 1999).

    Parameters
    ----------
    key
        A typed key; the same key gives the same draws.
    model, data
        The model, and the observations. What is compiled serves the same objects ``model``,
        ``summary`` and ``distance`` again, but not others built alike.
    summary
        ``summary(data) -> a number or a vector``, of a whole data set :class:`~himlib.base.Data`,
        simulated or observed.
    distance
        ``distance(simulated, observed) -> a number`` of two summaries.
    simulations
        Data sets to simulate.
    tolerance
        Accept distances up to this one.
    quantile
        Instead of a tolerance: accept this share of the simulations, the nearest.
    batch
        Data sets simulated side by side. Memory holds one batch, and the accepted draws.
    progress
        Show a progress bar.

    Returns
    -------
    ABCResult
        The accepted draws of beta, along a leading axis, all of one weight; and how it ended.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong, or simulator, data, summary and distance do not fit together.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from himlib.simulators.conjugate import ConjugateGaussian
    >>> model, data = ConjugateGaussian().model, Data(jnp.linspace(0.0, 2.0, 5))
    >>> result = rejection(jax.random.key(0), model, data, summary=lambda data: data.x.mean(),
    ...     simulations=10_000, quantile=0.01, progress=False)
    >>> result.beta.shape, result.outcome.name
    ((100,), 'COMPLETED')
    """
    if (tolerance is None) == (quantile is None):
        raise ValueError("expected one of tolerance and quantile.")
    if tolerance is not None:
        check_tolerance(tolerance)
    if quantile is not None and not 0 < quantile <= 1:
        raise ValueError(f"quantile: expected a share of the simulations in (0, 1], got {quantile!r}.")
    check_counts(batch=batch)
    run = Run(key, model, data, summary, distance, simulations, progress)
    batch = min(batch, simulations)
    if quantile is None:
        beta, distances = run.accept(key, batch, tolerance=tolerance)
    else:
        found = run.accept(key, batch, best=math.ceil(quantile * simulations))
        beta, distances = nearest(found, math.ceil(quantile * run.simulations))
        tolerance = distances[-1] if len(distances) else math.inf
    return run.result(beta, distances, tolerance, len(distances) / run.simulations, len(distances))


def mcmc(
    key: jax.Array,
    model: HierarchicalImplicitModel,
    data: Data,
    *,
    summary: Callable,
    distance: Callable = euclidean,
    simulations: int,
    tolerance: float,
    step: float,
    chains: int = 100,
    batch: int = 400,
    progress: bool = True,
) -> ABCResult:
    r"""Markov chain Monte Carlo ABC (Marjoram et al. 2003), many chains side by side.

    From u, a point in the prior's unconstrained coordinates, a chain proposes
    :math:`u' = u + \mathrm{step} \cdot \epsilon` with :math:`\epsilon \sim N(0, I)`, simulates there, and
    goes if the distance is within the tolerance and a uniform number below :math:`p(u') / p(u)`.

    Chains start at the first draws that rejection accepts, among at most half of the simulations; if there
    are fewer than chains, several share one. So each is in equilibrium, and no draw is thrown away.

    Parameters
    ----------
    key, model, data, summary, distance, tolerance, batch, progress
        As in :func:`rejection`; batches are for finding the starting points.
    simulations
        The cap, for starting points and chains together.
    step
        Standard deviation of a proposal in each unconstrained coordinate.
    chains
        How many; each is as long as the simulations allow.

    Returns
    -------
    ABCResult
        The draws of all chains, one chain after the other, all of one weight. Where no draw is accepted to
        start from, there is none.

    Raises
    ------
    TypeError, ValueError
        As :func:`rejection`; if the prior is discrete.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from himlib.simulators.conjugate import ConjugateGaussian
    >>> model, data = ConjugateGaussian().model, Data(jnp.linspace(0.0, 2.0, 5))
    >>> result = mcmc(jax.random.key(0), model, data, summary=lambda data: data.x.mean(),
    ...     simulations=20_000, tolerance=0.3, step=1.0, progress=False)
    >>> result.outcome.name, len(result.beta) % 100
    ('COMPLETED', 0)
    """
    check_tolerance(tolerance)
    if not 0 < step < math.inf:
        raise ValueError(f"step: expected a positive number, got {step!r}.")
    check_counts(chains=chains, batch=batch)
    run = Run(key, model, data, summary, distance, simulations, progress)
    if simulations < 2 * chains:
        raise ValueError(f"simulations: expected two or more for each of {chains} chains, got {simulations}.")
    space = model.space  # refuses a discrete prior, with which rejection has no trouble
    k_start, k_walk = jax.random.split(key)
    options = {"tolerance": tolerance, "wanted": chains, "limit": simulations // 2}
    u, distances = _unconstrained(space, *run.accept(k_start, min(batch, simulations // 2), **options))
    if not len(u) or run.interrupted:
        return run.result(_constrained(space, u), distances, tolerance, 0.0, len(u))
    starts = len(u)
    u, distances = take((u, distances), np.resize(np.arange(starts), chains))
    state = u, run.programs.log_density(u), distances
    pieces, moves, first = [(u[None], distances[None])], [], 0
    try:
        while (length := min(CHUNK, (simulations - run.simulations) // chains)) > 0:
            made = run.programs.walk(k_walk, first, length, run.data, state, tolerance, step)
            state, (*draws, measured, moved) = made[0], take(jax.device_get(made[1]), slice(length))
            pieces.append(tuple(draws))
            moves.append(moved)
            first += length
            run.count(measured.ravel(), acceptance=f"{moved.mean():.3f}")
    except KeyboardInterrupt:
        run.interrupted = True
    u, distances = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), joined(pieces))
    acceptance = np.mean(np.concatenate(moves)) if moves else 0.0
    double = np.asarray(u, np.float64)  # since it is squared
    ess = min(distances.size, effective_sample_size(double).min()) if acceptance else starts
    u, distances = merged((u, distances))
    return run.result(_constrained(space, u), distances, tolerance, acceptance, ess, stuck=acceptance == 0)


def smc(
    key: jax.Array,
    model: HierarchicalImplicitModel,
    data: Data,
    *,
    summary: Callable,
    distance: Callable = euclidean,
    simulations: int,
    tolerance: float | Sequence[float] = 0.0,
    quantile: float = 0.5,
    particles: int = 1000,
    batch: int = 400,
    progress: bool = True,
) -> ABCResult:
    r"""Sequential Monte Carlo ABC: a population that closes in (Beaumont et al. 2009, Toni et al. 2009).

    The first generation is accepted by rejection. Each next one is proposed from the one before, by
    choosing a particle with probability :math:`w_j` and moving it by a normal with twice the
    population's weighted covariance :math:`\Sigma`, in unconstrained coordinates u, until enough are
    accepted at its smaller tolerance. Importance weights correct for the proposal:

    .. math:: w_i \propto \frac{p(u_i)}{\sum_j w_j N(u_i; u_j, 2 \Sigma)}.

    Choosing by weight is the resampling step; there is no other.

    Parameters
    ----------
    key, model, data, summary, distance, batch, progress
        As in :func:`rejection`.
    simulations
        The cap. A generation that it cuts short is thrown away, unless it is the first.
    tolerance
        A decreasing schedule; or one number, the last tolerance. Then the first generation takes the
        prior as it is, and each next tolerance is a quantile of the distances.
    quantile
        Of one generation's distances, which is the next one's tolerance.
    particles
        Draws accepted in each generation.

    Returns
    -------
    ABCResult
        The weighted particles of the last generation that was completed, and a report on each generation in
        ``history``.

    Raises
    ------
    TypeError, ValueError
        As :func:`rejection`; if the prior is discrete.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from himlib.simulators.conjugate import ConjugateGaussian
    >>> model, data = ConjugateGaussian().model, Data(jnp.linspace(0.0, 2.0, 5))
    >>> result = smc(jax.random.key(0), model, data, summary=lambda data: data.x.mean(),
    ...     simulations=20_000, tolerance=[1.0, 0.5, 0.2], particles=500, progress=False)
    >>> result.outcome.name, [float(round(t, 1)) for t in result.history.tolerance]
    ('COMPLETED', [1.0, 0.5, 0.2])
    """
    schedule = [float(t) for t in np.atleast_1d(tolerance)]
    if not schedule or any(np.diff(schedule) >= 0):
        raise ValueError(f"tolerance: expected a decreasing schedule, got {schedule}.")
    check_tolerance(schedule[-1])
    adaptive = np.ndim(tolerance) == 0
    if not 0 < quantile < 1:
        raise ValueError(f"quantile: expected a number between 0 and 1, got {quantile!r}.")
    check_counts(particles=particles, batch=batch)
    run = Run(key, model, data, summary, distance, simulations, progress)
    space = model.space
    if particles <= space.size:
        raise ValueError(f"particles: expected more than beta's {space.size} coordinates, got {particles}.")
    epsilon: float | None = math.inf if adaptive else schedule[0]
    generations, kept, population = list[tuple](), tuple[np.ndarray, ...](), None
    try:
        while epsilon is not None:
            own_key = jax.random.fold_in(key, len(generations))
            found = run.accept(own_key, batch, population, tolerance=epsilon, wanted=particles)
            complete = len(found[1]) == particles
            if kept and not complete:
                break
            if population is None:
                u, distances = _unconstrained(space, *found)
                weights = np.full(len(u), 1 / max(len(u), 1))
            else:
                u, distances = found
                weights = _importance(run.programs.log_mixture, u, population, weights)
            kept = u, distances, weights
            ess = 1 / np.sum(weights**2) if len(u) else 0.0
            generations.append((epsilon, run.acceptance, ess, run.simulations))
            if not complete or run.interrupted:
                break
            if adaptive:
                epsilon = _next_tolerance(distances, epsilon, quantile, schedule[-1])
            else:
                epsilon = next(iter(schedule[len(generations) :]), None)
            covariance = np.atleast_2d(np.cov(u.T, aweights=weights))
            factor = np.linalg.cholesky(covariance * (2 + 1e-10 * np.eye(space.size)))
            population = tuple(np.asarray(part, u.dtype) for part in (u, factor, np.cumsum(weights)))
    except KeyboardInterrupt:
        if not kept:
            raise
        run.interrupted = True
    u, distances, weights = kept
    history = Generation(*map(np.array, zip(*generations, strict=True)))
    reached, acceptance, ess, _ = generations[-1]
    report = reached, acceptance, ess, np.float32(weights), history
    return run.result(_constrained(space, u), distances, *report, short=epsilon is not None)


def _next_tolerance(distances, epsilon, quantile, last):
    """A quantile of the distances, less than epsilon; None where it cannot or need not be."""
    below = distances[distances < epsilon]
    if epsilon <= last or not below.size:
        return None
    return max(last, min(float(np.quantile(distances, quantile)), float(below.max())))


def _importance(log_mixture, u, population, weights):
    """Weights of draws u that the kernel proposed around a weighted population."""
    # In the kernel's own coordinates and double precision, or close particles would round to one.
    means, factor = (np.asarray(part, np.float64) for part in population[:2])
    center = means.mean(0)
    whitened, means = (np.linalg.solve(factor, (v - center).T).T.astype(u.dtype) for v in (u, means))
    log_weights = np.float32(np.log(np.maximum(weights, 1e-30)))
    log_w = np.asarray(log_mixture(u, whitened, means, log_weights), np.float64)
    w = np.exp(log_w - log_w.max())
    return w / w.sum()


def _unconstrained(space, beta, distances):
    """Draws from the prior in unconstrained coordinates, less those on the edge of its support."""
    u = np.asarray(jax.vmap(space.unconstrain)(beta)).reshape(len(distances), space.size)
    inside = np.isfinite(u).all(1)
    return u[inside], distances[inside]


def _constrained(space, u):
    return jax.device_get(jax.vmap(space.constrain)(u))


def standardize(
    key: jax.Array,
    model: HierarchicalImplicitModel,
    data: Data,
    *,
    summary: Callable,
    simulations: int = 1000,
) -> Callable:
    r"""Bring the entries of a summary to one scale, by a pilot run at draws of the prior.

    .. math:: s_i \leftarrow (s_i - \mathrm{median}_i) / (1.4826 \, \mathrm{MAD}_i),

    with the median absolute deviation, which estimates a normal summary's standard deviation and survives
    the wild simulations of a wide prior. Where it is zero, the standard deviation takes its place.

    Parameters
    ----------
    key, model, data, summary, simulations
        As in :func:`rejection`, for the pilot run.

    Returns
    -------
    Callable
        The standardized summary, for the three methods.

    Raises
    ------
    ValueError
        If an entry is the same in the whole pilot, or nothing in it is finite.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from himlib.simulators.conjugate import ConjugateGaussian
    >>> model, data = ConjugateGaussian().model, Data(jnp.linspace(0.0, 2.0, 5))
    >>> scaled = standardize(jax.random.key(0), model, data, summary=lambda data: 100 * data.x.mean())
    >>> bool(abs(scaled(data) - 0.84) < 0.1)  # prior and noise give the mean a variance of 1.4
    True
    """
    check_key(key)
    check_summary(model, data, summary)
    check_counts(simulations=simulations)
    batch = min(100, simulations)

    def pilot(key):
        k_beta, k_simulate = jax.random.split(key)
        return simulate(model, summary, k_simulate, model.sample_prior(k_beta, (batch,)), data)

    keys = jax.random.split(key, math.ceil(simulations / batch))
    found = jax.device_get(jax.jit(lambda keys: jax.lax.map(pilot, keys))(keys))
    summaries, finite = take(merged(found), slice(simulations))
    summaries = summaries[finite & np.isfinite(summaries).reshape(simulations, -1).all(1)].astype(np.float64)
    if not len(summaries):
        raise ValueError("summary: not finite in any simulation of the pilot run.")
    location = np.median(summaries, axis=0)
    scale = 1.4826 * np.median(np.abs(summaries - location), axis=0)
    scale = np.where(scale > 0, scale, summaries.std(axis=0))
    if not np.all(scale > 0):
        raise ValueError(f"summary: entry {np.argmin(scale)} is the same in the whole pilot; leave it out.")
    return lambda data: (summary(data) - jnp.asarray(location)) / jnp.asarray(scale)
