r"""The Lotka-Volterra stochastic differential equation: prey, predators and noise."""

import math
from dataclasses import dataclass
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from himlib._checks import check_shape
from himlib.models import HierarchicalImplicitModel
from himlib.random import check_key, normal
from himlib.simulators._newton import maximize

__all__ = ["INITIAL", "TRUE_BETA", "LotkaVolterra", "transitions"]

#: Log rates per unit time that made the book's series, of births of prey, predation, deaths of predators and
#: births of predators.
TRUE_BETA = tuple(math.log(rate) for rate in (1.0, 0.01, 0.5, 0.01))
#: Prey and predators at the start.
INITIAL = (100.0, 50.0)
LOWEST, HIGHEST = 1e-6, 1e4  # the range of the populations after a noise-free step
VARIANCE = {"additive": 10.0, "multiplicative": 0.1}
# Series that are simulated together, so that their noise stays in a core's cache. Not a power of two,
# whose columns would all fall into the same few lines of that cache when the block is transposed.
LANES = 400
SIGNS = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])


@cache  # one object for equal arguments, so that equal simulators compare equal
def default_prior(log_noise: float | None, three_rates: bool = False) -> dist.Distribution:
    """The prior over log rates, and over the log of the noise where that is inferred."""
    location, scale = [-0.125, -4.0, -0.125, -4.0], [0.5, 0.8, 0.5, 0.8]
    if three_rates:  # predation, which is the death of predators as well
        del location[2], scale[2]
    if log_noise is not None:
        location, scale = [*location, log_noise], [*scale, 0.75]
    return dist.Normal(np.array(location, np.float32), np.array(scale, np.float32)).to_event(1)


