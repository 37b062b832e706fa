"""Solve the equation of the centered scores, which is derived at the door of this room."""

import math
from collections.abc import Callable
from enum import Enum
from itertools import product
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.tree_util import Partial

from himlib._checks import check_counts, check_ratio
from himlib._problem import check_forgotten, check_problem
from himlib.base import Data
from himlib.many_data._sums import Chunks, Equation, canonical
from himlib.many_data.ratio import check_sharding
from himlib.models import Frame, HierarchicalImplicitModel, check_frame, check_model, prior_terms
from himlib.random import check_key

__all__ = ["Pass", "ScoreFit", "ScoreOutcome", "solve_score"]

NEAR, FAR = 0.3, 10.0  # sds: a step so short ends the passes over all data, and over a part of them
SKEW = 0.1  # of the curvature, relative
QUIET, AIM, MOST = 0.15, 0.1, 64  # sds of noise: none is done against so much; what to leave; pairs at most
MANY = 1000  # data whose own scores tell their variance, to 5 %
LONG = 3.0  # scales of the frame: a longer step of Newton's gives way to one of Fisher's
DETOURS = 30  # steps of Fisher's at most, each of one scale at most
ROUGH = 0.05  # relative: where A and I of fewer data differ by less, which is their noise, r may be exact


class ScoreOutcome(Enum):
    """How a solution ended; the value is advice in words."""

    CONVERGED = "The last step over all data was shorter than 0.3 sd."
    MOVING = (
        "The last step over all data was longer than 0.3 sd. Allow more passes, or start nearer: train r "
        "once more on a proposal centered at this mean."
    )
    NOT_DEFINITE = (
        "The curvature is not positive definite: in some direction the mean score does not fall, and no "
        "Newton step makes sense; steps by the information led nowhere better. Start nearer, train r on a "
        "wider proposal, or give it features that see all of beta."
    )
    OUTSIDE = (
        "The mean lies more than 3 sds of the proposal from its center, where r was never trained. Train r "
        "again on a proposal centered here, or on a wider one."
    )
    NOISY = (
        "The simulated expectation moves the mean by more than 0.3 sd. Take more pairs of simulations "
        "per datum."
    )
    ASYMMETRIC = (
        "The curvature is not symmetric, as that of any log-likelihood is. Mean and covariance hold, but r "
        "is a poor log ratio, and the sds may be too wide: train r longer, or on a wider proposal."
    )
    NOT_FINITE = "A score was NaN or infinite. Bound the simulator's state or the features, or start nearer."


class Pass(NamedTuple):
    """What Newton's method did; arrays with an entry for each pass.

    Attributes
    ----------
    size
        Number of data in the pass.
    mean
        Where the pass ended, in unconstrained coordinates, shape (passes, d).
    sd
        Standard deviations of the posterior, shape (passes, d).
    step
        Length of the step in these sds, the largest of all coordinates.
    """

    size: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    step: np.ndarray


class ScoreFit(NamedTuple):
    r"""A normal approximation to the posterior in unconstrained coordinates, and how far to trust it.

    Attributes
    ----------
    mean
        The root of the centered score, shape (d,), in double precision.
    covariance
        :math:`(A^\top I^{-1} A + P)^{-1}` with P the prior's precision; without centering, the sandwich
        :math:`(A + P)^{-1} (I + P) (A + P)^{-\top}`.
    curvature
        A, minus the derivative of the summed centered score, measured by finite differences.
    information
        I, the sum of outer products of the centered scores, less what the noise of the simulated expectation
        adds; below 1,000 data its expectation under the model. For the exact r it equals the curvature.
    noise
        Sds of the mean over repeated simulation of the expectation, in units of the posterior's sds.
    pairs
        Antithetic pairs of simulations per datum.
    history
        A :class:`Pass`.
    outcome
        The verdict, with advice in ``outcome.value``.
    """

    mean: np.ndarray
    covariance: np.ndarray
    curvature: np.ndarray
    information: np.ndarray
    noise: np.ndarray
    pairs: int
    history: Pass
    outcome: ScoreOutcome


