"""What can be refused before a run starts: what was expected, what came, the likely cause."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_rows(name: str, tree: Any, least: int = 2) -> int:
    """Refuse arrays without a common leading axis, or with too few rows; return their number.

    Examples
    --------
    >>> import numpy as np
    >>> check_rows("beta", {"a": np.zeros(3), "b": np.zeros((3, 2))})
    3
    """
    check_numbers(name, tree)
    leaves = jax.tree.leaves(tree)
    sizes: set[Any] = {leaf.shape[0] if jnp.ndim(leaf) else None for leaf in leaves}
    if len(sizes) != 1 or None in sizes:
        raise ValueError(
            f"{name}: expected arrays with one leading axis, got {[jnp.shape(a) for a in leaves]}."
        )
    (size,) = sizes
    if size < least:
        raise ValueError(f"{name}: expected at least {least} rows, got {size}.")
    return size


def check_counts(**counts: Any) -> None:
    """Refuse what counts nothing.

    Examples
    --------
    >>> check_counts(steps=100, rounds=0)
    Traceback (most recent call last):
    ValueError: rounds: expected a positive integer, got 0.
    """
    for name, value in counts.items():
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name}: expected a positive integer, got {value!r}.")


def check_even(name: str, value: Any) -> None:
    """Refuse what cannot be halved."""
    if not isinstance(value, int | np.integer) or value < 2 or value % 2:
        raise ValueError(f"{name}: expected an even positive integer, got {value!r}.")


def check_precision(name: str, array: Any) -> None:
    """Refuse numbers that JAX, which takes NumPy's 64 bits for 32, would make others of.

    Of floating-point numbers each column must keep its spread: what is lost may have 1 % of its standard
    deviation. A column that varies by rounding alone has nothing to lose.

    Examples
    --------
    >>> check_precision("data: x", 1.7e9 + np.linspace(0, 1, 20))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: data: x is lost to single precision (20 values become 1): subtract an offset or change ...
    """
    if not isinstance(array, np.ndarray | np.generic) or not array.size:
        return
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if dtype == array.dtype:
        return
    array = np.atleast_1d(array)
    with np.errstate(all="ignore"):  # what is not finite is for others to refuse
        taken = array.astype(dtype)
        if array.dtype.kind in "iu":
            lost = taken != array
        else:
            largest = np.abs(array).max(0, initial=0, where=np.isfinite(array))
            unit = np.where(largest > 0, largest, 1.0)  # its square may leave double precision, too
            scaled, error = array / unit, array / unit - taken / unit
            lost = (largest > np.finfo(dtype).max) | (largest > 0) & (largest < np.finfo(dtype).tiny)
            lost |= error.std(0) > np.maximum(0.01 * scaled.std(0), 1e-13 * np.abs(scaled.mean(0)))
    if np.any(lost):
        counts = f"{len(np.unique(array))} values become {len(np.unique(taken))}"
        raise ValueError(
            f"{name} is lost to single precision ({counts}): subtract an offset or change the unit, in data "
            "and simulator, or set jax_enable_x64."
        )


def check_numbers(name: str, tree: Any) -> None:
    """Refuse what JAX does not take for numbers, or takes for others.

    Examples
    --------
    >>> check_numbers("data", np.array(["a", "b"]))
    Traceback (most recent call last):
    TypeError: data: expected numbers, got an array of <U1.
    """
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | int | float | complex):
            hint = "; see .to_numpy()" if hasattr(leaf, "to_numpy") else ""
            raise TypeError(f"{name}: expected arrays, got {type(leaf).__name__}{hint}.")
        dtype = getattr(leaf, "dtype", None) or jnp.result_type(leaf)
        date = str(dtype).startswith(("datetime64", "timedelta64"))
        if date or not any(jnp.issubdtype(dtype, kind) for kind in (np.bool_, np.number)):
            hint = "; subtract a date, see .astype(float)" if date else ""
            raise TypeError(f"{name}: expected numbers, got an array of {dtype}{hint}.")
        if np.ma.is_masked(leaf):
            raise ValueError(f"{name}: missing or infinite values, which a mask hides.")
        part = jax.tree_util.keystr(path, simple=True, separator=".")
        check_precision(f"{name}: {part}" if part else name, leaf)


def check_shape(name: str, value: jax.Array | None, *shapes: tuple[int, ...]) -> jax.Array:
    """Return ``value`` as an array if it has one of the shapes.

    Examples
    --------
    >>> check_shape("beta", [0.0, 1.0], (4,))
    Traceback (most recent call last):
    ValueError: beta: expected shape (4,), got (2,); jax.vmap lifts to batches.
    """
    if value is None or np.shape(value) not in shapes:
        got = None if value is None else np.shape(value)
        expected = " or ".join(map(str, dict.fromkeys(shapes)))
        raise ValueError(f"{name}: expected shape {expected}, got {got}; jax.vmap lifts to batches.")
    return jnp.asarray(value)


def check_methods(name: str, value: Any, what: str, protocol: type) -> None:
    """Refuse an object without what a protocol asks for: its methods, and its properties, which may be None.

    Examples
    --------
    >>> from himlib.families import LocalFamily
    >>> check_methods("local", 3, "a family q(z | x, beta)", LocalFamily)
    Traceback (most recent call last):
    TypeError: local: expected a family q(z | x, beta) with init and sample, got int without init and \
