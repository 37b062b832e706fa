"""Every function that takes a model refuses the same broken ones, in the same words, and takes good ones."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from numpyro.distributions import constraints

from himlib import (
    Data,
    HierarchicalImplicitModel,
    MeanFieldNormal,
    Network,
    Outcome,
    Result,
    cosine_adam,
    fit,
    lfvi,
    ratio_network,
    verdict,
)
from himlib._problem import check_problem
from himlib.abc import mcmc, rejection, smc, standardize
from himlib.adversarial import joint_matching
from himlib.diagnostics import posterior_predictive, replicate
from himlib.many_data import solve_score, train_ratio
from himlib.models import Frame

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(0)
NORMAL = dist.Normal(0.0, 1.0)
DATA = Data(jnp.linspace(-1, 1, 120))
SGD = {"ratio_optimizer": optax.sgd(0.1), "posterior_optimizer": optax.sgd(0.1)}
NETWORK = Network(
    lambda key, *batch: {}, lambda params, x, z, beta, covariate, center: -(jnp.sum(x - jnp.sum(beta)) ** 2)
)
BLIND = Network(lambda key, *batch: {}, lambda params, x, z, beta, covariate, center: jnp.sum(x))
SIMULATE = {"summary": lambda data: data.x.mean(), "progress": False}


def model(generate=lambda noise, beta, covariate: (None, beta + noise), prior=NORMAL, noise_shape=()):
    return HierarchicalImplicitModel(prior, generate=generate, noise_shape=noise_shape)


def algorithm(model):
    return lfvi(model, MeanFieldNormal(), NETWORK, ratio_batch=256, **SGD)


def frame(model):
    return Frame(np.zeros(model.space.size), np.ones(model.space.size))


def score(model, data):
    return solve_score(
        KEY,
        model,
        lambda x, z, beta, c: -jnp.sum((x - beta) ** 2),
        data,
        frame(model),
        passes=1,
        progress=False,
    )


def judged(model, data):
    """The verdict on a state of another model, which is what verdict has from fit."""
    healthy = model if isinstance(model.prior, Own) else model_that_works
    run = algorithm(healthy)
    state = run.init(KEY, Data(DATA.x if healthy is model_that_works else data.x))
    return verdict(KEY, model, run, Result(state, None, Outcome.AT_REST), data, draws=50)


model_that_works = model()
ENTRANCES = {
    "lfvi": lambda model, data: algorithm(model).init(KEY, data),
    "joint_matching": lambda model, data: joint_matching(
        model, BLIND, start=model.sample_prior, batch_size=len(data.x), **SGD
    ).init(KEY, data),
    "train_ratio": lambda model, data: train_ratio(
        KEY, model, NETWORK, data, frame(model), optax.sgd(0.1), steps=1, batch_size=4
    ),
    "solve_score": score,
    "mcmc": lambda model, data: mcmc(
        KEY, model, data, simulations=100, tolerance=9.0, step=1.0, chains=5, **SIMULATE
    ),
    "smc": lambda model, data: smc(
        KEY, model, data, simulations=100, tolerance=[9.0, 8.0], particles=20, **SIMULATE
    ),
    "verdict": judged,
    # These need no unconstrained coordinates.
    "rejection": lambda model, data: rejection(KEY, model, data, simulations=50, tolerance=9.0, **SIMULATE),
    "standardize": lambda model, data: standardize(
        KEY, model, data, summary=SIMULATE["summary"], simulations=50
    ),
    "posterior_predictive": lambda model, data: posterior_predictive(
        KEY, model, model.sample_prior(KEY, (8,)), data
    ),
    "replicate": lambda model, data: replicate(
        KEY, model, lambda key, data: model.sample_prior(key, (5,)), 8, size=3, progress=False
    ),
}
WITHOUT_SPACE = ("rejection", "standardize", "posterior_predictive", "replicate")
COUNTING = ("mcmc", "smc", "rejection", "standardize")  # what is not finite counts as rejected

RNG, TABLE = np.random.default_rng(0), jnp.linspace(-1, 1, 50)
SPHERE = dist.ProjectedNormal(jnp.array([1.0, 0.0, 0.0]))


def summed(noise, beta, covariate):
    return None, sum(jnp.sum(leaf) for leaf in jax.tree.leaves(beta)) + noise


BROKEN = {
    "drawn by NumPy": (
        model(lambda noise, beta, covariate: (None, beta + np.float32(RNG.normal()))),
        r"x does not depend on noise: draw from it \(NumPy draws once.*jax\.pure_callback",
        ENTRANCES,
    ),
    "no noise": (model(lambda noise, beta, covariate: (None, 2 * beta)), "not depend on noise", ENTRANCES),
    "a table": (
        model(lambda noise, beta, covariate: (None, TABLE[jnp.int32(9 * noise) % 50])),
        "x does not depend on beta: the posterior would be the prior",
        ENTRANCES,
    ),
    "NaN": (
        model(lambda noise, beta, covariate: (None, beta + jnp.log(noise))),
        r"simulator: \d+\.\d% of some output is not finite at the prior: bound its state",
        [name for name in ENTRANCES if name not in COUNTING],
    ),
    "infinity": (
        model(lambda noise, beta, covariate: (None, beta + jnp.where(noise > 0, jnp.inf, noise))),
        r"simulator: \d+\.\d% of some output is not finite at the prior: bound its state",
        [name for name in ENTRANCES if name not in COUNTING],
    ),
    "another shape": (
        model(lambda noise, beta, covariate: (None, beta + noise), noise_shape=(2,)),
        r"gives x of shape \(2,\) and float32, the data have \(\) and float32",
        [name for name in ENTRANCES if name != "replicate"],
    ),
    "another type": (
        model(lambda noise, beta, covariate: (None, jnp.int32(9 * (beta + noise)))),
        r"gives x of shape \(\) and int32, the data have \(\) and float32",
        [name for name in ENTRANCES if name != "replicate"],
    ),
    "another structure": (
        model(lambda noise, beta, covariate: (None, {"x": beta + noise})),
        "x like the data, .* is the order",
        [name for name in ENTRANCES if name != "replicate"],
    ),
    "no pair": (
        model(lambda noise, beta, covariate: beta + noise),
        r"expected a pair \(z, x\), got an array; return \(None, x\)",
        ENTRANCES,
    ),
    "one number": (
        model(lambda noise, beta, covariate: (None, 1e12 + beta + noise)),
        "x is one and the same number in all simulations, up to rounding",
        ENTRANCES,
    ),
    "no width": (
        model(summed, {"mean": NORMAL, "sd": dist.Delta(1.0)}),
        r"prior: coordinate 1 has no width \(Delta\): a known number belongs into the simulator",
        ENTRANCES,
    ),
    "no samples": (
        model(summed, dist.ImproperUniform(constraints.real, (), ())),
        "prior: ImproperUniform cannot be sampled; LFVI draws beta from it",
        ENTRANCES,
    ),
    "no bijection": (
        model(summed, SPHERE),
        r"prior: ProjectedNormal has a support without a map .*\(numpyro\.distributions\.biject_to\)",
        [name for name in ENTRANCES if name not in WITHOUT_SPACE],
    ),
    "discrete": (
        model(summed, dist.Poisson(2.0)),
        "prior: Poisson is discrete",
        [name for name in ENTRANCES if name not in WITHOUT_SPACE],
    ),
}


@pytest.mark.parametrize(
    ("broken", "entrance"), [(name, entrance) for name in BROKEN for entrance in BROKEN[name][2]]
)
def test_the_same_is_refused_in_the_same_words(broken, entrance):
    model, message, _ = BROKEN[broken]
    with pytest.raises((TypeError, ValueError), match=message):
        ENTRANCES[entrance](model, DATA)


@pytest.mark.parametrize("entrance", [name for name in ENTRANCES if name != "replicate"])
def test_data_that_single_precision_loses_are_refused(entrance):
    stamps = Data(1.7e9 + np.linspace(0.0, 1.0, 120))
    with pytest.raises(ValueError, match=r"data: x is lost to single precision \(120 values become 1\)"):
        ENTRANCES[entrance](model(lambda noise, beta, covariate: (None, 1.7e9 + beta + noise)), stamps)


class Own(dist.Distribution):
    """Two parameters, of which b given a is N(a^2, 1): no more than numpyro asks for."""

    support = constraints.real_vector

    def __init__(self):
        super().__init__(event_shape=(2,))

    def sample(self, key, sample_shape=()):
        a, noise = jax.random.normal(key, (2, *sample_shape))
        return jnp.stack([a, a**2 + noise], -1)

    def log_prob(self, value):
        a, b = value[..., 0], value[..., 1]
        return NORMAL.log_prob(a) + dist.Normal(a**2, 1).log_prob(b)


def by_numpy(noise, rate):
    return np.float32(rate + noise)


def called_back(noise, beta, covariate):
    shape = jax.ShapeDtypeStruct((), jnp.float32)
    return None, jax.pure_callback(by_numpy, shape, noise, beta, vmap_method="sequential")


OWN = model(prior=Own(), noise_shape=(2,))
GOOD = {
    "plain": (model_that_works, Data(DATA.x[:8]), ENTRANCES),
    "a prior of one's own": (OWN, Data(jnp.ones((8, 2))), ENTRANCES),
    "not in JAX": (model(called_back), Data(DATA.x[:8]), ENTRANCES),
    "on the sphere": (model(summed, SPHERE), Data(DATA.x[:8]), WITHOUT_SPACE),
    "discrete": (model(summed, dist.Poisson(2.0)), Data(DATA.x[:8]), WITHOUT_SPACE),
}


@pytest.mark.parametrize(
    ("good", "entrance"), [(name, entrance) for name in GOOD for entrance in GOOD[name][2]]
)
def test_what_is_right_is_taken(good, entrance):
    model, data, _ = GOOD[good]
    ENTRANCES[entrance](model, data)


@pytest.mark.parametrize("entrance", ["rejection", "standardize"])
def test_abc_counts_what_is_not_finite(entrance):
    found = ENTRANCES[entrance](BROKEN["NaN"][0], Data(DATA.x[:1]))
    assert entrance == "standardize" or 10 < found.not_finite < 40


def test_a_prior_of_ones_own_against_quadrature():
    data = Data(jnp.ones((5, 2)))
    algorithm = lfvi(
        OWN, MeanFieldNormal(), ratio_network(hidden=(16,)), ratio_batch=512,
        ratio_optimizer=cosine_adam(1e-2, 600), posterior_optimizer=cosine_adam(3e-2, 600),
    )  # fmt: skip
    state = fit(KEY, algorithm, data, 600, progress=False).state
    a, b = np.meshgrid(np.linspace(-3, 4, 400), np.linspace(-3, 5, 400), indexing="ij")
    log_p = -(a**2) / 2 - (b - a**2) ** 2 / 2 - 5 * ((a - 1) ** 2 + (b - 1) ** 2) / 2
    weights = np.exp(log_p - log_p.max())
    mean, sd = algorithm.moments(state)
    for i, grid in enumerate((a, b)):
        exact = np.average(grid, weights=weights)
        exact_sd = np.sqrt(np.average((grid - exact) ** 2, weights=weights))
        assert abs(mean[i] - exact) < 0.3 * exact_sd
        assert sd[i] == pytest.approx(exact_sd, rel=0.3)


def test_a_parameter_without_influence_is_named():
    nuisance = model(lambda noise, beta, c: (None, beta["a"] + noise), {"a": NORMAL, "b": NORMAL})
    with pytest.warns(
        UserWarning, match=r"x does not depend on beta\['b'\]; its posterior would be its prior"
    ):
        check_problem(nuisance, DATA)


TWO = model(lambda noise, beta, c: (None, beta["a"] + noise * jnp.exp(beta["b"])), {"a": NORMAL, "b": NORMAL})
ENTRANCES_OF_R = {
    "lfvi": lambda network: lfvi(TWO, MeanFieldNormal(), network, **SGD).init(KEY, DATA),
    "train_ratio": lambda network: train_ratio(
        KEY, TWO, network, DATA, TWO.space.frame, optax.sgd(0.1), steps=1, batch_size=8
    ),
}


@pytest.mark.parametrize("entrance", ENTRANCES_OF_R.values(), ids=ENTRANCES_OF_R)
@pytest.mark.parametrize(
    ("features", "unseen"),
    [
        (lambda x, z, beta, c, center: jnp.stack([x, x**2]), r"beta\['a'\], beta\['b'\]: there q stays at"),
        (
            lambda x, z, beta, c, center: jnp.stack([x, beta["a"]]),
            r"on beta\['b'\]: there q stays at the prior",
        ),
        (lambda x, z, beta, c, center: jnp.stack([beta["a"], beta["b"]]), "r does not depend on x: data say"),
        (lambda x, z, beta, c, center: jnp.stack([x - beta["a"], beta["b"]]), None),
    ],
    ids=["all of beta", "some of beta", "x", "nothing"],
)
def test_what_a_ratio_network_does_not_see_is_named(entrance, features, unseen):
    network = ratio_network(features, (4,))
    if unseen is None:
        entrance(network)
    else:
        with pytest.warns(UserWarning, match=unseen):
            entrance(network)


def test_other_errors_are_not_taken_for_dependence():
    """A ValueError of the simulator's own, which it raises where only its noise is mapped over."""

    def generate(noise, beta, covariate):
        if "Batch" in type(noise).__name__ and "Batch" not in type(beta).__name__:
            raise ValueError("of my own")
        return None, beta + noise

    with pytest.raises(ValueError, match="of my own"):
        check_problem(model(generate), DATA)


def test_a_second_entrance_traces_shapes_only():
    traces = []

    def generate(noise, beta, covariate):
        traces.append(1)
        return None, beta + noise

    counted = model(generate)
    check_problem(counted, DATA)
    traces.clear()
    check_problem(counted, Data(DATA.x + 1))
    assert len(traces) == 1


def test_locals_may_be_all_that_is_asked_for():
    """With z in the model, beta may have no say in x; without, the posterior would be the prior."""
    assert check_problem(model(lambda noise, beta, c: (noise, 2 * noise)), DATA) is not None
    with pytest.raises(ValueError, match="x does not depend on beta"):
        check_problem(model(lambda noise, beta, c: (None, 2 * noise)), DATA)
