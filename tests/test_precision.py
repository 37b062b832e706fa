"""Products of matrices are of full single precision: some GPUs keep three digits, unless told otherwise."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax.lax import Precision
from jax.tree_util import Partial

from himlib import Data, HierarchicalImplicitModel
from himlib.diagnostics.two_sample import _c2st
from himlib.many_data._sums import block_sums
from himlib.ratio import classifier, fit_ratio, quadratic
from himlib.simulators._newton import maximize
from himlib.simulators.deep_implicit import DeepImplicit
from himlib.simulators.linear_regression import LinearRegression
from himlib.simulators.lotka_volterra import LotkaVolterra

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(40, 2)).astype("f4")


def products(jaxpr):
    """List the precisions of all matrix products in a program, and in the programs within it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.params["precision"]
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")
        ):
            if hasattr(getattr(inner, "jaxpr", inner), "eqns"):
                yield from products(getattr(inner, "jaxpr", inner))


def score_sums(u):
    model = HierarchicalImplicitModel(
        dist.Normal(0, 1), generate=lambda noise, beta, c: (None, beta + noise), noise_shape=()
    )
    log_ratio = Partial(lambda x, z, beta, covariate: -jnp.square(x - beta))
    keys, blocks = jax.random.key_data(KEY)[None], (jnp.arange(len(X.T)), Data(X.T))
    impl = str(jax.random.key_impl(KEY))
    options = {"model": model, "impl": impl, "pairs": 1, "even": False, "centered": True}
    return block_sums(log_ratio, u, jnp.ones(1), keys, 0, 80, blocks, sharding=None, **options)


def conditional(h1):
    simulator = DeepImplicit(outputs=2, noise_sizes=(2, 2, 3))
    found = simulator.conditional(h1, simulator.init(KEY))
    return found.loc, found.scale_tril


PROGRAMS = {
    "fit by features": (lambda p: fit_ratio(KEY, p, X, quadratic).kl, X + 1),
    "fit of a network": (lambda p: fit_ratio(KEY, p, X, classifier((3,)), steps=1).kl, X + 1),
    "two samples": (partial(_c2st, KEY, folds=2, steps=1), X, X + 1),
    "regression": (lambda x: LinearRegression().posterior(x, X).mean, X[:, 0]),
    "Newton": (partial(maximize, lambda beta: -jnp.square(X[:, 0] - beta[0]) - beta[1] ** 2), jnp.ones(2)),
    "linear noise": (
        LotkaVolterra(inner_steps=2).linear_noise_log_prob,
        jnp.ones(2),
        jnp.ones(2),
        jnp.zeros(4),
    ),
    "deep": (conditional, jnp.zeros(128)),
    "score sums": (score_sums, jnp.zeros(1)),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_products_are_of_full_precision(program):
    function, *arguments = PROGRAMS[program]
    found = list(products(jax.make_jaxpr(function)(*arguments).jaxpr))
    assert found and set(found) == {(Precision.HIGHEST,) * 2}


def test_r_is_of_full_precision_wherever_it_is_evaluated():
    fit = fit_ratio(KEY, X, X[::-1] ** 2)
    found = list(products(jax.make_jaxpr(fit.r)(X).jaxpr))
    assert found and set(found) == {(Precision.HIGHEST,) * 2}


def test_sees_what_is_not_told():
    assert list(products(jax.make_jaxpr(jax.jit(lambda a: a @ a))(jnp.eye(2)).jaxpr)) == [None]