class Step(NamedTuple):
    """Newton's step over some chunks in units of the frame, and what it was made of."""

    failure: ScoreOutcome | None
    step: np.ndarray
    covariance: np.ndarray
    information: np.ndarray
    curvature: np.ndarray
    noise: np.ndarray
    size: int
    detour: bool = False  # Fisher's step, in place of Newton's


def positive(matrix, least=1e-6) -> bool:
    """Tell whether all eigenvalues are: those of M times a curvature, for M and it positive definite."""
    eigenvalues = np.linalg.eigvals(matrix)
    return bool(eigenvalues.real.min() > least * np.abs(eigenvalues).max())


def less_noise(information, noise):
    """What is left of the scores' outer products without the simulated noise: a tenth, in any direction."""
    whiten = np.linalg.inv(np.linalg.cholesky(information))
    shares, directions = np.linalg.eigh(whiten @ noise @ whiten.T)
    root = np.linalg.solve(whiten, directions) * np.sqrt(1 - np.minimum(shares, 0.9))
    return root @ root.T


def fisher(information, noise, precision, gradient) -> dict:
    """Fisher's step, by the information for the curvature: it leads uphill where the score is right."""
    if not positive(information, 1e-12):
        return {}
    covariance = np.linalg.inv(less_noise(information, noise) + precision)
    step = covariance @ gradient
    return {"step": step / max(1.0, np.abs(step).max()), "covariance": covariance, "detour": True}


def newton(equation, model, u, count, progress, careful) -> Step:
    """Go once over the chunks; if careful, not far."""
    score, information, curvature, size, noise, spread = equation.run(u, count, progress)
    gradient, precision = prior_terms(u, equation.scale, model=model)

    nothing = np.full_like(curvature, np.nan)
    ended = Step(ScoreOutcome.NOT_FINITE, np.zeros_like(u), nothing, information, curvature, nothing[0], size)
    if not np.isfinite([score.sum(), information.sum(), curvature.sum()]).all():
        return ended
    bread = np.linalg.pinv(curvature)
    own, noisy = (np.diag(bread @ part @ bread.T) for part in (information, noise))
    ratio = np.sqrt(noisy / np.where(own > 0, own, 1.0))  # with less noise there may be a step
    ended = ended._replace(failure=ScoreOutcome.NOT_DEFINITE, noise=ratio)
    if not positive(curvature):
        return ended._replace(**fisher(information, spread, precision, score + gradient))
    weight, meat = np.eye(len(u)), information
    if equation.options["centered"]:
        falls = curvature
        if size < MANY:
            information, falls = equation.expected(u, size)
        if not (np.isfinite(information.sum() + falls.sum()) and positive(information, 1e-12)):
            return ended
        if size >= MANY:
            information = less_noise(information, spread)
        whiten = np.linalg.inv(np.linalg.cholesky(information))
        if size >= MANY or np.linalg.norm(whiten @ falls @ whiten.T - weight, 2) > ROUGH:
            weight = falls.T @ whiten.T @ whiten
        meat = (weight @ curvature + curvature.T @ weight.T) / 2
    if np.linalg.eigvalsh(meat + precision)[0] <= 0:
        return ended
    bread = np.linalg.inv(weight @ curvature + precision)
    covariance = bread @ (meat + precision) @ bread.T
    step = bread @ (weight @ score + gradient)
    if careful and np.abs(step).max() > LONG and positive(information, 1e-12):
        return ended._replace(failure=None, **fisher(information, 0 * noise, precision, score + gradient))
    noise = bread @ weight @ noise @ weight.T @ bread.T
    ratio = np.sqrt(np.diag(noise) / np.diag(covariance))
    return Step(None, step, covariance, information, curvature, ratio, size)


