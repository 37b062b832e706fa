"""Do the data look as a posterior expects?"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from himlib._checks import check_rows
from himlib._problem import check_problem
from himlib.base import Data, check_data
from himlib.few_simulations import ExternalModel
from himlib.models import HierarchicalImplicitModel
from himlib.random import check_key

__all__ = ["PredictiveCheck", "posterior_predictive"]


class PredictiveCheck(NamedTuple):
    """Statistics of the data beside those of data that the posterior would have expected.

    Attributes
    ----------
    observed
        What the statistics are of the data.
    simulated
        The same of the simulated data sets, with a leading axis of L.
    p_value
        Two-sided, element by element: twice the smaller share of simulated statistics at least, or at
        most, the observed one, which itself is counted in.
    """

    observed: Any
    simulated: Any
    p_value: Any


def posterior_predictive(
    key: jax.Array,
    model: HierarchicalImplicitModel | ExternalModel,
    beta: Any,
    data: Data,
    statistics: Callable = lambda data: data.x,
) -> PredictiveCheck:
    r"""Simulate a data set like the observed one at each posterior draw, and compare statistics.

    .. math:: \beta_l \sim q(\beta), \quad x^{(l)} \sim p(x \mid \beta_l, c), \quad
              \text{and } T(x^{(l)}) \text{ beside } T(x) \quad \text{(Rubin 1984)}.

    The data are used twice, for q and for the check, so that p-values of a right model crowd around 1/2
    rather than being uniform: a small one tells, a large one does not.

    Parameters
    ----------
    key
        A typed key, ``jax.random.key(seed)``.
    model
        The model, in JAX or outside of it.
    beta
        Posterior draws with a leading axis of L.
    data
        The observations; the simulated ones share their covariates.
    statistics
        ``statistics(data) -> pytree of arrays`` of one data set, a :class:`~himlib.base.Data`. The
        default is x itself, which gives a p-value for each datum.

    Returns
    -------
    PredictiveCheck
        What the statistics are of the data and of the L simulated data sets, and a p-value for each.

    Raises
    ------
    TypeError
        If the key is old-style, or the model is none.
    ValueError
        If there are fewer than two draws, a statistic is not finite, or a simulation fails.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from himlib.simulators.conjugate import ConjugateGaussian
    >>> gaussian, x = ConjugateGaussian(), jnp.array([-3.0, -1.0, 1.0, 9.0])
    >>> beta = gaussian.posterior(x).sample(jax.random.key(0), (999,))
    >>> check = posterior_predictive(jax.random.key(1), gaussian.model, beta, Data(x),
    ...     lambda data: {"mean": data.x.mean(), "largest": data.x.max()})
    >>> bool(check.p_value["mean"] > 0.3), bool(check.p_value["largest"] < 0.01)
    (True, True)
    """
    check_key(key)
    draws = check_rows("beta", beta)
    if isinstance(model, ExternalModel):
        check_data(data, None)
        observed, simulated = _judge(data, model.simulate_data(key, beta, data), statistics)
    else:
        check_problem(model, data, beta)
        observed, simulated = _predict(key, model, beta, data, statistics)
    for leaf in jax.tree.leaves((observed, simulated)):
        if not np.isfinite(leaf).all():
            raise ValueError(
                f"statistics: {1 - np.isfinite(leaf).mean():.1%} of some statistic is not finite."
            )

    def p_value(observed, simulated):
        tails = jnp.minimum((simulated >= observed).sum(0), (simulated <= observed).sum(0))
        return jnp.minimum(1.0, 2 * (1 + tails) / (1 + draws))

    return PredictiveCheck(observed, simulated, jax.tree.map(p_value, observed, simulated))


@partial(jax.jit, static_argnames=("model", "statistics"))
def _predict(key, model, beta, data, statistics):
    size = jax.tree.leaves(data)[0].shape[0]

    def one(inputs):
        key, beta = inputs
        rows = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (size, *leaf.shape)), beta)
        return statistics(Data(model.simulate_batch(key, rows, data.covariate)[1], data.covariate))

    keys = jax.random.split(key, jax.tree.leaves(beta)[0].shape[0])
    return statistics(data), jax.lax.map(one, (keys, beta))


@partial(jax.jit, static_argnames="statistics")
def _judge(data, x, statistics):
    return statistics(data), jax.lax.map(lambda x: statistics(Data(x, data.covariate)), x)
