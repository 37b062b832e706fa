r"""Hierarchical implicit models: a prior with a density, a simulator without one.

A model is written for ONE datum. Everything that needs many data lifts it with :func:`jax.vmap`.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.flatten_util import ravel_pytree
from numpyro.distributions import Distribution
from numpyro.distributions.transforms import biject_to

from himlib.random import check_key, normal

try:
    from jax import enable_x64
except ImportError:  # its home before JAX 0.8
    from jax.experimental import enable_x64  # type: ignore[attr-defined, no-redef]

__all__ = ["Frame", "HierarchicalImplicitModel", "Space"]


def is_distribution(node: Any) -> bool:
    """Tell a numpyro distribution (itself a pytree) from a container of them."""
    return isinstance(node, Distribution)


def in_double(prior: Any) -> Any:
    """Turn the parameters of distributions to double precision; within ``enable_x64`` alone.

    Copies, always: JAX remembers in which precision it has seen an array of NumPy.
    """
    return jax.tree.map(lambda a: a if jnp.result_type(a).kind in "iub" else np.array(a, "f8"), prior)


def draw(leaf: Distribution, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Sample a prior's distribution, and say so where that has no way to."""
    try:
        return leaf.sample(key, shape)
    except NotImplementedError as error:
        name = type(leaf).__name__
        raise ValueError(f"prior: {name} cannot be sampled; LFVI draws beta from it.") from error


def check_width(leaves: list[Distribution], widths: list[Any]) -> None:
    """Refuse a prior with a coordinate that does not vary, or without end; widths are those of each leaf.

    Examples
    --------
    >>> check_width([dist.Normal(0, 1), dist.Delta(3.0)], [np.ones(()), np.zeros(())])
    Traceback (most recent call last):
    ValueError: prior: coordinate 1 has no width (Delta): a known number belongs into the simulator.
    """
    names = [type(leaf).__name__ for leaf, width in zip(leaves, widths, strict=True) for _ in np.ravel(width)]
    for i, (name, width) in enumerate(zip(names, np.concatenate([*map(np.ravel, widths)]), strict=True)):
        if width == 0:
            raise ValueError(
                f"prior: coordinate {i} has no width ({name}): a known number belongs into the simulator."
            )
        if not np.isfinite(width):
            raise ValueError(f"prior: coordinate {i} has no finite width ({name}): its draws are not finite.")


class Frame(NamedTuple):
    """A location and a scale for each unconstrained coordinate: the proposal, and q's units.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> float(Frame(jnp.array(1.0), jnp.array(2.0)).scale)
    2.0
    """

    location: jax.Array | np.ndarray
    scale: jax.Array | np.ndarray