def judge(frame, last, noise, curvature) -> ScoreOutcome:
    """Read the verdict off the last pass."""
    if np.any(np.abs(last.mean - frame.location) > 3 * frame.scale):
        return ScoreOutcome.OUTSIDE
    if last.step > NEAR:
        return ScoreOutcome.MOVING
    if noise.max() > NEAR:
        return ScoreOutcome.NOISY
    if not positive(curvature + curvature.T):
        return ScoreOutcome.ASYMMETRIC
    whiten = np.linalg.inv(np.linalg.cholesky((curvature + curvature.T) / 2))
    skew = np.linalg.norm(whiten @ (curvature - curvature.T) @ whiten.T / 2, 2)
    return ScoreOutcome.ASYMMETRIC if skew > SKEW else ScoreOutcome.CONVERGED


def solve_score(
    key: jax.Array,
    model: HierarchicalImplicitModel,
    log_ratio: Callable,
    data: Data | Callable[[int], Data],
    frame: Frame,
    *,
    chunks: int | None = None,
    chunk_size: int = 150_000,
    curvature_chunks: int = 1,
    pairs: int | None = None,
    centered: bool = True,
    passes: int = 8,
    sharding: NamedSharding | None = None,
    progress: bool = True,
) -> ScoreFit:
    r"""Solve the centered score by Newton's method, on subsets that grow tenfold up to all data.

    With :math:`\bar s(\beta) = \sum_n \psi_n` the sum of centered scores, each pass over the data is a step

    .. math:: \beta \leftarrow \beta + (G + P)^{-1} \big(A^\top I^{-1} \bar s(\beta)
              + \nabla \log p(\beta)\big), \qquad G = A^\top I^{-1} A,

    .. math:: A = -\partial \bar s / \partial \beta, \qquad I = \sum_n \psi_n \psi_n^\top,

    in unconstrained coordinates, where P is the precision of the prior, and G + P that of the posterior. A is
    measured, by differences of :math:`\bar s` at :math:`\pm 0.05` scales of the frame under the same noise.
    For the exact r, I = A, and nothing is rescaled. Below 1,000 data, whose own scores would tell I too
    roughly, the weight :math:`A^\top I^{-1}` is that of 20,000 data which the model makes at
    :math:`\beta`, and one where the two agree to 5 %.

    Far from the root, A is not that of the posterior, also for the exact r: with spreads among the globals it
    may not be positive definite. There, and where the step would be longer than three scales of the frame, it
    is that of Fisher, with I for A and no longer than a scale, up to thirty times.

    The expectation in each :math:`\psi_n` is the mean over antithetic noise, :math:`\pm \epsilon`; quadrature
    with few nodes is biased, and its bias is repeated N times.

    Parameters
    ----------
    key
        A typed key, of the simulated noise: the same in all passes.
    model
        A model with ``generate``, through which noise is reused. Of one with locals, ``model.marginal``.
    log_ratio
        ``log_ratio(x, z, beta, covariate)`` for one datum, z being None: from
        :func:`~himlib.many_data.train_ratio`, or
        ``Partial(algorithm.log_ratio, state)`` (of ``jax.tree_util``, so that other parameters
        compile nothing), or a function that is known.
    data
        :class:`~himlib.base.Data`, or a function from a chunk's index to Data, called once per pass:
        memory then holds one chunk, however many there are. No chunk may be larger than the first.
    frame
        Start of Newton's method, and the scale on which r was trained: the proposal's.
    chunks
        Number of chunks of a function.
    chunk_size
        Data per chunk, for Data. The first subset is one chunk.
    curvature_chunks
        Chunks on which A is measured in each pass, at the cost of 2 d passes over them.
    pairs
        Antithetic pairs of independent noise per datum. None takes one where that moves the mean by no more
        than 0.15 sd, as with additive noise. Of spreads, in which the score is even, a pair tells no more
        than one draw: there, for the last steps over all data, noise is not independent but fills its space
        evenly (Sobol's points, randomized, for up to 64 normals per datum), and pairs are as many as leave
        0.1 sd, up to 64. Memory does not grow with them; A and noise are then measured on 20,000 data of a
        chunk or more.
    centered
        If False, nothing is subtracted: the mode of the exact posterior where ``log_ratio`` is exact,
        biased where it is not.
    passes
        At most so many per subset.
    sharding
        Lays the blocks of a chunk out over the devices of a mesh, of one process or many (each is then
        given the same data): ``NamedSharding(Mesh(jax.devices(), ("data",)), PartitionSpec("data"))``.
    progress
        Show a progress bar.

    Returns
    -------
    ScoreFit
        With the outcome CONVERGED, or else one that says what to do.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of range, or simulator and data do not agree.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, numpyro.distributions as dist
    >>> model = HierarchicalImplicitModel(dist.Normal(0, 10), noise_shape=(),
    ...     generate=lambda noise, beta, covariate: (None, beta + noise))
    >>> fit = solve_score(jax.random.key(0), model, lambda x, z, beta, c: -(x - beta)**2 / 3,
    ...     Data(jnp.array([1.0, 2.0, 3.0])), Frame(jnp.zeros(1), jnp.ones(1)), progress=False)
    >>> fit.outcome.name, fit.mean.round(2).tolist()
    ('CONVERGED', [1.99])
    """
    check_key(key)
    check_model(model)
    if model.generate is None:
        raise TypeError(
            "model: expected one with generate and noise_shape, got one with simulate, whose noise cannot be "
            "used again."
        )
    if not callable(log_ratio):
        raise TypeError(f"log_ratio: expected a function, got {type(log_ratio).__name__}.")
    check_sharding(sharding)
    check_counts(chunk_size=chunk_size, curvature_chunks=curvature_chunks, passes=passes)
    if pairs is not None:
        check_counts(pairs=pairs)
    frame = check_frame(frame, model.space.size)
    load = Chunks(model, data, chunks, chunk_size, sharding)
    check_forgotten(check_problem(model, load.example, frame))
    log_ratio = log_ratio if isinstance(log_ratio, Partial) else Partial(log_ratio)
    x, covariate = load.example
    r = jax.eval_shape(
        jax.vmap(log_ratio, (0, None, None, 0)), x, None, model.space.constrain(frame.location), covariate
    )
    check_ratio(r.shape)
    equation = Equation(
        key, log_ratio, load, frame.scale, curvature_chunks, pairs or 1,
        model=model, centered=centered, sharding=sharding,
    )  # fmt: skip
    counts = [10**k for k in range(9) if 10**k < load.count] + [load.count]
    u, past, detours = canonical(frame.location), list[Pass](), 0
    todo = list(product(counts, range(passes)))[::-1]
    while todo:
        count, attempt = todo.pop()
        if attempt and past[-1].step < (NEAR if count == load.count else FAR):
            continue  # near enough for so many data
        while True:
            last = newton(equation, model, u, count, progress, careful=detours < DETOURS)
            noise, used = last.noise.max(), equation.options["pairs"]
            sd = np.sqrt(np.diag(last.covariance))
            length = np.max(np.abs(last.step) / sd)
            if pairs is not None or not noise > QUIET:
                break
            if equation.even_out():
                continue
            far = count < load.count or length > FAR  # where a rough step does
            if used == MOST or (equation.options["even"] and far and np.isfinite(length)):
                break
            equation.set_pairs(min(MOST, math.ceil(used * (noise / AIM) ** 2)))
        mean = u + frame.scale * last.step
        entry = last.size, mean, frame.scale * sd, length
        past.append(Pass(*map(np.asarray, entry)))
        near = np.all(np.abs(mean - frame.location) <= 3 * frame.scale)  # further out r was never trained
        if last.detour and (near or last.failure is None) and detours < DETOURS:
            detours += 1
            todo.append((count, 0))
        elif last.failure is not None:
            break
        u = canonical(mean)
    if last.failure is not None:
        last = last._replace(covariance=np.full_like(last.covariance, np.nan))
    outcome = last.failure or judge(frame, past[-1], last.noise, last.curvature)
    unit = np.outer(frame.scale, frame.scale)
    history = Pass(*map(np.array, zip(*past, strict=True)))
    return ScoreFit(
        mean, last.covariance * unit, last.curvature / unit, last.information / unit, last.noise,
        used if centered else 0, history, outcome,
    )  # fmt: skip