@dataclass(frozen=True)
class LotkaVolterra:
    r"""Predators and prey, seen at regular times: one simulator with a tractable and an intractable form.

    The equation, for prey :math:`x_1` and predators :math:`x_2` and rates :math:`e^{\beta_1}, \dots,
    e^{\beta_4}` per unit time,

    .. math:: dx_1 = (e^{\beta_1} - e^{\beta_2} x_2) x_1 \, dt + \sigma \, dw_1, \quad
              dx_2 = (e^{\beta_4} x_1 - e^{\beta_3}) x_2 \, dt + \sigma \, dw_2,

    is stepped by symplectic Euler in log populations with step h = interval / inner_steps,

    .. math:: m_1 = x_1 e^{h (e^{\beta_1} - e^{\beta_2} x_2)}, \quad
              m_2 = x_2 e^{h (e^{\beta_4} m_1 - e^{\beta_3})}, \quad
              x_i \leftarrow |m_i + \sigma \sqrt h \, \epsilon_i|,

    because plain Euler steps spiral outward: at h = 0.2 a quarter of the prior's series explodes. The
    exponents are clipped to 5 in size and the :math:`m_i` to [1e-6, 1e4], which no posterior reaches.
    Reflection, an absolute value, keeps populations positive without a point mass at zero. With one
    inner step a transition's density is a product of folded normals; with more it is intractable. The
    experiment is that of Tran, Ranganath and Blei (2017), section 4, who print one rate twice: see
    ``three_rates``.

    Parameters
    ----------
    interval
        Time between two records.
    inner_steps
        Steps of the scheme between two records.
    noise_variance
        :math:`\sigma^2` per unit time: 10 by default for additive noise, 0.1 for multiplicative noise.
    noise
        "additive", as above, or "multiplicative": :math:`x_i \leftarrow m_i e^{\sigma \sqrt h \epsilon_i}`,
        which suits counts of real animals, whose scatter grows with the population.
    infer_noise
        If True, :math:`\beta` has one more entry, :math:`\log \sigma`, in place of the fixed variance.
    three_rates
        If True, the equation as the paper prints it: the second rate is predation and also the death of
        predators, and :math:`\beta` has three entries, whose prior is that of the four less the third.
        No number can be both, since only one of them is per head: with the last two rates at 0.01,
        predators live for 100 units of time, and balance at a single prey.
    prior
        A numpyro distribution over :math:`\beta`. By default normal with means (-0.125, -4, -0.125, -4)
        and standard deviations (0.5, 0.8, 0.5, 0.8): wide, and not centered at ``TRUE_BETA``. The fifth
        entry gets mean :math:`\frac12 \log` ``noise_variance`` and standard deviation 0.75: with 95 %
        probability within a factor of 4.3 of the nominal noise, since the scatter of a few records alone
        fixes it far better, and a wider prior would propose noise that drowns the ecology.

    Raises
    ------
    ValueError
        If a number is out of its range, or the noise is of another kind.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> simulator = LotkaVolterra()
    >>> beta = jnp.array(TRUE_BETA)
    >>> series = simulator.simulate_series(jax.random.key(0), beta, INITIAL, steps=150)
    >>> covariate, x = transitions(series, INITIAL)
    >>> jax.vmap(simulator.transition_log_prob, (0, 0, None))(x, covariate, beta).shape
    (150,)

    """

    interval: float = 0.2
    inner_steps: int = 1
    # None is for the constructor alone: __post_init__ puts the default in its place.
    noise_variance: float = None  # type: ignore[assignment]
    noise: str = "additive"
    infer_noise: bool = False
    three_rates: bool = False
    prior: dist.Distribution = None

    def __post_init__(self):
        if self.noise not in VARIANCE:
            raise ValueError(f"noise: expected one of {sorted(VARIANCE)}, got {self.noise!r}.")
        if not isinstance(self.inner_steps, int) or self.inner_steps < 1:
            raise ValueError(f"inner_steps: expected a positive integer, got {self.inner_steps!r}.")
        if self.noise_variance is None:
            object.__setattr__(self, "noise_variance", VARIANCE[self.noise])
        for name in ("interval", "noise_variance"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected a positive number, got {getattr(self, name)!r}.")
        if self.prior is None:
            log_noise = math.log(self.noise_variance) / 2 if self.infer_noise else None
            object.__setattr__(self, "prior", default_prior(log_noise, self.three_rates))
        shape = (4 - self.three_rates + self.infer_noise,)
        got = getattr(self.prior, "event_shape", None)
        if shape != got or self.prior.batch_shape:
            raise ValueError(f"prior: expected event shape {shape}, got {got}; see to_event.")

    @property
    def model(self) -> HierarchicalImplicitModel:
        r"""The model of ONE transition, from the covariate :math:`x_t` to :math:`x_{t+1}`; no locals."""

        def generate(noise, beta, covariate):
            x = check_shape("covariate", covariate, (2,))
            return None, jnp.stack(self._advance(x, *self._constants(beta), noise))

        return HierarchicalImplicitModel(self.prior, generate=generate, noise_shape=(self.inner_steps, 2))

    def _constants(self, beta: jax.Array, *lanes: int) -> tuple[jax.Array, jax.Array | float]:
        """Rates, and the standard deviation of the noise of one inner step."""
        rates = jnp.exp(check_shape("beta", beta, (*self.prior.event_shape, *lanes)))
        sigma = rates[-1] if self.infer_noise else math.sqrt(self.noise_variance)
        if self.three_rates:
            rates = jnp.concatenate([rates[:2], rates[1:]])
        return rates, sigma * math.sqrt(self.interval / self.inner_steps)

    def _drift(self, x, rates: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The populations after one inner step without noise."""

        def grow(population, rate):
            exponent = jnp.clip(self.interval / self.inner_steps * rate, -5.0, 5.0)
            return jnp.clip(population * jnp.exp(exponent), LOWEST, HIGHEST)

        prey = grow(x[0], rates[0] - rates[1] * x[1])
        return prey, grow(x[1], rates[3] * prey - rates[2])

    def _advance(self, x, rates, scale, noise) -> tuple[jax.Array, jax.Array]:
        """The populations at the next record: a pair of arrays, since a stack in a loop is slow."""

        def step(x, epsilon):
            pairs = zip(self._drift(x, rates), epsilon, strict=True)
            if self.noise == "additive":
                return tuple(jnp.abs(m + scale * e) for m, e in pairs), None
            return tuple(m * jnp.exp(scale * e) for m, e in pairs), None

        dtype = jnp.result_type(x[0], rates, noise)
        start = (x[0].astype(dtype), x[1].astype(dtype))
        return jax.lax.scan(step, start, noise, unroll=self.inner_steps == 1)[0]

    def mean(self, x: jax.Array, beta: jax.Array) -> jax.Array:
        r"""The next record when the noise is set to zero: :math:`(m_1, m_2)` after all inner steps.

        A query that any model :math:`g(\epsilon \mid \beta)` allows; in general not the simulator's mean.

        Parameters
        ----------
        x
            Populations (prey, predators), shape (2,).
        beta
            As in :meth:`transition_log_prob`.

        Returns
        -------
        jax.Array
            Populations, shape (2,).
        """
        constants = self._constants(beta)
        noise = jnp.zeros((self.inner_steps, 2), constants[0].dtype)
        return jnp.stack(self._advance(check_shape("x", x, (2,)), *constants, noise))

    def transition_log_prob(self, x_next: jax.Array, x: jax.Array, beta: jax.Array) -> jax.Array:
        r"""The exact :math:`\log p(x_{t+1} \mid x_t, \beta)` in nats, with one inner step.

        .. math:: \sum_i \log [N(x_{t+1,i}; m_i, \sigma^2 h) + N(-x_{t+1,i}; m_i, \sigma^2 h)] \text{ or }
                  \sum_i \log \frac{N(\log x_{t+1,i}; \log m_i, \sigma^2 h)}{x_{t+1,i}}

        with additive or with multiplicative noise.

        Parameters
        ----------
        x_next, x
            Populations (prey, predators) at two records in a row, not negative, shape (2,) each.
        beta
            Log rates, shape (4,), or (5,) with ``infer_noise``.

        Returns
        -------
        jax.Array
            A scalar.

        Raises
        ------
        ValueError
            If there are more inner steps than one, or a shape is wrong.
        """
        if self.inner_steps != 1:
            raise ValueError(
                f"inner_steps: with {self.inner_steps} the transition is intractable; "
                "use linear_noise_log_prob, an approximation, or inner_steps=1."
            )
        check_shape("x_next", x_next, (2,))
        rates, scale = self._constants(beta)
        m = jnp.stack(self._drift(check_shape("x", x, (2,)), rates))
        if self.noise == "multiplicative":
            return jnp.sum(dist.LogNormal(jnp.log(m), scale).log_prob(x_next))
        folded = (dist.Normal(m, scale).log_prob(x_next), dist.Normal(-m, scale).log_prob(x_next))
        return jnp.sum(jnp.logaddexp(*folded))

    def linear_noise_log_prob(self, x_next: jax.Array, x: jax.Array, beta: jax.Array) -> jax.Array:
        r"""The linear-noise approximation to :math:`\log p(x_{t+1} \mid x_t, \beta)`, in nats.

        Mean and covariance go through the inner steps by the Jacobian J of the noise-free step,

        .. math:: \mu \leftarrow m(\mu), \quad \Sigma \leftarrow J \Sigma J^\top + \sigma^2 h I,

        in populations for additive noise, where the final normal is folded into the positive quadrant,
        and in log populations for multiplicative noise. With one inner step it is exact; with more it
        is good while the noise between records is small.

        Parameters
        ----------
        x_next, x, beta
            As in :meth:`transition_log_prob`.

        Returns
        -------
        jax.Array
            A scalar.
        """
        check_shape("x_next", x_next, (2,))
        rates, scale = self._constants(beta)
        additive = self.noise == "additive"

        def drift(y):
            m = jnp.stack(self._drift(y if additive else jnp.exp(y), rates))
            return m if additive else jnp.log(m)

        def step(carry, _):
            mean, covariance = carry
            jacobian = jax.jacfwd(drift)(mean)
            with jax.default_matmul_precision("float32"):  # on some GPUs the default has three digits
                carried = jacobian @ covariance @ jacobian.T
            return (drift(mean), carried + scale**2 * unit), None

        start = check_shape("x", x, (2,)).astype(jnp.result_type(x, rates))
        unit = jnp.eye(2, dtype=start.dtype)
        first = start if additive else jnp.log(start), jnp.zeros_like(unit)
        (mean, ((a, b), (_, c))), _ = jax.lax.scan(step, first, length=self.inner_steps)

        def log_normal(y):  # two by two by hand: many times quicker than a Cholesky factor each
            u, v = y - mean
            determinant = a * c - b**2
            square = (c * u**2 - 2 * b * u * v + a * v**2) / determinant
            return -(square + jnp.log(determinant)) / 2 - math.log(2 * math.pi)

        if additive:
            return jax.nn.logsumexp(jax.vmap(log_normal)(SIGNS * x_next))
        return log_normal(jnp.log(x_next)) - jnp.sum(jnp.log(x_next))

    def simulate_series(
        self, key: jax.Array, beta: jax.Array, initial: jax.Array, steps: int, size: int | None = None
    ) -> jax.Array:
        r"""Simulate one series, shape (steps, 2), or ``size`` of them at once, shape (size, steps, 2).

        Parameters
        ----------
        key
            A typed key.
        beta
            Log rates, shape (4,), or (5,) with ``infer_noise``; with ``size``, a leading axis of that length
            gives each series its own.
        initial
            Populations at time 0, which are not part of the result; shape (2,) or (size, 2).
        steps
            Number of records, one per ``interval``.
        size
            Number of series, or None for one.

        Returns
        -------
        jax.Array
            Populations, shape (steps, 2); with ``size``, (size, steps, 2).

        Raises
        ------
        TypeError, ValueError
            If the key is not a typed key; if a shape is wrong, or a number out of range.
        """
        check_key(key)
        many, width = () if size is None else (size,), self.prior.event_shape
        if not all(isinstance(number, int) and number > 0 for number in (steps, *many)):
            raise ValueError(f"steps, size: expected positive integers, got {steps!r} and {size!r}.")
        beta = check_shape("beta", beta, width, (*many, *width))
        initial = check_shape("initial", initial, (2,), (*many, 2))
        return self._simulate(key, beta, initial, steps, size)

    @partial(jax.jit, static_argnames=("self", "steps", "size"))
    def _simulate(self, key, beta, initial, steps, size):
        count = size or 1
        lanes = min(count, LANES)
        blocks = math.ceil(count / lanes)
        dtype = jnp.result_type(beta, initial, jnp.float32)

        def lay_out(values):
            values = jnp.broadcast_to(values.astype(dtype), (count, values.shape[-1]))
            values = jnp.pad(values, ((0, blocks * lanes - count), (0, 0)), mode="edge")
            return values.reshape(blocks, lanes, -1).swapaxes(1, 2)

        def simulate_block(block):
            key, beta, start = block
            constants = self._constants(beta, lanes)

            def step(x, noise):
                x = self._advance(x, *constants, noise)
                return x, x

            noise = normal(key, (steps, self.inner_steps, 2, lanes), dtype)
            _, series = jax.lax.scan(step, (start[0], start[1]), noise)
            return jnp.stack(series, -1).swapaxes(0, 1)

        # A core wants one block at a time in its cache, an accelerator many blocks at once.
        at_once = {"cpu": None, "default": 256} if blocks > 1 else {"default": None}
        series = jax.lax.platform_dependent(
            (jax.random.split(key, blocks), lay_out(beta), lay_out(initial)),
            **{at: partial(jax.lax.map, simulate_block, batch_size=size) for at, size in at_once.items()},
        ).reshape(-1, steps, 2)
        return series[0] if size is None else series[:size]

    def laplace(
        self, x: jax.Array, covariate: jax.Array, start: jax.Array | None = None
    ) -> dist.MultivariateNormal:
        r"""The normal approximation to the posterior at its mode, prior included: what others are held to.

        .. math:: p(\beta \mid x) \approx N(\hat\beta, H^{-1}), \quad
                  H = -\nabla^2 \log p(\beta, x) \text{ at its maximum } \hat\beta.

        At 150 records it agrees with the exact posterior to 0.1 standard deviations. Transitions have
        their exact density with one inner step, and the linear-noise approximation with more.

        Parameters
        ----------
        x, covariate
            Transitions, from :func:`transitions`: shape (M, 2) each.
        start
            Where Newton's method starts; by default the prior's mean.

        Returns
        -------
        numpyro.distributions.MultivariateNormal
            Over log rates, of the shape of the prior.

        Raises
        ------
        ValueError
            If no maximum was found.
        """
        start = self.prior.mean if start is None else start
        mode, covariance = self._newton(x, covariate, jnp.asarray(start, jnp.result_type(x, jnp.float32)))
        found = jnp.all(jnp.linalg.eigvalsh(covariance) > 0)  # false also of NaN
        if not isinstance(found, jax.core.Tracer) and not found:
            raise ValueError("start: Newton's method found no maximum from here; are there missing values?")
        return dist.MultivariateNormal(mode, covariance)

    @partial(jax.jit, static_argnames="self")
    def _newton(self, x, covariate, start):
        density = self.transition_log_prob if self.inner_steps == 1 else self.linear_noise_log_prob

        def terms(beta):
            return jax.vmap(density, (0, 0, None))(x, covariate, beta) + self.prior.log_prob(beta) / len(x)

        return maximize(terms, start)


def transitions(series: jax.Array, initial: jax.Array) -> tuple[jax.Array, jax.Array]:
    r"""Cut series into transitions: :math:`(x_t, x_{t+1})` for every record, the first from ``initial``.

    Parameters
    ----------
    series
        Records of shape (..., steps, 2).
    initial
        Populations at time 0, shape (2,), or (..., 2) with the leading axes of ``series``.

    Returns
    -------
    tuple of jax.Array
        ``(covariate, x)``, both of shape (number of series times steps, 2).

    Raises
    ------
    ValueError
        If the last axes are not of the said sizes.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> covariate, x = transitions(jnp.array([[3.0, 4.0], [5.0, 6.0]]), (1.0, 2.0))
    >>> print(covariate)
    [[1. 2.]
     [3. 4.]]
    """
    series = jnp.asarray(series)
    if series.ndim < 2 or series.shape[-1] != 2:
        raise ValueError(f"series: expected shape (..., steps, 2), got {series.shape}.")
    before = jnp.broadcast_to(jnp.asarray(initial, series.dtype), (*series.shape[:-2], 2))
    covariate = jnp.concatenate([before[..., None, :], series[..., :-1, :]], -2)
    return covariate.reshape(-1, 2), series.reshape(-1, 2)
