"""What a reader brings: q(beta), q(z | x, beta), r, its loss and a summary, none of a class of ours."""

from doctest import DocTestParser
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from numpyro.distributions.flows import InverseAutoregressiveTransform
from numpyro.distributions.transforms import LowerCholeskyAffine
from scipy import stats
from toys import FLAT, GAUSSIAN, LinearConditional, X, known_ratio

from himlib import (
    Data,
    HierarchicalImplicitModel,
    MeanFieldNormal,
    Network,
    Outcome,
    RatioLoss,
    cosine_adam,
    families,
    fit,
    lfvi,
    verdict,
)
from himlib.abc import rejection
from himlib.classification import Generator, bayesian_classifier
from himlib.models import Frame

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(5)


inverts = pytest.mark.skipif(
    jax.__version_info__ < (0, 8), reason="NumPyro's LowerCholeskyAffine inverts no batch under JAX 0.7"
)


# What the reader brings.


class Flow:
    """A normalizing flow: an autoregressive layer, then an affine one, with a full matrix."""

    def init(self, size):
        return {
            "inner": jnp.triu(jnp.ones((size, size)), 1),
            "shift": jnp.zeros(size),
            "stretch": jnp.zeros(size),
            "location": jnp.zeros(size),
            "log_diagonal": jnp.zeros(size),
            "below": jnp.zeros((size, size)),
        }

    def layers(self, params):
        def network(v):  # number i sees those before it
            hidden = jnp.tanh(v @ jnp.triu(params["inner"], 1))
            return params["shift"] * hidden, params["stretch"] * hidden

        factor = jnp.tril(params["below"], -1) + jnp.diag(jnp.exp(params["log_diagonal"]))
        return [InverseAutoregressiveTransform(network), LowerCholeskyAffine(params["location"], factor)]

    def distribution(self, params):
        base = dist.Normal(jnp.zeros_like(params["location"]), 1.0).to_event(1)
        return dist.TransformedDistribution(base, self.layers(params))

    def sample(self, params, key, size):
        return self.distribution(params).sample(key, (size,))

    def moments(self, params):
        v = jax.random.normal(jax.random.key(0), (500, len(params["location"])))
        v = (v - v.mean(0)) / v.std(0)  # so that those of a normal are exact
        for layer in self.layers(params):
            v = layer(v)
        return v.mean(0), v.std(0)

    def reframe(self, params, old, new):
        ratio = old.scale / new.scale
        return {
            **params,
            "location": (old.location + old.scale * params["location"] - new.location) / new.scale,
            "log_diagonal": params["log_diagonal"] + jnp.log(ratio),
            "below": params["below"] * ratio[:, None],
        }


class Point:
    """A point mass that is not ours."""

    distribution = None

    def init(self, size):
        return [jnp.zeros(size)]

    def sample(self, params, key, size):
        return jnp.tile(params[0], (size, 1))

    def moments(self, params):
        return params[0], jnp.zeros_like(params[0])

    def reframe(self, params, old, new):
        return [(old.location + old.scale * params[0] - new.location) / new.scale]


class Twin:
    """Independent normals, of another class than ours."""

    def __init__(self):
        ours = MeanFieldNormal()
        self.init, self.sample, self.moments = ours.init, ours.sample, ours.moments
        self.distribution, self.reframe = ours.distribution, ours.reframe


def quadratic_form():
    """An r without a layer: a quadratic form in x, z and beta, which is what normals need."""

    def features(x, z, beta, center):
        parts = [jnp.ones(()), x, beta - center, *([] if z is None else [z])]
        return jnp.concatenate([jnp.ravel(part) for part in parts])

    def init(key, x, z, beta, covariate, center):
        size = jax.vmap(features)(x, z, beta, center).shape[1]
        return jnp.zeros((size, size))

    def apply(params, x, z, beta, covariate, center):
        u = features(x, z, beta, center)
        return u @ params @ u

    return Network(init, apply)


#: The log loss with q three times as frequent as p, of an output that is half of a log ratio, and shifted.
HALVED = RatioLoss(
    "halved",
    on_p=lambda r: jax.nn.softplus(-2 * r),
    on_q=lambda r: 3 * jax.nn.softplus(2 * r),
    optimum=lambda log_ratio: (log_ratio - jnp.log(3.0)) / 2,
    log_ratio=lambda r: 2 * r + jnp.log(3.0),
)


