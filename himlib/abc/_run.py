"""The loop that the samplers run: propose, simulate, summarize, measure, select, count."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from himlib._checks import check_counts
from himlib._problem import check_problem, noted
from himlib.abc._programs import CHUNK, compiled, joined, merged, nearest, take
from himlib.abc.results import ABCOutcome, ABCResult
from himlib.base import Data
from himlib.models import HierarchicalImplicitModel
from himlib.random import check_key

FEW = 30.0  # effective draws below which no mean is worth quoting
FAILING = 0.01  # share of simulations that are not finite from which the outcome speaks of them


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