sample; see himlib.families.LocalFamily.
    """
    if isinstance(value, type):
        raise TypeError(
            f"{name}: expected an instance of {what}, got the class {value.__name__}; likely cause: "
            "missing ()."
        )
    asked = {key: part for key, part in vars(protocol).items() if not key.startswith("_")}
    missing = [
        key
        for key, part in asked.items()
        if not callable(got := getattr(value, key, ())) and not (isinstance(part, property) and got is None)
    ]
    if missing:
        place = f"{protocol.__module__}.{protocol.__qualname__}"
        raise TypeError(
            f"{name}: expected {what} with {listed(asked)}, got {type(value).__name__} without "
            f"{listed(missing)}; see {place}."
        )


def listed(names: Iterable[str]) -> str:
    """Join names as a sentence does.

    Examples
    --------
    >>> listed(["init", "sample", "moments"])
    'init, sample and moments'
    """
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def check_samples(p: Any, q: Any, names: tuple[str, str] = ("p", "q")) -> None:
    """Refuse two samples that say nothing of a density ratio.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> check_samples(jnp.arange(3.0), jnp.zeros((3, 2)))
    Traceback (most recent call last):
    ValueError: p, q: expected draws of one shape, got () and (2,).
    """
    samples, both = dict(zip(names, (p, q), strict=True)), ", ".join(names)
    for name, sample in samples.items():
        check_numbers(name, sample)
        dtype = getattr(sample, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            got = type(sample).__name__ if dtype is None else f"an array of {dtype}"
            see = f"; see {name}.astype(float)" if dtype is not None else ""
            raise TypeError(f"{name}: expected an array of floating-point draws, got {got}{see}.")
        if sample.ndim == 0 or 0 in sample.shape[1:]:
            raise ValueError(f"{name}: expected draws along the leading axis, got shape {sample.shape}.")
        if len(sample) < 2:
            raise ValueError(f"{name}: expected two draws or more, got {len(sample)}.")
    if p.shape[1:] != q.shape[1:]:
        raise ValueError(f"{both}: expected draws of one shape, got {p.shape[1:]} and {q.shape[1:]}.")
    types = [jax.dtypes.canonicalize_dtype(sample.dtype) for sample in (p, q)]
    if types[0] != types[1]:
        raise TypeError(f"{both}: expected one dtype, got {types[0]} and {types[1]}.")
    if any(isinstance(sample, jax.core.Tracer) for sample in (p, q)):
        return  # under jit and vmap there are no values to look at
    constant = {}
    for name, sample in samples.items():
        if not np.isfinite(sample).all():
            raise ValueError(f"{name}: missing or infinite values.")
        constant[name] = np.ptp(sample, axis=0) == 0
        if constant[name].all():
            raise ValueError(f"{name}: all draws are the same; likely cause: a simulator without noise.")
    atom = (constant[names[0]] | constant[names[1]]) & (np.ptp(np.concatenate([p, q]), axis=0) > 0)
    if atom.any():
        raise ValueError(
            f"{both}: a coordinate is constant in one sample but not in the other: no ratio is finite."
        )


def check_ratio(shape: tuple[int, ...]) -> None:
    """Refuse a ratio network whose output for many data is no vector.

    Examples
    --------
    >>> check_ratio((8, 1))
    Traceback (most recent call last):
    ValueError: ratio: expected one number for each datum, got shape (1,).
    """
    if len(shape) != 1:
        raise ValueError(f"ratio: expected one number for each datum, got shape {shape[1:]}.")
