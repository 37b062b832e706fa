r"""Posterior of many data by the centered score: an estimating equation that an inexact r cannot bias.

A sum of N log ratios repeats the error of r N times, while the posterior narrows as :math:`1/\sqrt N`: at
large N any bias wins. What is solved here instead, for :math:`\beta`, is

.. math:: \nabla \log p(\beta) + \sum_{n=1}^N \Big( \nabla_\beta r(x_n, \beta)
          - E_{x \sim p(x \mid \beta, c_n)} \nabla_\beta r(x, \beta) \Big) = 0.

At the rates that made the data each term has expectation zero whatever r is, so that the root is
consistent (van der Vaart 1998, chapter 5); an exact r subtracts zero, and the root is the posterior's mode.
"""

from collections.abc import Callable
from enum import Enum
from itertools import product
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.tree_util import Partial

from himlib.algorithm import Data
from himlib.checks import check_counts, check_model, check_ratio
from himlib.families import Frame
from himlib.models import HierarchicalImplicitModel
from himlib.neural_ratio import Target, check_frame, check_sharding
from himlib.random import check_key
from himlib.score_sums import Chunks, Equation, canonical, prior_terms

__all__ = ["Pass", "ScoreFit", "ScoreOutcome", "solve_score"]

NEAR, FAR = 0.3, 10.0  # sds: a step so short ends the passes over all data, and over a part of them
SKEW = 0.1  # of the curvature, relative