# A flow as q(beta), and a quadratic form as r, where the posterior is a correlated normal.

MATRIX = np.array([[1.0, 0.8], [0.0, 0.6]], "float32")
PLANE = HierarchicalImplicitModel(
    dist.Normal(jnp.zeros(2), 1.0).to_event(1),
    generate=lambda noise, beta, covariate: (None, MATRIX @ beta + noise),
    noise_shape=(2,),
)
PLANE_DATA = Data(PLANE.simulate_batch(jax.random.key(1), jnp.tile(jnp.array([0.7, -0.4]), (30, 1)))[1])
PRECISION = np.eye(2) + 30 * MATRIX.T @ MATRIX
EXACT_MEAN = np.linalg.solve(PRECISION, MATRIX.T @ np.asarray(PLANE_DATA.x).sum(0))
EXACT_COVARIANCE = np.linalg.inv(PRECISION)
EXACT_SD = np.sqrt(np.diag(EXACT_COVARIANCE))
STEPS = 800


@cache
def flow_run():
    algorithm = lfvi(
        PLANE,
        Flow(),
        quadratic_form(),
        ratio_optimizer=cosine_adam(2e-2, STEPS),
        posterior_optimizer=cosine_adam(2e-2, STEPS),
        ratio_batch=512,
    )
    return algorithm, fit(KEY, algorithm, PLANE_DATA, STEPS, rounds=2, progress=False)


@inverts
def test_a_flow_finds_the_exact_posterior_in_two_rounds():
    """Errors in posterior sds were .03 and less, and 1 % of sds and correlation."""
    algorithm, result = flow_run()
    assert result.outcome is Outcome.AT_REST
    mean, sd = map(np.asarray, algorithm.moments(result.state))
    assert np.all(np.abs(mean - EXACT_MEAN) < 0.12 * EXACT_SD)
    assert np.all(np.abs(sd / EXACT_SD - 1) < 0.06)
    beta = np.asarray(algorithm.sample(KEY, result.state, 20_000), np.float64)
    assert np.all(np.abs(beta.mean(0) - EXACT_MEAN) < 0.12 * EXACT_SD)
    assert np.all(np.abs(beta.std(0) / EXACT_SD - 1) < 0.06)
    correlation = EXACT_COVARIANCE[0, 1] / EXACT_SD.prod()
    assert abs(np.corrcoef(beta.T)[0, 1] - correlation) < 0.05 < abs(correlation)
    assert len(result.earlier) == 1 and np.all(result.state.frame.scale < result.earlier[0].frame.scale)


@inverts
def test_the_verdict_on_a_flow():
    algorithm, result = flow_run()
    found = verdict(KEY, PLANE, algorithm, result, PLANE_DATA, draws=4_000)
    assert found.findings == () and 0.9 < found.width < 1.1


@inverts
def test_a_flow_keeps_its_density_in_another_frame():
    flow = Flow()
    params = jax.tree.map(lambda leaf: leaf + 0.3, flow.init(2))
    old, new = Frame(jnp.zeros(2), jnp.ones(2)), Frame(jnp.array([0.5, -1.0]), jnp.array([0.4, 3.0]))
    v = flow.sample(params, KEY, 2_000)
    density = flow.distribution(params).log_prob(v)
    moved = flow.distribution(flow.reframe(params, old, new)).log_prob((v - new.location) / new.scale)
    np.testing.assert_allclose(moved - jnp.log(new.scale).sum(), density, rtol=1e-4, atol=1e-4)
    assert stats.normaltest(np.asarray(v)[:, 1]).pvalue < 1e-4  # it is no normal


# Locals, with a loss that is not ours.


