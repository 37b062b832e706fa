"""Small models, networks and families whose answers are known, shared by the tests."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax

from himlib import HierarchicalImplicitModel, MeanFieldNormal, Network, lfvi
from himlib.random import normal
from himlib.simulators.conjugate import ConjugateGaussian

GAUSSIAN = ConjugateGaussian(1.0, 0.8, 0.6)  # its x has variance 1 given beta
X = np.array([0.4, -1.3, 2.2, 0.9, 1.1], "float32")

#: The conjugate model with its z integrated out: the same posterior, and no local latents.
FLAT = HierarchicalImplicitModel(
    GAUSSIAN.prior, generate=lambda noise, beta, covariate: (None, beta + noise), noise_shape=()
)


def known_ratio(function):
    """A ratio network without training: the function, plus a slope in beta that starts at zero."""

    def apply(params, x, z, beta, covariate, center):
        return function(x, z, beta, covariate) + params["slope"] * beta

    return Network(lambda key, *batch: {"slope": jnp.zeros(())}, apply)


def within(samples, expected, sigmas=4.5, tolerance=1e-6):
    """Whether means over the leading axis are what is expected, by their standard errors."""
    samples = np.asarray(samples, np.float64)
    error = samples.std(0) / np.sqrt(len(samples))
    return bool(np.all(np.abs(samples.mean(0) - np.asarray(expected)) < sigmas * error + tolerance))


@dataclass(frozen=True)
class LinearConditional:
    """q(z | x, beta) = N(a x + b beta + c, exp(2 s)), known in full: a local family with a density."""

    a: float
    b: float
    c: float
    s: float

    def init(self, key, z, x, beta, covariate):
        return {name: jnp.full((), value, jnp.float32) for name, value in vars(self).items()}

    def sample(self, params, key, x, beta, covariate):
        noise = normal(key, x.shape)
        return params["a"] * x + params["b"] * beta + params["c"] + jnp.exp(params["s"]) * noise

    def log_prob(self, z, x, beta):
        return dist.Normal(self.a * x + self.b * beta + self.c, jnp.exp(self.s)).log_prob(z)


def known_everything(**options):
    """LFVI on x ~ N(beta, noise^2) with a ratio of known shape; data alone decide how a run ends."""
    model = HierarchicalImplicitModel(
        dist.Normal(0.0, 1.0),
        generate=lambda noise, beta, covariate: (None, beta + covariate["noise"] * noise),
        noise_shape=(),
    )
    ratio = known_ratio(lambda x, z, beta, c: c["offset"] - ((x - beta) / c["noise"]) ** 2 / 2)
    ratio = ratio._replace(init=lambda key, *batch: {"slope": 1e-3 * normal(key)})  # each round has its own
    # The mean moves by a tenth of the way to its optimum where the noise is 1e-5, and hardly where it is 1.
    optimizers = {"location": optax.sgd(1e-11), "log_scale": optax.adam(0.3, b1=0.0, b2=0.5)}
    return lfvi(
        model,
        MeanFieldNormal(),
        ratio,
        ratio_optimizer=optax.adam(1e-4),
        posterior_optimizer=optax.partition(optimizers, {"beta": {name: name for name in optimizers}}),
        ratio_batch=256,
        **options,
    )


def count_traces(model, counts):
    """The model, noting in a list each time that its simulator is traced."""

    def generate(noise, beta, covariate):
        counts.append(1)
        return model.generate(noise, beta, covariate)

    return HierarchicalImplicitModel(model.prior, generate=generate, noise_shape=model.noise_shape)
