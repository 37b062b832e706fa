"""A model and its data, looked at before anything runs: every entrance refuses the same in the same words."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from himlib._checks import check_numbers
from himlib.base import check_data
from himlib.models import (
    Frame,
    HierarchicalImplicitModel,
    check_model,
    check_width,
    is_distribution,
    propose,
)

TRIALS = 200  # simulations that are looked at
MANY = 100  # simulations that must not all be one number


@contextmanager
def noted(text: str) -> Iterator[None]:
    """Add to an error in a user's function how that function is called.

    Examples
    --------
    >>> with noted("In simulate(key, beta, covariate)."):
    ...     raise ValueError("shapes")
    Traceback (most recent call last):
    ValueError: shapes
    In simulate(key, beta, covariate).
    """
    try:
        yield
    except Exception as error:
        error.add_note(text)
        raise


def check_problem(
    model: Any,
    data: Any,
    beta: Any = None,
    *,
    observed: bool = True,
    batch_size: int | None = None,
    least: float | None = 1.0,
    pair: bool = False,
) -> Any:
    """Refuse a model that cannot have made the data, or whose x says nothing of beta; return the shape of z.

    Shapes, types, and what x depends on are found by tracing the simulator. Then a small batch is simulated,
    at draws of the prior, of a frame, or at rows of ``beta``, in which a share of ``least`` must be finite;
    where the caller simulates for itself, which ``least=None`` says, it calls :func:`check_measured`. With
    ``pair`` it is enough that z depends on the noise: x may be handed out as it is.

    Examples
    --------
    >>> import numpyro.distributions as dist
    >>> from himlib import Data
    >>> model = HierarchicalImplicitModel(dist.Normal(0, 1),
    ...     simulate=lambda key, beta, covariate: (None, beta + np.random.normal()))
    >>> check_problem(model, Data(jnp.zeros(3)))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: simulator: x does not depend on key: draw from it (NumPy draws once, when JAX compiles; ...
    """
    check_model(model)
    if observed:
        check_data(data, batch_size)
    else:
        check_numbers("covariate", data.covariate)
    z = check_shapes(model, data, observed)
    check_dependence(model, data.covariate, hidden=z is not None, pair=pair)
    if least is not None:
        _check_trial(model, data.covariate, beta, least)
    return z


def check_prior(model, size: int = TRIALS) -> Any:
    """Refuse a prior whose draws do not differ; return some."""
    with jax.ensure_compile_time_eval():
        draws = model.sample_prior(jax.random.key(0), (size,))
    leaves = jax.tree.leaves(model.prior, is_leaf=is_distribution)
    widths = [  # of a leaf as a whole: a matrix with zeros above its diagonal has a width
        np.full(rows.shape[1:], getattr(leaf.support, "is_discrete", False) or np.ptp(rows, 0).any(), float)
        for leaf, rows in zip(leaves, map(np.asarray, jax.tree.leaves(draws)), strict=True)
    ]
    check_width(leaves, widths)
    return draws


def _check_trial(model, covariate, beta, least) -> None:
    """Look at some simulations."""
    draws = check_prior(model, TRIALS if beta is None else 4)

    def rows(tree):
        return jax.tree.map(lambda leaf: leaf[np.arange(TRIALS) % len(leaf)], tree)

    beta = draws if beta is None else beta if isinstance(beta, Frame) else rows(beta)
    check_measured(_trial(beta, rows(covariate), model=model), least)


@partial(jax.jit, static_argnames="model")
def _trial(beta, covariate, *, model):
    if isinstance(beta, Frame):
        beta = jax.vmap(model.space.constrain)(propose(jax.random.key(1), beta, TRIALS))
    return measure(*model.simulate_batch(jax.random.key(2), beta, covariate))


def measure(z: Any, x: Any) -> tuple[jax.Array, jax.Array]:
    """Take the share of finite numbers in the worst output, and whether a batch of x is one number.

    Examples
    --------
    >>> [float(value) for value in measure(None, 1e9 + 1e-3 * jnp.arange(100.0))]
    [1.0, 1.0]
    """
    finite = jnp.stack([jnp.isfinite(leaf).mean() for leaf in jax.tree.leaves((z, x))]).min()
    same = [jnp.array(len(jax.tree.leaves(x)[0]) >= MANY)]
    for leaf in jax.tree.leaves(x):
        rounding = 4 * jnp.finfo(leaf.dtype).eps if jnp.issubdtype(leaf.dtype, jnp.floating) else 0
        leaf = leaf.astype(jnp.int32) if leaf.dtype == bool else leaf
        same.append(jnp.all(jnp.ptp(leaf, 0) <= rounding * jnp.abs(leaf).max(0)))
    return finite, jnp.stack(same).all()


def check_measured(measured: tuple, least: float = 1.0) -> None:
    """Refuse a simulator that gives numbers that are none, or always the same one.

    Examples
    --------
    >>> check_measured((0.75, False))
    Traceback (most recent call last):
    ValueError: simulator: 25.0% of some output is not finite at the prior: bound its state, narrow the prior.
    """
    finite, same = measured
    if isinstance(finite, jax.core.Tracer):
        return  # under vmap there is no value to look at
    if finite < least:
        raise ValueError(
            f"simulator: {1 - float(finite):.1%} of some output is not finite at the prior: "
            "bound its state, narrow the prior."
        )
    if same:
        raise ValueError(
            "simulator: x is one and the same number in all simulations, up to rounding: subtract an offset, "
            "or change the unit, if beta and noise are lost in it."
        )


def check_local(z: Any, local: Any) -> None:
    """Hold the shape of z, that :func:`check_problem` returns, against the family of q(z | x, beta).

    Examples
    --------
    >>> check_local(None, "a family")
    Traceback (most recent call last):
    ValueError: local: the simulator gives no z; pass local=None.
    """
    if (z is None) != (local is None):
        given = "no z; pass local=None." if z is None else (
            "a z; pass a family for it, or forget it by model.marginal."
        )  # fmt: skip
        raise ValueError(f"local: the simulator gives {given}")
    if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(z)):
        raise ValueError(
            "z: q gives floating-point numbers, the simulator integers: r can tell them apart by that alone; "
            "marginalize, or make z continuous."
        )


def check_forgotten(z: Any) -> None:
    """Refuse the z that :func:`check_problem` returns where r sees x alone.

    Examples
    --------
    >>> check_forgotten("a shape")
    Traceback (most recent call last):
    ValueError: model: gives a z, which has no place here; model.marginal is the same model that forgets it.
    """
    if z is not None:
        raise ValueError(
            "model: gives a z, which has no place here; model.marginal is the same model that forgets it."
        )


def check_draws(z: Any, made: Any) -> None:
    """Hold draws of q(z | x, beta) against the simulator's z.

    Examples
    --------
    >>> check_draws(jnp.zeros(5), jnp.zeros((5, 1)))
    Traceback (most recent call last):
    ValueError: local: expected z like the simulator's, of shape (5,), got (5, 1); \
see himlib.families.LocalFamily.
    """
    expected, got = (jax.tree.map(jnp.shape, tree) for tree in (z, made))
    if expected != got:
        raise ValueError(
            f"local: expected z like the simulator's, of shape {expected}, got {got}; "
            "see himlib.families.LocalFamily."
        )


def check_shapes(model: HierarchicalImplicitModel, data: Any, observed: bool = True) -> Any:
    """Hold the shapes of simulated x against those of the data, if any, and return the shape of z.

    Examples
    --------
    >>> from himlib import Data
    >>> from himlib.simulators.conjugate import ConjugateGaussian
    >>> check_shapes(ConjugateGaussian().model, Data(jnp.zeros((3, 5))))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: simulator: gives x of shape () and float32, the data have (5,) and float32; is the ...
    """
    call = "simulate(key" if model.generate is None else "generate(noise"
    given = "Data has no covariate" if data.covariate is None else "with its row of Data's covariate"
    keys = f" beta is a dict with the keys {list(model.prior)}." if isinstance(model.prior, dict) else ""
    beta, covariate = _one_row(model, data.covariate)
    with noted(
        f"Raised in {call}, beta, covariate), called for ONE datum under jax.vmap; {given}.{keys} "
        "A simulator that is not JAX is an ExternalModel for fit_rounds, or goes behind jax.pure_callback."
    ):
        made = jax.eval_shape(lambda *rows: model.simulate_batch(jax.random.key(0), *rows), beta, covariate)
    if not isinstance(made, tuple) or len(made) != 2:
        got = "an array; return (None, x)" if hasattr(made, "shape") else type(made).__name__
        raise TypeError(f"simulator: expected a pair (z, x), got {got}.")
    z, x = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), made)
    if not observed:
        return z
    if jax.tree.structure(x) != jax.tree.structure(data.x):
        if isinstance(data.x, list):
            raise ValueError(f"data: got a list of {len(data.x)} arrays; see jnp.stack.")
        raise ValueError(
            f"simulator: expected (z, x) with x like the data, {jax.tree.structure(data.x)}, "
            f"got {jax.tree.structure(x)}; is the order (z, x)?"
        )
    for made, seen in zip(jax.tree.leaves(x), jax.tree.leaves(data.x), strict=True):
        dtype = jax.dtypes.canonicalize_dtype(seen.dtype)  # what JAX makes of NumPy's double precision
        if made.shape != seen.shape[1:] or made.dtype != dtype:
            raise ValueError(
                f"simulator: gives x of shape {made.shape} and {made.dtype}, "
                f"the data have {seen.shape[1:]} and {dtype}"
                + (_dtype_hint(made.dtype, dtype) if made.dtype != dtype else "")
                + ("; for one observation data.x[None]" if made.shape == seen.shape else "")
                + ("." if z is None else "; is the order (z, x)?")
            )
    return z


def _dtype_hint(made, seen) -> str:
    """Name the likely cause of two types, and the remedy where nothing is lost by it."""
    if jnp.issubdtype(made, jnp.floating):
        kind, cause = "float", "another precision" if jnp.issubdtype(seen, jnp.floating) else "whole numbers"
    elif jnp.issubdtype(made, jnp.integer) and jnp.issubdtype(seen, jnp.integer):
        kind, cause = "int", "another size"
    elif jnp.issubdtype(made, jnp.integer) and jnp.issubdtype(seen, jnp.floating):
        kind, cause = "int", "whole numbers kept as floats"
    else:
        return ""
    if (str(made), str(seen)) in (("float64", "float32"), ("int64", "int32")):
        cause = "jax_enable_x64"
    return f"; likely cause: {cause}, see data.x.astype({kind})"


def _one_row(model, covariate) -> tuple:
    """Shapes of one row of beta and the covariate."""
    beta = jax.eval_shape(lambda key: model.sample_prior(key, (1,)), jax.random.key(0))
    rows = jax.tree.map(_struct, covariate)
    return beta, jax.tree.map(lambda row: jax.ShapeDtypeStruct((1, *row.shape), row.dtype), rows)


def check_dependence(
    model: HierarchicalImplicitModel, covariate: Any, hidden: bool = False, pair: bool = False
) -> None:
    """Refuse a simulator whose x does not depend on its key or noise, or not on beta.

    With locals that are hidden, beta may be of no interest.

    Examples
    --------
    >>> import numpyro.distributions as dist
    >>> model = HierarchicalImplicitModel(dist.Normal(0, 1), noise_shape=(),
    ...     generate=lambda noise, beta, covariate: (None, noise))
    >>> check_dependence(model, None)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: simulator: x does not depend on beta: the posterior would be the prior. A table of ...
    """
    rows, tree = jax.tree.flatten(jax.tree.map(_struct, covariate))
    noise, *leaves = _dependence(model, tree, tuple(rows), pair)
    if not noise:
        name = "key" if model.generate is None else "noise"
        raise ValueError(
            f"simulator: x does not depend on {name}: draw from it (NumPy draws once, when JAX compiles; "
            "a simulator that is not JAX goes behind jax.pure_callback)."
        )
    if not any(leaves):
        if hidden:
            return
        raise ValueError(
            "simulator: x does not depend on beta: the posterior would be the prior. A table of simulations "
            "cannot be looked up here; himlib.ratio.fit_ratio learns from pairs of a file."
        )
    if not all(leaves):
        paths = jax.tree_util.tree_flatten_with_path(model.prior, is_leaf=is_distribution)[0]
        names = [
            jax.tree_util.keystr(path) for (path, _), seen in zip(paths, leaves, strict=True) if not seen
        ]
        warnings.warn(
            f"simulator: x does not depend on beta{', beta'.join(names)}; its posterior would be its prior.",
            stacklevel=3,
        )


def _struct(leaf) -> jax.ShapeDtypeStruct:
    """Shape and type that JAX gives to one row."""
    return jax.ShapeDtypeStruct(leaf.shape[1:], jax.dtypes.canonicalize_dtype(leaf.dtype))


@lru_cache(maxsize=32)
def _dependence(model, tree, rows, pair) -> list[bool]:
    """Find whether x, or the pair (z, x), depends on the noise, and on each leaf of beta."""
    noise = jax.random.key(0) if model.generate is None else jnp.zeros(model.noise_shape, jnp.float32)
    beta = jax.eval_shape(model.sample_prior, jax.random.key(0))
    parts, arguments = jax.tree.flatten((jax.eval_shape(lambda: noise), beta))
    simulator = model.simulate if model.generate is None else model.generate

    def look(parts, rows):
        made = simulator(*arguments.unflatten(parts), tree.unflatten(rows))
        return made if pair else made[1]

    return _depends(look, parts, rows)


def _depends(function: Callable, parts: list, *others: Any) -> list[bool]:
    """Find whether ``function(parts, *others)`` depends on each of the parts, by tracing it."""

    def depends(i):
        # JAX refuses out_axes=None for an output that depends on what it maps over: here this part alone.
        axes = [0 if j == i else None for j in range(len(parts))], *(None for _ in others)
        two = jax.ShapeDtypeStruct((2, *parts[i].shape), parts[i].dtype)
        try:
            jax.eval_shape(
                jax.vmap(function, axes, out_axes=None), [*parts[:i], two, *parts[i + 1 :]], *others
            )
        except ValueError as error:
            if "out_axes" not in str(error):
                raise
            return True
        return False

    return [depends(i) for i in range(len(parts))]


def check_seen(ratio: Any, params: Any, batch: Any, center: Any) -> None:
    """Warn of a ratio network that sees no x, or, where there is no z, not all of beta.

    Examples
    --------
    >>> from himlib import ratio_network
    >>> x = jnp.arange(4.0)
    >>> network = ratio_network(lambda x, z, beta, covariate, center: x[None], hidden=(3,))
    >>> params = network.init(jax.random.key(0), x, None, x, None, x)
    >>> with warnings.catch_warnings(record=True, action="always") as caught:
    ...     check_seen(network, params, (x, None, x, None), x[0])
    >>> print(caught[0].message)
    ratio: r does not depend on beta: there q stays at the prior. Do the features leave it out?
    """
    rows = jax.tree.map(_struct, tuple(batch))

    def unseen(i):
        leaves, tree = jax.tree.flatten(rows[i])

        def look(parts, params, rows, center):
            return ratio.apply(params, *rows[:i], tree.unflatten(parts), *rows[i + 1 :], center)

        return tree.unflatten([not seen for seen in _depends(look, leaves, params, rows, center)])

    if all(jax.tree.leaves(unseen(0))):
        rest = "data say nothing. Do the features leave it out?"
        warnings.warn(f"ratio: r does not depend on x: {rest}", stacklevel=3)
    if rows[1] is None:
        paths = jax.tree_util.tree_flatten_with_path(unseen(2))[0]
        if names := ["beta" + jax.tree_util.keystr(path) for path, hidden in paths if hidden]:
            rest = "there q stays at the prior. Do the features leave it out?"
            warnings.warn(f"ratio: r does not depend on {', '.join(names)}: {rest}", stacklevel=3)