class Space:
    r"""The unconstrained coordinates u of a prior's :math:`\beta`.

    Parameters
    ----------
    prior
        A numpyro distribution or a pytree of them, with continuous support. One of your own needs
        ``support``, ``sample`` and ``log_prob``.

    Attributes
    ----------
    size
        The number d of unconstrained coordinates.
    frame
        Location and scale of the prior there: its mean and sd on an unbounded support, where they are
        known and finite, else the median and half the central 68 % of 1,000 draws.

    Raises
    ------
    ValueError
        If a distribution is discrete, cannot be sampled, has a support that numpyro has no bijection to,
        or a coordinate without width.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro.distributions as dist
    >>> space = Space({"rate": dist.LogNormal(0, 1), "shift": dist.Normal(0, 1)})
    >>> space.size, {name: float(value) for name, value in space.constrain(jnp.zeros(2)).items()}
    (2, {'rate': 1.0, 'shift': 0.0})
    """

    def __init__(self, prior: Any):
        leaves, tree = jax.tree.flatten(prior, is_leaf=is_distribution)
        bijections = [self._bijection(leaf) for leaf in leaves]
        moments = [self._moments(*pair) for pair in zip(leaves, bijections, strict=True)]
        location, unravel = ravel_pytree([location for location, _ in moments])
        self.frame = Frame(location, ravel_pytree([scale for _, scale in moments])[0])
        if not isinstance(prior, dist.Delta):  # alone, it says that there are no globals
            check_width(leaves, [scale for _, scale in moments])
        self.size = location.size

        def constrain(u):
            values = zip(bijections, unravel(u), strict=True)
            return tree.unflatten([bijection(value) for bijection, value in values])

        def unconstrain(beta):
            values = zip(bijections, tree.flatten_up_to(beta), strict=True)
            return ravel_pytree([bijection.inv(value) for bijection, value in values])[0]

        def log_jacobian(u):
            values = zip(bijections, unravel(u), strict=True)
            return sum(jnp.sum(b.log_abs_det_jacobian(value, b(value))) for b, value in values)

        #: u -> beta
        self.constrain = constrain
        #: beta -> u
        self.unconstrain = unconstrain
        #: u -> the log of the determinant of d beta / d u
        self.log_jacobian = log_jacobian

    @staticmethod
    def _bijection(leaf):
        name, support = type(leaf).__name__, leaf.support
        if support is None:
            raise ValueError(f"prior: {name} has no support, one of numpyro.distributions.constraints.")
        if support.is_discrete:
            raise ValueError(f"prior: {name} is discrete; q(beta) is reparameterized.")
        try:
            return biject_to(support)
        except NotImplementedError as error:
            raise ValueError(
                f"prior: {name} has a support without a map from unconstrained coordinates "
                "(numpyro.distributions.biject_to); write it through one that has."
            ) from error

    @staticmethod
    def _moments(leaf, bijection):
        if leaf.support in (dist.constraints.real, dist.constraints.real_vector):
            # A distribution of one's own need not know its moments.
            with suppress(NotImplementedError, AttributeError), np.errstate(over="ignore"):
                location, scale = jnp.broadcast_arrays(leaf.mean, jnp.sqrt(leaf.variance))
                if not bool(jnp.all((scale > 1e-15) & (scale < 1e15))):  # the square needs double precision
                    location, scale = Space._double_moments(leaf, location, scale)
                if bool(jnp.all(jnp.isfinite(location) & jnp.isfinite(scale))):
                    # A prior of integers, Normal(0, 1), has an integer mean, which would truncate u.
                    return jnp.asarray(location, scale.dtype), jnp.asarray(scale, scale.dtype)
        draws = bijection.inv(draw(leaf, jax.random.key(0), (1000,)))
        low, median, high = jnp.quantile(draws, jnp.array([0.16, 0.5, 0.84]), axis=0)
        return median, (high - low) / 2

    @staticmethod
    def _double_moments(leaf, location, scale):
        """The moments again where a variance in single precision is zero or infinite."""
        with enable_x64(True):
            double = in_double(leaf)
            exact = np.broadcast_arrays(*map(np.asarray, (double.mean, jnp.sqrt(double.variance))))
        inside = (scale > 1e-15) & (scale < 1e15)
        pairs = zip((location, scale), exact, strict=True)
        return [jnp.where(inside, one, jnp.asarray(other, scale.dtype)) for one, other in pairs]


