"""One table of wrong calls: the error's type, and what its message must say."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import optax
import pytest

from himlib.algorithm import Data
from himlib.families import FullRankNormal, ImplicitConditional, MeanFieldNormal, PointMass, Space
from himlib.lfvi import lfvi
from himlib.losses import get_loss
from himlib.models import HierarchicalImplicitModel
from himlib.networks import ratio_network
from himlib.training import fit

KEY, OLD_KEY = jax.random.key(0), jax.random.PRNGKey(0)
PRIOR = dist.Normal(0.0, 1.0)
DATA = Data(jnp.linspace(-1.0, 1.0, 6))


def flat(noise, beta, covariate):
    return None, beta + noise


def build(model=None, posterior=None, ratio=None, **options):
    settings = {"ratio_optimizer": optax.sgd(0.1), "posterior_optimizer": optax.sgd(0.1), "ratio_batch": 4}
    return lfvi(
        HierarchicalImplicitModel(PRIOR, generate=flat, noise_shape=()) if model is None else model,
        MeanFieldNormal() if posterior is None else posterior,
        ratio_network(hidden=(4,)) if ratio is None else ratio,
        **{**settings, **options},
    )


def start(generate=flat, data=DATA, noise_shape=(), **options):
    model = HierarchicalImplicitModel(PRIOR, generate=generate, noise_shape=noise_shape)
    return build(model, **options).init(KEY, data)


def simulate(**model):
    return HierarchicalImplicitModel(PRIOR, **model)


def ready():
    algorithm = build()
    return algorithm, algorithm.init(KEY, DATA)


WRONG = {
    # models
    "prior is a sampler": (lambda: HierarchicalImplicitModel(lambda key: 0.0, flat), TypeError, "numpyro"),
    "prior is empty": (lambda: HierarchicalImplicitModel({}, flat), TypeError, "numpyro"),
    "two simulators": (
        lambda: simulate(simulate=flat, generate=flat, noise_shape=()),
        ValueError,
        "exactly one",
    ),
    "no simulator": (lambda: simulate(), ValueError, "exactly one"),
    "simulator is an array": (lambda: simulate(simulate=jnp.zeros(3)), TypeError, "function"),
    "no noise shape": (lambda: simulate(generate=flat), ValueError, "go together"),
    "noise shape alone": (lambda: simulate(simulate=flat, noise_shape=()), ValueError, "go together"),
    "discrete prior": (lambda: Space(dist.Poisson(3.0)), ValueError, "discrete"),
    # losses
    "unknown loss": (lambda: get_loss("logistic"), ValueError, "hinge"),
    "unknown loss of lfvi": (lambda: build(loss="kl"), ValueError, "'kl'"),
    # kinds
    "model is a function": (lambda: build(model=flat), TypeError, "HierarchicalImplicitModel"),
    "posterior is a class": (lambda: build(posterior=FullRankNormal), TypeError, "instance"),
    "implicit q(beta)": (lambda: build(posterior=ImplicitConditional()), TypeError, "density"),
    "ratio is a function": (lambda: build(ratio=lambda x: x), TypeError, "ratio_network"),
    "local is a density": (lambda: build(local=PRIOR.log_prob), TypeError, "ImplicitConditional"),
    # options
    "unknown reference": (lambda: build(reference="prior"), ValueError, "'empirical'"),
    "unknown proposal": (lambda: build(proposal="prior"), ValueError, "'posterior'"),
    "point mass proposes": (
        lambda: build(posterior=PointMass(), proposal="posterior"),
        ValueError,
        "no width",
    ),
    "jitter of the data": (
        lambda: build(reference="empirical", jitter=lambda key, covariate: covariate),
        ValueError,
        "covariate",
    ),
    "explicit mesh": (
        lambda: build(sharding=jax.NamedSharding(jax.make_mesh((1,), ("data",)), jax.P("data"))),
        ValueError,
        "automatic",
    ),
    "negative width": (lambda: build(width=-1.0), ValueError, "width"),
    "odd ratio batch": (lambda: build(ratio_batch=5), ValueError, "even"),
    "empty ratio batch": (lambda: build(ratio_batch=0), ValueError, "even"),
    "no ratio step": (lambda: build(ratio_steps=0), ValueError, "ratio_steps"),
    "half a sample": (lambda: build(posterior_samples=0.5), ValueError, "posterior_samples"),
    "negative batch": (lambda: build(batch_size=-3), ValueError, "batch_size"),
    # data
    "minibatch larger than data": (lambda: start(batch_size=7), ValueError, "6 observations"),
    "data is an array": (lambda: start(data=DATA.x), TypeError, "Data"),
    "data is empty": (lambda: start(data=Data(jnp.zeros(0))), ValueError, "no observations"),
    "data is a number": (lambda: start(data=Data(jnp.float32(1))), ValueError, "leading axis"),
    "data has a gap": (lambda: start(data=Data(jnp.array([1.0, jnp.nan]))), ValueError, "missing"),
    "covariates too few": (lambda: start(data=Data(jnp.zeros(3), jnp.zeros(2))), ValueError, "[2, 3]"),
    # simulators
    "x is a vector": (
        lambda: start(lambda e, b, c: (None, b + e), noise_shape=(2,)),
        ValueError,
        "shape (2,)",
    ),
    "x is an integer": (
        lambda: start(lambda e, b, c: (None, jnp.int32(e > b))),
        ValueError,
        "int32",
    ),
    "pair swapped": (lambda: start(lambda e, b, c: (b + e, None)), ValueError, "order (z, x)"),
    "no pair": (lambda: start(lambda e, b, c: b + e), TypeError, "pair (z, x)"),
    "not a number": (lambda: start(lambda e, b, c: (None, jnp.log(b + e))), ValueError, "not finite"),
    "local is missing": (lambda: start(lambda e, b, c: (b, b + e)), ValueError, "pass a family"),
    "no local to find": (lambda: start(local=ImplicitConditional()), ValueError, "local=None"),
    "z of another shape": (
        lambda: start(lambda e, b, c: (jnp.stack([b, e]), b + e), local=ImplicitConditional()),
        ValueError,
        "shape ()",
    ),
    # keys
    "old key: init": (lambda: build().init(OLD_KEY, DATA), TypeError, "old-style"),
    "old key: step": (lambda: build().step(OLD_KEY, ready()[1], DATA), TypeError, "old-style"),
    "old key: refine": (lambda: build().refine(OLD_KEY, ready()[1], DATA), TypeError, "old-style"),
    "old key: sample": (lambda: build().sample(OLD_KEY, ready()[1], 3), TypeError, "old-style"),
    "old key: elbo": (lambda: build().elbo(OLD_KEY, ready()[1], DATA), TypeError, "old-style"),
    "old key: prior": (lambda: simulate(simulate=flat).sample_prior(OLD_KEY), TypeError, "old-style"),
    "old key: model": (
        lambda: simulate(simulate=flat).simulate_batch(OLD_KEY, jnp.zeros(2)),
        TypeError,
        "old-style",
    ),
    "old key: fit": (lambda: fit(OLD_KEY, build(), DATA, 3), TypeError, "old-style"),
    "seed for a key": (lambda: fit(0, build(), DATA, 3), TypeError, "jax.random.key"),
    # training
    "no steps": (lambda: fit(KEY, build(), DATA, 0), ValueError, "steps"),
    "half a round": (lambda: fit(KEY, build(), DATA, 3, rounds=0.5), ValueError, "rounds"),
    "empty chunk": (lambda: fit(KEY, build(), DATA, 3, chunk=0), ValueError, "chunk"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_call(name):
    call, error, fragment = WRONG[name]
    with pytest.raises(error) as caught:
        call()
    assert fragment in str(caught.value)


def test_right_calls_pass():
    """The table's own helpers are right where nothing is made wrong."""
    algorithm, state = ready()
    assert jnp.isfinite(algorithm.elbo(KEY, state, DATA))
