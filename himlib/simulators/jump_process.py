r"""The predators and prey of Papamakarios and Murray (2016): a Markov jump process, exact or by leaps."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.custom_batching import custom_vmap

from himlib._checks import check_shape
from himlib.models import HierarchicalImplicitModel
from himlib.random import check_key, threefry
from himlib.simulators.lotka_volterra import default_prior

__all__ = [
    "OBSERVED_STATISTICS",
    "PILOT_MEANS",
    "PILOT_SDS",
    "UNIFORM_PRIOR",
    "JumpProcess",
    "summary_statistics",
]

#: The nine statistics of the series that Papamakarios and Murray (2016) observed, as they stored them.
OBSERVED_STATISTICS = (95.225, 51.967, 8.6736, 8.0515, 0.98000, 0.93499, 0.97729, 0.92692, 0.022936)
#: Means of the statistics over 1,000 draws from their prior, also theirs.
PILOT_MEANS = (219.80, 5.8308, 6.6366, 4.4447, 0.84088, 0.73799, 0.13502, 0.074747, 0.12484)
#: Standard deviations over the same draws, the units of their distance.
PILOT_SDS = (592.33, 54.665, 2.9694, 0.90187, 0.17981, 0.25679, 0.26621, 0.20300, 0.37575)
#: The prior of Papamakarios and Murray, under which log rates are independent and uniform on [-5, 2].
UNIFORM_PRIOR = dist.Uniform(np.full(4, -5, np.float32), np.full(4, 2, np.float32)).to_event(1)
BLOCK = 8  # turns of every lane between two looks at which series are done, at most one record each
# What each reaction does to prey and predators, in the order of the rates.
CHANGES = np.array([[1, 0], [-1, 0], [0, -1], [0, 1]], np.float32)


def lifted(function: Callable) -> Callable:
    """Let :func:`jax.vmap` hand all rows at once to a function that takes any leading axes.

    A loop that vmap itself lifts runs until its slowest row ends.
    """
    function = custom_vmap(function)

    @function.def_vmap
    def rule(size, batched, *arguments):
        rows = [
            argument if has_axis else jnp.broadcast_to(argument, (size, *argument.shape))
            for argument, has_axis in zip(arguments, batched, strict=True)
        ]
        return function(*rows), (True, True)

    return function


def cumulative(rates, prey: jax.Array, predators: jax.Array) -> tuple[jax.Array, ...]:
    """Sums of the reactions' rates in the state given, the last one being the total."""
    first = rates[0] * prey
    second = first + rates[1] * prey * predators
    third = second + rates[2] * predators
    return first, second, third, third + rates[3] * prey * predators


