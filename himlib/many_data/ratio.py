"""Neural ratio estimation on one wide proposal: r trained once, for all that is asked of it later."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.tree_util import Partial

from himlib._checks import check_counts, check_even
from himlib._options import check_network, check_optimizer
from himlib._problem import check_forgotten, check_problem
from himlib.base import Data
from himlib.losses import LOSSES
from himlib.models import Frame, HierarchicalImplicitModel, check_frame, check_model
from himlib.networks import Network
from himlib.random import check_key
from himlib.training import Outcome, descend, describe_simulated
from himlib.variational import OVER_ROWS, contrast, start_ratio

__all__ = ["train_ratio"]


def check_sharding(sharding: Any) -> None:
    """Refuse what lays nothing out over a mesh."""
    if not isinstance(sharding, NamedSharding | None):
        raise TypeError(f"sharding: expected a NamedSharding or None, got {type(sharding).__name__}.")


def _batch(key, data, frame, *, model, size, jitter, sharding):
    """Draw what r compares: x of the model with their own beta, and each with another's."""
    k_index, k_jitter, k_beta, k_model = jax.random.split(key, 4)
    keys = k_index, k_beta, k_model, None, None, k_jitter
    return contrast(keys, model, frame, data, size, jitter=jitter, sharding=sharding)


@partial(jax.jit, static_argnames=("model", "ratio", "optimizer", "steps", "size", "jitter", "sharding"))
def _train(key, data, frame, *, ratio, optimizer, steps, **options):
    size, center = options["size"], options["model"].space.constrain(jnp.asarray(frame.location))
    apply_ratio = jax.vmap(ratio.apply, OVER_ROWS)

    def objective(params, key):
        r = apply_ratio(params, *_batch(key, data, frame, **options), center)
        return LOSSES["log"](r[:size], r[size:])

    k_init, k_first, k_steps = jax.random.split(key, 3)
    params = start_ratio(k_init, ratio, _batch(k_first, data, frame, **options), center)
    k_steps = jax.random.split(k_steps, steps)
    (params, _), loss = descend(objective, optimizer, (params, optimizer.init(params)), k_steps)
    finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((params, loss[-1]))]).all()
    return params, center, loss, finite, k_steps


def train_ratio(
    key: jax.Array,
    model: HierarchicalImplicitModel,
    ratio: Network,
    data: Data,
    frame: Frame,
    optimizer: optax.GradientTransformation,
    *,
    steps: int = 4000,
    batch_size: int = 1024,
    jitter: Callable | None = None,
    sharding: NamedSharding | None = None,
) -> tuple[Partial, jax.Array]:
    r"""Train r once, on a proposal that stays as it is: the normal with the frame's location and scale.

    Two draws of x at each covariate, for two draws of :math:`\beta`, are each a joint draw with its own
    :math:`\beta` and a draw of the reference with the other's. The loss is the log loss.

    A *wide* proposal teaches most per simulation: about five times as wide as the posterior of that
    part of the data which :math:`\beta` is typically inferred from, say one series. Where the proposal is
    far narrower, joint and reference draws look alike, and the loss stays at :math:`2 \log 2` nats.

    Parameters
    ----------
    key
        A typed key.
    model
        The model, without locals: r sees x alone. Of one with locals, ``model.marginal``.
    ratio
        Network of (x, z, beta, covariate, center), see :func:`himlib.networks.ratio_network`; z is None.
    data
        Where covariates come from; x is not looked at.
    frame
        The proposal of unconstrained :math:`\beta`, a :class:`~himlib.models.Frame`.
    optimizer
        An optax transformation, such as :func:`himlib.training.cosine_adam`.
    steps
        Steps of the optimizer.
    batch_size
        Simulations per step; each is used twice.
    jitter
        ``jitter(key, covariate) -> covariate``: spreads the covariates.
    sharding
        How batches are laid out over the devices of a mesh, see :func:`himlib.variational.lfvi`.

    Returns
    -------
    log_ratio
        ``log_ratio(x, z, beta, covariate)`` for one datum, which may pass through jit.
    loss
        The loss at each step, in nats.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of range, or simulator and data do not agree.
    FloatingPointError
        If r is not finite in the end: at which step that began, and whether a simulated x was not finite.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from himlib import cosine_adam, ratio_network
    >>> from himlib.simulators.conjugate import ConjugateGaussian
    >>> log_ratio, loss = train_ratio(jax.random.key(0), ConjugateGaussian().model.marginal, ratio_network(),
    ...     Data(jnp.zeros(2)), Frame(jnp.zeros(1), jnp.full(1, 5.0)), cosine_adam(1e-2, 20), steps=20)
    >>> log_ratio(jnp.array(1.0), None, jnp.array(0.5), None).shape, loss.shape
    ((), (20,))
    """
    check_key(key)
    check_model(model)
    check_network(ratio)
    check_optimizer("optimizer", optimizer)
    check_sharding(sharding)
    check_counts(steps=steps)
    check_even("batch_size", batch_size)
    frame = check_frame(frame, model.space.size)
    check_forgotten(check_problem(model, data, frame))
    options = {"model": model, "size": batch_size, "jitter": jitter, "sharding": sharding}
    params, center, loss, finite, keys = _train(
        key, data, frame, ratio=ratio, optimizer=optimizer, steps=steps, **options
    )
    if not finite:
        bad = ~np.isfinite(loss)
        first = int(bad.argmax()) if bad.any() else steps - 1
        x, _, beta, _ = jax.jit(partial(_batch, **options))(keys[first], data, frame)
        simulated = describe_simulated(jax.tree.map(lambda leaf: leaf[:batch_size], x), beta)
        outcome = Outcome.SIMULATOR_NOT_FINITE if simulated else Outcome.NOT_FINITE
        raise FloatingPointError(
            f"{outcome.value} It was step {first + 1}{f': {simulated}' if simulated else ''}."
        )
    return Partial(_apply, Partial(ratio.apply), params, center), loss


def _apply(apply, params, center, x, z, beta, covariate):
    return apply(params, x, z, beta, covariate, center)