@dataclass(frozen=True, eq=False)  # compared by identity: a prior that is a dict has no hash
class HierarchicalImplicitModel:
    r"""A hierarchical implicit model (Tran, Ranganath and Blei 2017, equation 1).

    .. math:: p(x, z, \beta \mid c) = p(\beta) \prod_{n=1}^N p(x_n, z_n \mid \beta, c_n),

    of which only :math:`p(\beta)` has a density that can be evaluated. The pair :math:`(z_n, x_n)`
    comes out of ONE call, so that nothing downstream can pair an x with another datum's z.

    Give either ``simulate``, or ``generate`` together with ``noise_shape``. The second form is the
    paper's :math:`x_n = g(\epsilon_n \mid z_n, \beta)`: it makes antithetic noise and noise-free
    runs possible, and gradients with respect to :math:`\beta` go through it.

    Parameters
    ----------
    prior
        A numpyro distribution over :math:`\beta`, or a pytree (a dict, say) of them.
    simulate
        ``simulate(key, beta, covariate) -> (z, x)`` for one datum; z is None without local latents.
    generate
        ``generate(noise, beta, covariate) -> (z, x)`` for one datum, with noise
        :math:`\epsilon \sim N(0, I)` of shape ``noise_shape``.
    noise_shape
        Shape of the standard normal noise of one datum, for ``generate``.

    Raises
    ------
    TypeError
        If the prior is no numpyro distribution, or a simulator is no function.
    ValueError
        If not exactly one of ``simulate`` and ``generate`` is given, or one without its noise shape.

    Examples
    --------
    >>> import jax, numpyro.distributions as dist
    >>> def generate(noise, beta, covariate):
    ...     z = beta + noise[0]
    ...     return z, z + noise[1]
    >>> model = HierarchicalImplicitModel(dist.Normal(0, 1), generate=generate, noise_shape=(2,))
    >>> z, x = model.simulate_batch(jax.random.key(0), jax.numpy.zeros(5))
    >>> z.shape, x.shape
    ((5,), (5,))
    """

    prior: Any
    simulate: Callable | None = None
    generate: Callable | None = None
    noise_shape: tuple[int, ...] | None = None

    def __post_init__(self):
        leaves = jax.tree.leaves(self.prior, is_leaf=is_distribution)
        if not leaves or not all(map(is_distribution, leaves)):
            got = type(self.prior).__name__
            if isinstance(self.prior, type):
                got = f"the class {self.prior.__name__}"
            raise TypeError(
                f"prior: expected a numpyro distribution or a pytree of them, got {got}; "
                "LFVI evaluates p(beta), so a sampler alone does not do."
            )
        if (self.simulate is None) == (self.generate is None):
            raise ValueError("expected exactly one of simulate and generate.")
        if not callable(self.generate if self.simulate is None else self.simulate):
            raise TypeError("simulate and generate: expected a function of (key or noise, beta, covariate).")
        if (self.generate is None) != (self.noise_shape is None):
            raise ValueError("generate and noise_shape go together: the shape of one datum's noise.")
        sizes = self.noise_shape
        if sizes is not None and not (
            isinstance(sizes, tuple) and all(isinstance(n, int) and n >= 0 for n in sizes)
        ):
            raise ValueError(f"noise_shape: expected a tuple of sizes, such as (2,), got {sizes!r}.")

    @cached_property
    def space(self) -> Space:
        """The unconstrained coordinates of the prior, a :class:`Space`."""
        with jax.ensure_compile_time_eval():  # its moments are numbers even while a function is traced
            return Space(self.prior)

    @cached_property
    def double(self) -> "HierarchicalImplicitModel":
        """The same model, its prior in double precision: for what is done within ``enable_x64``."""
        with enable_x64(True), jax.ensure_compile_time_eval():
            twin = replace(self, prior=in_double(self.prior))
            _ = twin.space  # made here, while double precision is on
        return twin

    @cached_property
    def marginal(self) -> "HierarchicalImplicitModel":
        r"""The same model with z forgotten: simulations are draws of :math:`\int p(x, z \mid \beta, c)\, dz`.

        It is what learns about the globals alone. Where a network is trained, a model that gives z needs a
        family of q(z | x, beta), or is this one: nothing is forgotten in silence.

        Examples
        --------
        >>> from himlib.simulators.conjugate import ConjugateGaussian
        >>> z, x = ConjugateGaussian().model.marginal.simulate_batch(jax.random.key(0), jnp.zeros(5))
        >>> z is None, x.shape
        (True, (5,))
        """

        def forgetful(simulator):
            def forget(*arguments):
                made = simulator(*arguments)
                return (None, made[1]) if isinstance(made, tuple) and len(made) == 2 else made

            return None if simulator is None else forget

        return replace(self, simulate=forgetful(self.simulate), generate=forgetful(self.generate))

    def simulate_batch(self, key: jax.Array, beta: Any, covariate: Any = None) -> tuple:
        r"""Draw one pair (z, x) from the model for each row of ``beta`` and ``covariate``.

        Parameters
        ----------
        key
            A typed key, ``jax.random.key(seed)``.
        beta
            Globals with a leading batch axis.
        covariate
            Covariates with the same leading axis, or None.

        Returns
        -------
        tuple
            The pair (z, x), each with the leading axis of ``beta``; z is None without local latents.
        """
        if not all(jnp.ndim(leaf) for leaf in jax.tree.leaves(beta)):
            raise ValueError("beta: expected a leading batch axis, got a number; one row for each pair.")
        size = jax.tree.leaves(beta)[0].shape[0]
        if self.simulate is not None:
            return jax.vmap(self.simulate)(jax.random.split(check_key(key), size), beta, covariate)
        assert self.generate is not None and self.noise_shape is not None
        return jax.vmap(self.generate)(normal(key, (size, *self.noise_shape)), beta, covariate)

    def sample_prior(self, key: jax.Array, shape: tuple[int, ...] = ()) -> Any:
        r"""Draw :math:`\beta \sim p(\beta)`.

        Parameters
        ----------
        key
            A typed key.
        shape
            Of the leading axes; () for a single draw.

        Returns
        -------
        Any
            A tree like the prior, with an array for each distribution, in its own units.
        """
        leaves, tree = jax.tree.flatten(self.prior, is_leaf=is_distribution)
        keys = jax.random.split(check_key(key), len(leaves))
        return tree.unflatten([draw(leaf, k, shape) for leaf, k in zip(leaves, keys, strict=True)])

    def log_prior(self, beta: Any) -> jax.Array:
        r""":math:`\log p(\beta)` in nats, for one :math:`\beta`.

        Parameters
        ----------
        beta
            A tree like the prior, in its own units, without a leading axis.

        Returns
        -------
        jax.Array
            A scalar.
        """
        leaves, tree = jax.tree.flatten(self.prior, is_leaf=is_distribution)
        values = tree.flatten_up_to(beta)
        terms = (jnp.sum(leaf.log_prob(value)) for leaf, value in zip(leaves, values, strict=True))
        total: Any = sum(terms)  # never the 0 of no terms
        return total