@dataclass(frozen=True)
class JumpProcess:
    r"""Prey and predators that are born and die one at a time, seen at regular times.

    With rates :math:`e^{\beta_1}, \dots, e^{\beta_4}` per unit time, in the order of
    :class:`~himlib.simulators.lotka_volterra.LotkaVolterra`, prey :math:`x_1` and predators :math:`x_2`
    jump by

    .. math:: x_1 + 1 \text{ at rate } e^{\beta_1} x_1, \quad x_1 - 1 \text{ at } e^{\beta_2} x_1 x_2, \quad
              x_2 - 1 \text{ at } e^{\beta_3} x_2, \quad x_2 + 1 \text{ at } e^{\beta_4} x_1 x_2,

    simulated exactly (Gillespie 1977). It is the experiment of Papamakarios and Murray (2016), whose
    rates :math:`\theta_1, \dots, \theta_4` are ours in the order 4, 3, 1, 2. Populations are whole numbers
    in floating point. Extinction is for good, and prey without predators explode: a series with
    more than ``max_events`` events is NaN from the record on that it did not reach.

    The random numbers are Threefry-2x32 with 20 rounds, JAX's own generator, one block for an event, under a
    key of each series' own: a series does not depend on those that are simulated beside it.

    Parameters
    ----------
    interval
        Time between two records.
    max_events
        Events in a series, or in a transition of ``model``, beyond which it is given up.
    leaps
        None, for the exact process; or the number of steps between two records, in each of which rates
        stay as they are and events are Poisson (tau-leaping, Gillespie 2001). Its error falls as 1 / leaps.
        At populations of a hundred it saves no time.
    prior
        A numpyro distribution over :math:`\beta`. By default that of
        :class:`~himlib.simulators.lotka_volterra.LotkaVolterra`: normal, since a normal q, which reaches
        beyond any bounds, cannot follow a uniform prior. ``UNIFORM_PRIOR`` is the published one; its
        edge at -5 lies 0.4 from two of the true log rates.

    Raises
    ------
    ValueError
        If a number is out of its range.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from himlib.simulators.lotka_volterra import INITIAL, TRUE_BETA
    >>> process = JumpProcess()
    >>> series = process.simulate_series(jax.random.key(0), jnp.array(TRUE_BETA), INITIAL, 150, size=10)
    >>> series.shape, bool(jnp.all(jnp.nan_to_num(series) % 1 == 0))
    ((10, 150, 2), True)
    """

    interval: float = 0.2
    max_events: int = 10_000
    leaps: int | None = None
    prior: dist.Distribution = None  # for the constructor alone: __post_init__ puts the default in its place

    def __post_init__(self):
        if not 0 < self.interval < math.inf:
            raise ValueError(f"interval: expected a positive number, got {self.interval!r}.")
        counts = {"max_events": self.max_events} | ({"leaps": self.leaps} if self.leaps is not None else {})
        for name, count in counts.items():
            if not isinstance(count, int) or count < 1:
                raise ValueError(f"{name}: expected a positive integer, got {count!r}.")
        if self.prior is None:
            object.__setattr__(self, "prior", default_prior(None))
        got = getattr(self.prior, "event_shape", None)
        if got != (4,) or self.prior.batch_shape:
            raise ValueError(f"prior: expected event shape (4,), got {got}; see to_event.")

    @property
    def model(self) -> HierarchicalImplicitModel:
        r"""The model of ONE transition, from the covariate :math:`x_t` to :math:`x_{t+1}`; no locals."""

        def simulate(key, beta, covariate):
            return None, self.simulate_series(key, beta, covariate, 1)[0]

        return HierarchicalImplicitModel(self.prior, simulate=simulate)

    def simulate_series(
        self, key: jax.Array, beta: jax.Array, initial: jax.Array, steps: int, size: int | None = None
    ) -> jax.Array:
        r"""Simulate one series, shape (steps, 2), or ``size`` of them at once, shape (size, steps, 2).

        Under :func:`jax.vmap` it is as quick as with ``size``.

        Parameters
        ----------
        key
            A typed key.
        beta
            Log rates, shape (4,); with ``size``, a leading axis of that length gives each series its own.
        initial
            Populations at time 0, whole numbers, not part of the result; shape (2,) or (size, 2).
        steps
            Number of records, one per ``interval``.
        size
            Number of series, or None for one.

        Returns
        -------
        jax.Array
            Prey and predators; NaN where the process had not come after ``max_events`` events.

        Raises
        ------
        TypeError, ValueError
            If the key is not a typed key; if a shape is wrong, or a number out of range.
        """
        check_key(key)
        many = () if size is None else (size,)
        if not all(isinstance(number, int) and number > 0 for number in (steps, *many)):
            raise ValueError(f"steps, size: expected positive integers, got {steps!r} and {size!r}.")
        beta = check_shape("beta", beta, (4,), (*many, 4))
        initial = check_shape("initial", initial, (2,), (*many, 2))
        return self._simulate(key, beta, initial, steps, size)[0]

    @partial(jax.jit, static_argnames=("self", "steps", "size"))
    def _simulate(self, key, beta, initial, steps, size):
        """Series, and the number of events in each."""
        dtype = jnp.result_type(beta, initial, jnp.float32)
        jump, leaps = lifted(partial(self._jump, steps)), self.leaps
        run = jump if leaps is None else partial(self._leap, steps, leaps)
        rows = [jnp.exp(beta).astype(jnp.float32), initial.astype(jnp.float32)]
        if size is not None:
            rows = [jnp.broadcast_to(row, (size, row.shape[-1])) for row in rows]
            words = jax.vmap(lambda key: jax.random.bits(key, (2,), "uint32"))(jax.random.split(key, size))
            series, events = jax.vmap(run)(words, *rows)
        else:
            series, events = run(jax.random.bits(key, (2,), "uint32"), *rows)
        return series.astype(dtype), events

    def _jump(self, steps: int, words: jax.Array, rates: jax.Array, initial: jax.Array):
        """Simulate exactly, in as many lanes as the processor likes that the arrays are on."""
        # A core wants all lanes in its cache, an accelerator as many as it has threads.
        lanes = {"cpu": 512, "default": 1 << 16}
        return jax.lax.platform_dependent(
            words, rates, initial, **{at: partial(self._lanes, steps, most) for at, most in lanes.items()}
        )

    def _lanes(self, steps: int, most: int, words: jax.Array, rates: jax.Array, initial: jax.Array):
        """Simulate each series in a lane of a vector; a lane whose series ends takes the next one.

        In each turn a lane makes one event, or crosses into the next interval, where its wait is drawn anew:
        exponential times have no memory. Then a record is due. Records are written once in a block of
        turns, so that a lane that would cross twice in it stops before its second crossing.
        """
        axes, count = initial.shape[:-1], math.prod(initial.shape[:-1])
        words, rates, initial = (rows.reshape(count, -1) for rows in (words, rates, initial))
        lanes = min(count, most)
        turns = jnp.arange(BLOCK, dtype=jnp.uint32)[:, None]

        def begin(series):
            row = jnp.minimum(series, count - 1)
            remaining = jnp.where(series < count, jnp.float32(self.interval), jnp.float32(-1))
            zero = jnp.zeros_like(series)
            state = (*initial[row].T, remaining, zero)
            return series, tuple(words[row].T), tuple(rates[row].T), state, zero, zero.astype(jnp.uint32)

        def turn(k, carry):
            (prey, predators, remaining, events), taken, snapshot, waits, choices, rates = carry
            first, second, third, total = cumulative(rates, prey, predators)
            wait, choice = waits[k] / total, choices[k] * total
            crosses = wait >= remaining
            records = crosses & ~taken
            snapshot = [
                jnp.where(records, now, before)
                for now, before in zip((prey, predators, events), snapshot, strict=True)
            ]
            more_prey = jnp.where(choice < first, 1.0, jnp.where(choice < second, -1.0, 0.0))
            more_predators = jnp.where(choice < second, 0.0, jnp.where(choice < third, -1.0, 1.0))
            # Who crosses twice keeps a remaining time of zero, and crosses at once in the next block.
            then = jnp.where(records, jnp.float32(self.interval), jnp.minimum(remaining, 0.0))
            state = (
                jnp.where(crosses, prey, prey + more_prey),
                jnp.where(crosses, predators, predators + more_predators),
                jnp.where(crosses, then, remaining - wait),
                jnp.where(crosses, events, events + 1),
            )
            return state, taken | records, tuple(snapshot), waits, choices, rates

        def block(carry):
            lane, following, results = carry
            series, key, rates, state, record, number = lane
            high, low = threefry(key, jnp.zeros_like(turns), number * np.uint32(BLOCK) + turns)
            # 23 bits, half a unit off both ends: a wait of zero or infinity would be no number.
            waits = -jnp.log(((high >> 9).astype(jnp.int32).astype(jnp.float32) + 0.5) * 2.0**-23)
            choices = (low >> 8).astype(jnp.int32).astype(jnp.float32) * 2.0**-24
            idle = ~(state[2] >= 0)
            prey, predators, _, events = state
            start = (state, idle, (prey, predators, events), waits, choices, rates)
            state, taken, snapshot, *_ = jax.lax.fori_loop(0, BLOCK, turn, start)
            prey, predators, _, events = state
            written = taken & ~idle & (snapshot[2] <= self.max_events)
            records, last, counts = results
            where = jnp.where(written, series * steps + record, count * steps)
            records = records.at[where].set(jnp.stack(snapshot[:2], -1), mode="drop")
            record = record + written
            still = cumulative(rates, prey, predators)[3] == 0  # nothing will ever happen again
            complete = record == steps
            done = ~idle & (complete | still | (events > self.max_events))
            lane = (series, key, rates, state, record, number + 1)

            def refill(arguments):
                lane, following, last, counts = arguments
                where = jnp.where(done, series, count)
                rest = jnp.where(still & (events <= self.max_events), jnp.stack([prey, predators]), jnp.nan)
                last = last.at[where].set(rest.T, mode="drop")
                counts = counts.at[where].set(jnp.where(complete, snapshot[2], events), mode="drop")
                fresh = begin(following + jnp.cumsum(done, dtype=jnp.int32) - 1)
                lane = jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, lane)
                return lane, following + jnp.sum(done, dtype=jnp.int32), last, counts

            arguments = (lane, following, last, counts)
            lane, following, last, counts = jax.lax.cond(jnp.any(done), refill, lambda same: same, arguments)
            return lane, following, (records, last, counts)

        nothing = jnp.float32(jnp.nan)
        results = (
            jnp.full((count * steps, 2), nothing),
            jnp.full((count, 2), nothing),
            jnp.zeros(count, jnp.int32),
        )
        carry = (begin(jnp.arange(lanes, dtype=jnp.int32)), jnp.int32(lanes), results)
        *_, (records, last, counts) = jax.lax.while_loop(lambda c: jnp.any(c[0][3][2] >= 0), block, carry)
        records = records.reshape(count, steps, 2)
        records = jnp.where(jnp.isnan(records), last[:, None], records)
        return records.reshape(*axes, steps, 2), counts.reshape(axes)

    def _leap(self, steps: int, leaps: int, words: jax.Array, rates: jax.Array, initial: jax.Array):
        """Simulate one series by leaps; no population falls below zero."""
        key = jax.random.wrap_key_data(words, impl="threefry2x32")

        def leap(carry, key):
            x, events = carry
            prey, predators = x
            expected = rates * jnp.stack([prey, prey * predators, predators, prey * predators])
            happened = jax.random.poisson(key, expected * (self.interval / leaps)).astype(jnp.float32)
            events = events + jnp.sum(jnp.maximum(happened, 0))  # of NaN it draws -1
            x = jnp.where(events > self.max_events, jnp.nan, jnp.maximum(x + happened @ CHANGES, 0))
            return (x, events), x

        keys = jax.random.split(key, steps * leaps)
        (_, events), path = jax.lax.scan(leap, (initial, jnp.float32(0)), keys)
        return path[leaps - 1 :: leaps], events