class ScoreOutcome(Enum):
    """How a solution ended; the value is advice in words.

    Examples
    --------
    >>> ScoreOutcome.MOVING.name
    'MOVING'
    """

    CONVERGED = "The last step over all data was shorter than 0.3 sd."
    MOVING = (
        "The last step over all data was longer than 0.3 sd. Allow more passes, or start nearer: train r "
        "once more on a proposal centered at this mean."
    )
    NOT_DEFINITE = (
        "The curvature is not positive definite: in some direction the mean score does not fall, and no "
        "Newton step makes sense. Train r on a wider proposal, or give it features that see all of beta."
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
        "The curvature is not symmetric, as that of any log-likelihood is. Mean and sandwich hold, but r is "
        "a poor log ratio, and the sds may be too wide: train r longer, or on a wider proposal."
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
        Standard deviations of the sandwich, shape (passes, d).
    step
        Length of the step in these sds, the largest of all coordinates.

    Examples
    --------
    >>> Pass._fields
    ('size', 'mean', 'sd', 'step')
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
        The sandwich :math:`A^{-1} (I + P) A^{-\top}` with A the curvature plus P, the prior's precision.
    curvature
        Minus the derivative of the summed centered score, measured by finite differences.
    information
        I, the sum of outer products of the centered scores. For the exact r it equals the curvature.
    noise
        Sds of the mean over repeated simulation of the expectation, in units of the posterior's sds.
    history
        A :class:`Pass`.
    outcome
        The verdict, with advice in ``outcome.value``.

    Examples
    --------
    >>> ScoreFit._fields[:2]
    ('mean', 'covariance')
    """

    mean: np.ndarray
    covariance: np.ndarray
    curvature: np.ndarray
    information: np.ndarray
    noise: np.ndarray
    history: Pass
    outcome: ScoreOutcome


def judge_derivatives(score, information, curvature) -> ScoreOutcome | None:
    """Say what forbids a Newton step, if anything does."""
    if not np.isfinite([score.sum(), information.sum(), curvature.sum()]).all():
        return ScoreOutcome.NOT_FINITE
    eigenvalues = np.linalg.eigvalsh(curvature + curvature.T)
    return ScoreOutcome.NOT_DEFINITE if eigenvalues[0] <= 1e-6 * abs(eigenvalues[-1]) else None


def judge(frame, last, noise, curvature) -> ScoreOutcome:
    """Read the verdict off the last pass."""
    if np.any(np.abs(last.mean - frame.location) > 3 * frame.scale):
        return ScoreOutcome.OUTSIDE
    if last.step > NEAR:
        return ScoreOutcome.MOVING
    if noise.max() > NEAR:
        return ScoreOutcome.NOISY
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
    pairs: int = 1,
    centered: bool = True,
    passes: int = 5,
    sharding: NamedSharding | None = None,
    progress: bool = True,
) -> ScoreFit:
    r"""Solve the centered score by Newton's method, on subsets that grow tenfold up to all data.

    With :math:`\bar s(\beta)` the sum of centered scores, each pass over the data is a step

    .. math:: \beta \leftarrow \beta + (A + P)^{-1} \big(\bar s(\beta) + \nabla \log p(\beta)\big), \qquad
              A = -\partial \bar s / \partial \beta,

    in unconstrained coordinates, where P is the precision of the prior. A is measured, by differences of
    :math:`\bar s` at :math:`\pm 0.05` scales of the frame under the same noise: the sum of outer products I
    is the curvature of the exact r only, and with an inexact one in its place the steps may overshoot. The
    expectation in :math:`\bar s` is the mean over antithetic noise, :math:`\pm \epsilon`, one pair per
    datum; quadrature with few nodes is biased, and its bias is repeated N times.

    Parameters
    ----------
    key
        A typed key, of the simulated noise: the same in all passes.
    model
        A model with ``generate``, through which noise is reused. Local latents are integrated out.
    log_ratio
        ``log_ratio(x, z, beta, covariate)`` for one datum, z being None: from
        :func:`~himlib.neural_ratio.train_ratio`, or
        ``Partial(algorithm.log_ratio, state)`` (of ``jax.tree_util``, so that other parameters
        compile nothing), or a function that is known.
    data
        :class:`~himlib.algorithm.Data`, or a function from a chunk's index to Data, called once per pass:
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
        Antithetic pairs per datum.
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
    check_counts(chunk_size=chunk_size, curvature_chunks=curvature_chunks, pairs=pairs, passes=passes)
    target = Target(model)
    frame = check_frame(frame, target.space.size)
    load = Chunks(model, data, chunks, chunk_size, sharding)
    log_ratio = log_ratio if isinstance(log_ratio, Partial) else Partial(log_ratio)
    x, covariate = load.example
    r = jax.eval_shape(jax.vmap(log_ratio, (0, None, None, 0)), x, None, target.center(frame), covariate)
    check_ratio(r.shape)
    equation = Equation(
        key, log_ratio, load, frame.scale, curvature_chunks,
        target=target, pairs=pairs, centered=centered, sharding=sharding,
    )  # fmt: skip
    counts = [10**k for k in range(9) if 10**k < load.count] + [load.count]
    u, history, failure = canonical(frame.location), [], None
    for count, attempt in product(counts, range(passes)):
        if attempt and history[-1].step < (NEAR if count == load.count else FAR):
            continue  # near enough for so many data
        score, information, curvature, size = equation.run(u, count, progress)
        gradient, precision = (np.asarray(term, np.float64) for term in prior_terms(u, target=target))
        gradient, precision = gradient * frame.scale, precision * frame.scale * frame.scale[:, None]
        failure = judge_derivatives(score, information, curvature)
        if failure is None:
            bread = np.linalg.inv(curvature + precision)
            covariance = bread @ (information + precision) @ bread.T
            step, sd = bread @ (score + gradient), np.sqrt(np.diag(covariance))
        else:
            covariance, sd, step = np.full_like(curvature, np.nan), np.full_like(u, np.nan), np.zeros_like(u)
        mean = u + frame.scale * step
        history.append(Pass(size, mean, frame.scale * sd, np.max(np.abs(step) / sd)))
        if failure is not None:
            break
        u = canonical(mean)
    noise = np.zeros_like(u)
    if centered and failure is None:
        noise = np.sqrt(np.diag(bread @ equation.noise(u, size) @ bread.T)) / sd
    outcome = failure or judge(frame, history[-1], noise, curvature)
    unit = np.outer(frame.scale, frame.scale)
    history = Pass(*map(np.array, zip(*history, strict=True)))
    return ScoreFit(mean, covariance * unit, curvature / unit, information / unit, noise, history, outcome)