def check_frame(frame: Any, size: int) -> Frame:
    """Return the frame in arrays, if it is one of so many coordinates."""
    if not isinstance(frame, Frame):
        raise TypeError(f"frame: expected a Frame of location and scale, got {type(frame).__name__}.")
    frame = Frame(*(np.asarray(values, np.float64) for values in frame))
    if not (frame.location.shape == frame.scale.shape == (size,)):
        shapes = f"got {frame.location.shape} and {frame.scale.shape}"
        raise ValueError(f"frame: expected location and scale of shape ({size},), {shapes}.")
    if not (np.isfinite(frame.location).all() and np.all((frame.scale > 0) & np.isfinite(frame.scale))):
        raise ValueError("frame: expected finite locations and positive scales.")
    return frame


def propose(key: jax.Array, frame: Frame, size: int) -> Any:
    """Draw u from the normal of a frame's location and scale, (size, d)."""
    return frame.location + frame.scale * normal(key, (size, len(frame.location)))


def antithetic(key: jax.Array, model: HierarchicalImplicitModel, beta: Any, covariate: Any) -> list[tuple]:
    """Simulate (z, x) for each row, where there is ``generate`` with the noise and with minus the noise."""
    if model.generate is None or model.noise_shape is None:
        return [model.simulate_batch(key, beta, covariate)]
    noise = normal(key, (jax.tree.leaves(beta)[0].shape[0], *model.noise_shape))
    return [jax.vmap(model.generate)(sign * noise, beta, covariate) for sign in (1, -1)]


def check_model(model: Any) -> None:
    """Refuse what cannot simulate.

    Examples
    --------
    >>> check_model(None)
    Traceback (most recent call last):
    TypeError: model: expected a HierarchicalImplicitModel, got NoneType.
    """
    if not isinstance(model, HierarchicalImplicitModel):
        raise TypeError(f"model: expected a HierarchicalImplicitModel, got {type(model).__name__}.")


def prior_terms(u, scale, *, model) -> tuple[np.ndarray, np.ndarray]:
    """Gradient of the prior's log density in unconstrained coordinates, and minus its Hessian, per scale."""
    with enable_x64(True):  # its curvature is 1 / sd^2, which single precision may not hold
        terms = _prior_terms(np.asarray(u, np.float64), np.asarray(scale, np.float64), model=model.double)
        gradient, curvature = (np.asarray(term, np.float64) for term in terms)
        return gradient, curvature


@partial(jax.jit, static_argnames="model")
def _prior_terms(u, scale, *, model):
    def log_prior(v):
        return model.log_prior(model.space.constrain(u + scale * v)) + model.space.log_jacobian(u + scale * v)

    origin = jnp.zeros_like(u)
    return jax.grad(log_prior)(origin), -jax.hessian(log_prior)(origin)