def summary_statistics(series: jax.Array) -> jax.Array:
    r"""Nine statistics of a series, those of Papamakarios and Murray (2016), predators first.

    With T rows, means :math:`\bar x`, and variances :math:`s^2` that divide by T - 1, they are

    .. math:: \bar x_2, \; \bar x_1, \; \log(s_2^2 + 1), \; \log(s_1^2 + 1), \;
              a_2(1), \; a_2(2), \; a_1(1), \; a_1(2), \; c,

              a_i(k) = \frac{\sum_t (x_{t,i} - \bar x_i)(x_{t+k,i} - \bar x_i)}{(T - 1) s_i^2}, \;
              c = \frac{\sum_t (x_{t,1} - \bar x_1)(x_{t,2} - \bar x_2)}{(T - 1) s_1 s_2}

    for prey :math:`x_1` and predators :math:`x_2`. The sum at lag k has T - k terms. Correlations
    of a population that never changes are set to 0.

    Parameters
    ----------
    series
        Records (prey, predators), shape (..., T, 2). All rows count: for the numbers of Papamakarios and
        Murray put the populations at time 0 before the 150 records.

    Returns
    -------
    jax.Array
        Shape (..., 9).

    Raises
    ------
    ValueError
        If the last axes are not of the said sizes.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> s = summary_statistics(jnp.array([[1.0, 4.0], [2.0, 2.0], [3.0, 0.0]]))
    >>> print(s.round(2))
    [ 2.    2.    1.61  0.69  0.   -0.5   0.   -0.5  -1.  ]
    """
    series = jnp.asarray(series)
    if series.ndim < 2 or series.shape[-1] != 2 or series.shape[-2] < 3:
        raise ValueError(f"series: expected shape (..., T, 2) with T of 3 or more, got {series.shape}.")
    # Time first and one population at a time: an innermost axis of two would waste a vector processor.
    populations = [jnp.moveaxis(series[..., i], -1, 0) for i in (1, 0)]
    steps = len(populations[0]) - 1
    means = [x.mean(0) for x in populations]
    centered = [x - mean for x, mean in zip(populations, means, strict=True)]
    squares = [jnp.sum(c * c, 0) for c in centered]

    def correlation(product, square):
        return jnp.where(square > 0, jnp.sum(product, 0) / jnp.where(square > 0, square, 1), 0)

    lags = [
        correlation(c[k:] * c[:-k], square)
        for c, square in zip(centered, squares, strict=True)
        for k in (1, 2)
    ]
    cross = correlation(centered[0] * centered[1], jnp.sqrt(squares[0] * squares[1]))
    return jnp.stack([*means, *(jnp.log(square / steps + 1) for square in squares), *lags, cross], -1)