def test_locals_and_loss():
    x = 1.0 + jax.random.normal(jax.random.key(2), (10,))
    algorithm = lfvi(
        GAUSSIAN.model,
        MeanFieldNormal(),
        quadratic_form(),
        local=LinearConditional(0.5, 0.5, 0.0, 0.0),
        loss=HALVED,
        ratio_optimizer=cosine_adam(2e-2, 2 * STEPS),
        posterior_optimizer={"beta": cosine_adam(2e-2, STEPS), "z": cosine_adam(4e-3, STEPS)},
        ratio_batch=512,
        ratio_steps=2,
    )
    result = fit(KEY, algorithm, Data(x), STEPS, progress=False)
    assert result.outcome is Outcome.AT_REST
    exact = GAUSSIAN.posterior(x)
    mean, sd = algorithm.moments(result.state)[:, 0]
    assert abs(mean - exact.mean) < 0.12 * exact.scale and abs(sd / exact.scale - 1) < 0.06
    local, log_sd = result.state.posterior["z"], np.log(GAUSSIAN.local_posterior(0.0, 0.0).scale)
    found = np.array([local[name] for name in ("a", "b", "c", "s")])
    np.testing.assert_allclose(found, [0.64, 0.36, 0.0, log_sd], atol=0.12)  # errors were .05 and less
    z = algorithm.sample_local(KEY, result.state, exact.mean, Data(jnp.full(5_000, 2.0)))
    truth = GAUSSIAN.local_posterior(2.0, exact.mean)
    assert abs(z.mean() - truth.mean) < 0.15 * truth.scale and abs(z.std() / truth.scale - 1) < 0.12


# Families of other kinds.

LOG_LIKELIHOOD = known_ratio(lambda x, z, beta, covariate: GAUSSIAN.predictive(beta).log_prob(x))


def exact_ratio(posterior, **options):
    """LFVI with an r that is exact and stays so, on five data."""
    return lfvi(
        FLAT,
        posterior,
        LOG_LIKELIHOOD,
        ratio_optimizer=optax.set_to_zero(),
        posterior_optimizer=cosine_adam(5e-2, 400),
        ratio_batch=4,
        **options,
    )


def test_the_family_of_the_documentation():
    """A logistic for a normal posterior: the mean is exact, and the sd is larger by 2 % or so."""
    names = {}
    for example in DocTestParser().get_examples(families.__doc__):
        exec(example.source, vars(families) | names, names)
    algorithm, exact = exact_ratio(names["Logistic"]()), GAUSSIAN.posterior(jnp.asarray(X))
    result = fit(KEY, algorithm, Data(jnp.asarray(X)), 400, progress=False)
    mean, sd = algorithm.moments(result.state)[:, 0]
    assert abs(mean - exact.mean) < 0.15 * exact.scale and abs(sd / exact.scale - 1.02) < 0.1


def test_a_point_mass_that_is_not_ours():
    algorithm = exact_ratio(Point())
    result = fit(KEY, algorithm, Data(jnp.asarray(X)), 400, progress=False)
    mean, sd = algorithm.moments(result.state)[:, 0]
    assert mean == pytest.approx(float(GAUSSIAN.posterior(X).mean), abs=0.01) and sd == 0
    with pytest.raises(ValueError, match="a point mass has no width to propose from"):
        algorithm.refine(KEY, result.state, Data(jnp.asarray(X)))


@inverts
def test_labels():
    """A twin of our family takes a step; a flow's entropy is not known."""
    data = Data(jnp.array([0, 2, 1, 1]), jnp.linspace(-1, 1, 8).reshape(4, 2))

    def build(posterior):
        sgd = optax.sgd(0.1)
        generator = Generator(2, 3, (4,))
        return bayesian_classifier(generator, posterior, ratio_optimizer=sgd, posterior_optimizer=sgd)

    algorithm = build(Twin())
    _, info = jax.jit(algorithm.step)(KEY, algorithm.init(KEY, data), data)
    assert np.isfinite(info.elbo) and info.spread == pytest.approx(0.1, rel=0.1)
    with pytest.raises(TypeError, match=r"knows its entropy, .*; that of Flow does not"):
        build(Flow())


# A summary, and a distance.


class Trimmed:
    """A summary is any function of Data, or an object that can be called: two numbers, in units of x."""

    def __call__(self, data):
        return jnp.stack([data.x.mean(), jnp.median(data.x)])


def test_summary_and_distance():
    """The mean tells all that there is to know; the distance looks at it alone."""
    result = rejection(
        KEY,
        FLAT,
        Data(jnp.asarray(X)),
        summary=Trimmed(),
        distance=lambda simulated, observed: jnp.abs(simulated - observed)[0],
        simulations=100_000,
        tolerance=0.05,
        progress=False,
    )
    exact, count = GAUSSIAN.posterior(X), len(result.beta)
    assert count > 1_000
    # The tolerance adds a variance of .05^2 / 3 to that of the mean, which is .2: less than 1 %.
    assert abs(result.beta.mean() - exact.mean) < (4.5 / count**0.5 + 0.02) * exact.scale
    assert abs(result.beta.std() / exact.scale - 1) < 4.5 / (2 * count) ** 0.5 + 0.02
