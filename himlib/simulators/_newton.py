"""Newton's method for the mode of a posterior whose log density is a sum over data."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

STEPS = np.append(0.5 ** np.arange(12, dtype=np.float32), np.float32(0))  # for a line search


def maximize(terms: Callable, start: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maximize the sum of ``terms(beta)``, an array: the maximum, and the inverse of the negative Hessian."""

    def slope(beta):  # forward mode: reverse mode compiles longer, and stores every term
        return (jnp.sum(jax.jacfwd(terms)(beta), 0),) * 2

    def step(beta, _):
        hessian, gradient = jax.jacfwd(slope, has_aux=True)(beta)
        curvature, axes = jnp.linalg.eigh(-hessian)
        # Uphill also where the sum is not concave; and the best of many step lengths, where gains are
        # summed term by term, since in float32 the totals would hide them.
        curvature = jnp.maximum(jnp.abs(curvature), 1e-6 * jnp.max(jnp.abs(curvature)))
        with jax.default_matmul_precision("float32"):  # on some GPUs the default has three digits
            direction = axes @ (axes.T @ gradient / curvature)
        candidates = beta + STEPS[:, None] * direction
        here = terms(beta)
        gains = jax.lax.map(lambda candidate: jnp.sum(terms(candidate) - here), candidates)
        best = jnp.argmax(jnp.where(jnp.isnan(gains), -jnp.inf, gains))
        return candidates[best], -hessian

    mode, precisions = jax.lax.scan(step, start, length=30)
    return mode, jnp.linalg.inv(precisions[-1])
