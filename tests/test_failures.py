"""Runs of LFVI that fail in known ways, each beside a healthy one, and the diagnostic that tells which."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import FLAT, GAUSSIAN

from himlib import (
    ALGORITHM_1,
    Data,
    HierarchicalImplicitModel,
    ImplicitConditional,
    MeanFieldNormal,
    Outcome,
    cosine_adam,
    fit,
    lfvi,
    ratio_network,
)
from himlib.abc import rejection
from himlib.diagnostics import c2st, coverage, rank_test, ranks, replicate, sum_log_ratio
from himlib.simulators.linear_regression import LinearRegression

KEY = jax.random.key(0)
HEALTHY = {"proposal": "posterior", "width": 4.0, "ratio_steps": 5, "posterior_samples": 4}


def build(model=FLAT, steps=600, ratio_batch=64, local=None, **changes):
    settings = {**HEALTHY, **changes}
    # z more slowly than r: the other way round q(z | x, beta) runs into corners and narrows.
    optimizers = {"beta": cosine_adam(5e-2, steps), "z": cosine_adam(3e-3, steps)}
    return lfvi(
        model,
        MeanFieldNormal(),
        ratio_network(hidden=(16,)),
        local=local,
        ratio_optimizer=cosine_adam(2e-2, steps * settings["ratio_steps"]),
        posterior_optimizer=optimizers["beta"] if local is None else optimizers,
        ratio_batch=ratio_batch,
        **settings,
    )


# Calibration of the whole method, over data sets: the hinge loss is too sure, and only this shows it.


def ranks_of(algorithm, replications=80, draws=99, steps=600):
    """Ranks of the true beta among draws of q, for as many data sets of fifty, fitted side by side."""

    def posterior(key, data):
        k_init, k_steps, k_draws = jax.random.split(key, 3)
        state = algorithm.init(k_init, data)
        keys = jax.random.split(k_steps, steps)
        state, _ = jax.lax.scan(lambda state, key: (algorithm.step(key, state, data)[0], None), state, keys)
        return algorithm.sample(k_draws, state, draws)

    runs = replicate(KEY, FLAT, posterior, replications, size=50, vectorize=True)
    return ranks(jax.random.key(1), runs.truth, runs.draws)


@pytest.mark.parametrize(("loss", "calibrated"), [("log", True), ("hinge", False)])
def test_calibration_of_a_method(loss, calibrated):
    found = ranks_of(build(loss=loss))
    p_value, inside = rank_test(found, 99).p_value[0], coverage(found, 99, [0.9])
    shortfall = (inside.level[0] - inside.share[0, 0]) / inside.standard_error[0]
    if calibrated:
        assert p_value > 1e-3 and shortfall < 3.5
    else:
        assert p_value < 1e-3 and shortfall > 3.5


# Torn pairs: the model's x beside the z of another datum. Then q(z | x, beta) becomes the prior of z.


def torn(noise, beta, covariate):
    _, x = GAUSSIAN.model.generate(noise[:2], beta, covariate)
    other, _ = GAUSSIAN.model.generate(noise[2:], beta, covariate)
    return other, x


TORN = HierarchicalImplicitModel(GAUSSIAN.prior, generate=torn, noise_shape=(4,))


@pytest.fixture(scope="module")
def pairs():
    """For real and for torn pairs: the mean of q(beta), fresh x of the model there, and z of q at these x."""
    _, x = GAUSSIAN.model.simulate_batch(jax.random.key(2), jnp.full(200, 0.5))
    found = {}
    for name, model in {"real": GAUSSIAN.model, "torn": TORN}.items():
        algorithm = build(model, 1_500, 256, local=ImplicitConditional(noise_size=1, hidden=(16,)))
        run = fit(KEY, algorithm, Data(x), 1_500, progress=False)
        beta = algorithm.moments(run.state)[0, 0]
        _, fresh = GAUSSIAN.model.simulate_batch(jax.random.key(3), jnp.full(1_000, beta))
        q = algorithm.sample_local(jax.random.key(4), run.state, beta, Data(fresh))
        found[name] = beta, np.asarray(fresh), np.asarray(q)
    return found


def test_torn_pairs_forget_the_datum_and_spare_the_global(pairs):
    exact_slope = GAUSSIAN.local_scale**2 / (GAUSSIAN.local_scale**2 + GAUSSIAN.noise_scale**2)
    slopes = {name: np.polyfit(x, q, 1)[0] for name, (_, x, q) in pairs.items()}
    assert abs(slopes["real"] - exact_slope) < 0.1 and abs(slopes["torn"]) < 0.1
    assert abs(pairs["torn"][2].std() - GAUSSIAN.local_scale) < 0.1  # the width of the prior
    _, x = GAUSSIAN.model.simulate_batch(jax.random.key(2), jnp.full(200, 0.5))
    exact = GAUSSIAN.posterior(x)
    assert abs(pairs["torn"][0] - exact.mean) < 2 * exact.scale  # a test of beta alone would pass


def test_two_sample_test_of_pairs_sees_it(pairs):
    for name, (beta, x, q) in pairs.items():
        z, other = GAUSSIAN.model.simulate_batch(jax.random.key(5), jnp.full(1_000, beta))
        result = c2st(KEY, jnp.stack([other, z], 1), jnp.stack([x, q], 1))
        apart = (result.accuracy - 0.5) / result.standard_error
        assert apart > 8 if name == "torn" else apart < 4


# One whole data set as a single datum, and the paper's reference: the classifier learns it by heart.


def test_one_atom_saturates_and_factors_do_not():
    vectors = HierarchicalImplicitModel(
        GAUSSIAN.prior, generate=lambda noise, beta, covariate: (None, beta + noise), noise_shape=(50,)
    )
    _, x = FLAT.simulate_batch(jax.random.key(6), jnp.full(50, 0.7))
    one = fit(KEY, build(vectors, **ALGORITHM_1), Data(x[None]), 600, progress=False)
    many = fit(KEY, build(), Data(x), 600, progress=False)
    assert one.outcome is Outcome.SATURATED and many.outcome is Outcome.AT_REST


# Covariates that the features leave out: shuffling them must change the sum of r, and here it cannot.


@pytest.mark.parametrize("shown", [True, False])
def test_shuffled_covariates_are_noticed_if_r_sees_them(shown):
    regression = LinearRegression(size=2)

    def features(x, z, beta, covariate, center):
        residual = x - regression.mean(covariate, beta)
        return jnp.append(beta, jnp.stack([x, residual]) if shown else x)

    covariate = jax.random.normal(jax.random.key(8), (100, 2))
    beta = jnp.broadcast_to(jnp.array([1.2, -1.2]), (100, 2))
    data = Data(regression.model.simulate_batch(jax.random.key(9), beta, covariate)[1], covariate)
    algorithm = lfvi(
        regression.model,
        MeanFieldNormal(),
        ratio_network(features, (16,)),
        ratio_optimizer=cosine_adam(1e-2, 300),
        posterior_optimizer=cosine_adam(3e-2, 300),
        ratio_batch=128,
    )
    state = fit(KEY, algorithm, data, 300, progress=False).state
    shuffled = Data(data.x, jax.random.permutation(KEY, covariate))
    before, after = (sum_log_ratio(KEY, algorithm, state, beta[:1], d)[0] for d in (data, shuffled))
    assert after < before - 20 if shown else after == before


# Two roads to one posterior.


def test_abc_with_a_sufficient_summary_agrees_with_lfvi():
    _, x = FLAT.simulate_batch(jax.random.key(7), jnp.full(20, -0.4))
    algorithm = build()
    state = fit(KEY, algorithm, Data(x), 600, progress=False).state
    near = rejection(
        KEY,
        FLAT,
        Data(x),
        summary=lambda data: data.x.mean(),
        simulations=100_000,
        tolerance=0.02,
        progress=False,
    )
    (mean, sd), error = algorithm.moments(state)[:, 0], near.beta.std() / near.ess**0.5
    assert abs(mean - near.beta.mean()) < 4 * error + 0.2 * sd
    assert abs(sd / near.beta.std() - 1) < 0.1 + 3 / (2 * near.ess) ** 0.5
