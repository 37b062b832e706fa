"""The verdict on what a width and a bias do not show: a wrong r, wrong locals, too few draws."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from toys import FLAT, GAUSSIAN, known_ratio

from himlib import (
    Data,
    FullRankNormal,
    HierarchicalImplicitModel,
    ImplicitConditional,
    MeanFieldNormal,
    Network,
    Outcome,
    Result,
    cosine_adam,
    fit,
    fit_seeds,
    lfvi,
    ratio_network,
    verdict,
)
from himlib.random import normal

KEY = jax.random.key(60)
MANY = Data(normal(jax.random.key(61), (2000,)))
OPTIMIZERS = {"ratio_optimizer": optax.sgd(0.1), "posterior_optimizer": optax.sgd(0.1)}


def findings(found):
    return [finding.partition(":")[0] for finding in found.findings]


def judge(r, data=MANY, draws=10_000, **options):
    """The verdict on the exact posterior, and an r that is given."""
    algorithm = lfvi(FLAT, MeanFieldNormal(), known_ratio(r), **OPTIMIZERS, **options)
    exact = GAUSSIAN.posterior(data.x)
    beta = {"location": exact.mean[None], "log_scale": jnp.log(exact.scale)[None]}
    state = algorithm.init(KEY, data)._replace(posterior={"beta": beta})
    return verdict(KEY, FLAT, algorithm, Result(state, None, Outcome.AT_REST), data, draws)


def exact_r(x, z, beta, covariate):
    return GAUSSIAN.predictive(beta).log_prob(x)


@pytest.mark.parametrize(
    ("factor", "names"),
    [(0.5, ["NARROW", "INCONSISTENT"]), (1.0, []), (2.0, ["UNDERTRAINED", "WIDE", "INCONSISTENT"])],
)
def test_information_ratio_of_a_multiple_of_r(factor, names):
    """The slopes of c r have c squared times the information of those of r, and its curvature c times."""
    found = judge(lambda *row: factor * exact_r(*row), data=Data(MANY.x[:50]))
    assert found.information_ratio == pytest.approx((50 * factor**2 + 1) / (50 * factor + 1), rel=0.06)
    assert found.width == pytest.approx(((50 * factor + 1) / 51) ** 0.5, rel=0.03)
    assert findings(found) == names


def normal_of_two(sum_alone, family, posterior):
    """The verdict on a given q of two globals by an exact r; x is their sum, or each of them, plus noise."""

    def center(beta):
        return beta.sum() if sum_alone else beta

    shape = () if sum_alone else (2,)
    model = HierarchicalImplicitModel(
        dist.Normal(jnp.zeros(2), 1.0).to_event(1),
        generate=lambda noise, beta, covariate: (None, center(beta) + noise),
        noise_shape=shape,
    )

    def apply(params, x, z, beta, covariate, middle):
        return -0.5 * jnp.sum((x - center(beta)) ** 2) + params @ beta

    network = Network(lambda key, *batch: jnp.zeros(2), apply)
    algorithm = lfvi(model, family, network, **OPTIMIZERS)
    data = Data(normal(KEY, (50, *shape)))
    precision = np.eye(2) + 50 * (np.ones((2, 2)) if sum_alone else np.eye(2))
    total = np.broadcast_to(np.asarray(data.x).sum(0), (2,))
    state = algorithm.init(KEY, data)._replace(
        posterior={"beta": posterior(jnp.array(np.linalg.solve(precision, total)), jnp.array(precision))}
    )
    return verdict(KEY, model, algorithm, Result(state, None, Outcome.AT_REST), data)


def independent(mean, precision):
    return {"location": mean, "log_scale": -0.5 * jnp.log(jnp.diag(precision))}


def together(mean, precision):
    tril = jnp.linalg.cholesky(jnp.linalg.inv(precision))
    return {"location": mean, "tril": jnp.tril(tril, -1) + jnp.diag(jnp.log(jnp.diag(tril)))}


def test_says_where_a_q_of_independent_coordinates_is_too_narrow():
    found = normal_of_two(True, MeanFieldNormal(), independent)
    assert found.marginal_width == pytest.approx((101 / 51**2) ** 0.5, rel=0.1)
    assert findings(found) == ["CORRELATED"] and "0.2 times as wide" in found.findings[0]
    assert found.width == pytest.approx(1.0, abs=0.05)
    for sum_alone, family, posterior in (
        (True, FullRankNormal(), together),
        (False, MeanFieldNormal(), independent),
    ):
        found = normal_of_two(sum_alone, family, posterior)
        assert findings(found) == [] and found.marginal_width == pytest.approx(1.0, rel=0.1)


def noisy(x, z, beta, covariate):
    """An r whose slope has mean zero at the model's draws, and a spread that antithetic noise leaves."""
    return exact_r(x, z, beta, covariate) + beta * ((x - beta) ** 2 - 1)


def test_says_when_it_cannot_see_a_bias():
    found = judge(noisy, draws=2_000)
    assert 4 * found.shift_error[0] > 1 and "UNSURE" in findings(found)
    assert "UNSURE" not in findings(judge(exact_r, draws=2_000))  # antithetic draws cancel all noise


def test_a_bias_that_centering_leaves_is_not_to_be_centered():
    def tilted(x, z, beta, covariate):
        return exact_r(x, z, beta, covariate) + 100.0 * beta

    found = judge(tilted, center_score=True).findings
    (text,) = [text for text in found if text.startswith("BIASED")]
    assert "Train r for longer" in text and "enter the score" not in text


def test_a_bias_that_centering_takes_away_is_none():
    def tilted(x, z, beta, covariate):
        return exact_r(x, z, beta, covariate) + 0.1 * beta

    data = Data(MANY.x[:50])
    (text,) = judge(tilted, data=data).findings
    assert text.startswith("BIASED") and "Center the score, train r for longer" in text
    assert findings(judge(tilted, data=data, center_score=True)) == []
    assert findings(judge(noisy, draws=2_000, center_score=True)) == ["UNDERTRAINED", "INCONSISTENT"]


class Known:
    """q(z | x, beta): the exact conditional, stretched and moved, in each of two dimensions or in both."""

    right = {"stretch": jnp.float32(1), "move": jnp.float32(0), "turn": jnp.float32(0)}  # noqa: RUF012

    def init(self, key, z, x, beta, covariate):
        return self.right

    def sample(self, params, key, x, beta, covariate):
        noise = normal(key, x.shape)
        turned = params["turn"] * noise[..., :1] + (1 - params["turn"] ** 2) ** 0.5 * noise[..., 1:]
        noise = jnp.concatenate([noise[..., :1], turned], -1)
        mean = (x + beta[..., None]) / 2
        return mean + (params["move"] + params["stretch"] * noise) * 0.5**0.5


@cache
def in_two_dimensions():
    """A model of locals in the plane, and a state in which q(beta) and q(z | x, beta) are exact."""

    def generate(noise, beta, covariate):
        z = beta + noise[0]
        return z, z + noise[1]

    model = HierarchicalImplicitModel(dist.Normal(0.0, 1.0), generate=generate, noise_shape=(2, 2))
    algorithm = lfvi(
        model, MeanFieldNormal(), known_ratio(lambda x, z, b, c: -((x - b) ** 2).sum() / 4),
        local=Known(), **OPTIMIZERS,
    )  # fmt: skip
    data = Data(normal(jax.random.key(62), (30, 2)))
    state = algorithm.init(KEY, data)
    exact = {"location": jnp.mean(data.x)[None], "log_scale": -jnp.log(jnp.array([31.0])) / 2}
    state = state._replace(posterior={"beta": exact, "z": Known.right})
    return model, algorithm, state, data


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({}, False),
        ({"stretch": 0.6}, True),
        ({"stretch": 1.6}, True),
        ({"move": 0.6}, True),
        ({"turn": 0.9}, True),  # each coordinate is right, and their correlation is not
        ({"stretch": jnp.nan}, True),
    ],
)
def test_locals_are_ranked(change, seen):
    model, algorithm, state, data = in_two_dimensions()
    params = Known.right | {name: jnp.float32(value) for name, value in change.items()}
    state = state._replace(posterior={**state.posterior, "z": params})
    found = verdict(KEY, model, algorithm, Result(state, None, Outcome.AT_REST), data)
    assert ("LOCALS" in findings(found)) == seen
    assert (found.local_p_value < 1e-3) == seen


def test_p_value_of_locals_is_that_of_three_tests():
    """Three times the smallest of three, at most one: for an exact q its mean is 0.6, and a third are one."""
    model, algorithm, state, data = in_two_dimensions()
    result = Result(state, None, Outcome.AT_REST)
    judged = [verdict(key, model, algorithm, result, data) for key in jax.random.split(KEY, 20)]
    found = np.array([each.local_p_value for each in judged])
    assert 0.4 < found.mean() < 0.8 and found.min() > 1e-3
    assert found.max() == 1  # the smallest of three p-values alone would never be


def test_without_locals_there_is_nothing_to_rank():
    assert np.isnan(judge(exact_r).local_p_value)


TURN = jnp.array([[1.0, 0.5], [-0.5, 1.0], [0.3, 2.0]])  # from z to the mean of x
NOISE, SPREAD = jnp.array([0.5, 1.0, 2.0]), jnp.array([2.0, 0.5])  # sds of x given z, and of z given beta


def plane(noise, beta, covariate):
    z = beta + SPREAD * noise[:2]
    return z, TURN @ z + NOISE * noise[2:]


@pytest.mark.parametrize(("ratio_steps", "rate", "found"), [(10, 1e-3, False), (1, 1e-2, True)])
def test_locals_in_the_plane(ratio_steps, rate, found):
    """Where r cannot follow z, q(z | x, beta) collapses, and the verdict says so; q(beta) may be right."""
    model = HierarchicalImplicitModel(
        dist.Normal(jnp.zeros(2), 3.0).to_event(1), generate=plane, noise_shape=(5,)
    )
    algorithm = lfvi(
        model,
        MeanFieldNormal(),
        ratio_network(hidden=(32, 32)),
        local=ImplicitConditional(shape=(2,), noise_size=3),
        ratio_optimizer=cosine_adam(2e-2, 2000 * ratio_steps),
        posterior_optimizer={"beta": cosine_adam(2e-2, 2000), "z": cosine_adam(rate, 2000)},
        ratio_batch=512,
        ratio_steps=ratio_steps,
        proposal="posterior",
        width=4.0,
    )
    beta = jnp.array([1.0, -1.0])
    _, x = model.simulate_batch(KEY, jnp.tile(beta, (40, 1)))
    result = fit(KEY, algorithm, Data(x), 2000, progress=False)
    judged = verdict(KEY, model, algorithm, result, Data(x))
    assert ("LOCALS" in findings(judged)) == found

    precision = jnp.diag(SPREAD**-2) + (TURN.T / NOISE**2) @ TURN
    mean = jnp.linalg.solve(precision, (beta / SPREAD**2 + (x / NOISE**2) @ TURN).T).T
    z = algorithm.sample_local(KEY, result.state, beta, Data(jnp.repeat(x, 500, 0))).reshape(40, 500, 2)
    standard = (z - mean[:, None]) @ jnp.linalg.cholesky(precision)  # a standard normal, if q is right
    within_datum = standard - standard.mean(1, keepdims=True)
    narrowest = jnp.linalg.eigvalsh(jnp.cov(within_datum.reshape(-1, 2).T))[0] ** 0.5
    assert (narrowest < 0.7) == found, narrowest
    assert found or jnp.mean(standard**2) < 1.4


def fitted():
    return lfvi(
        FLAT, MeanFieldNormal(), ratio_network(hidden=(8,)),
        ratio_optimizer=cosine_adam(1e-2, 300), posterior_optimizer=cosine_adam(2e-2, 300),
    )  # fmt: skip


def test_several_seeds_get_a_verdict_each():
    algorithm, data = fitted(), Data(MANY.x[:20])
    together = fit_seeds(jax.random.split(KEY, 2), algorithm, data, 300, progress=False)
    found = verdict(KEY, FLAT, algorithm, together, data)
    assert len(found) == 2 and found[0].width != found[1].width
    for i, one in enumerate(found):
        state = jax.tree.map(lambda leaf, i=i: leaf[i], together.state)
        alone = verdict(KEY, FLAT, algorithm, Result(state, None, together.outcome[i]), data)
        assert alone.width == pytest.approx(one.width, rel=1e-4) and findings(alone) == findings(one)


def test_an_algorithm_without_pairs_has_no_second_classifier():
    algorithm, data = fitted()._replace(contrast=None), Data(MANY.x[:20])
    result = fit(KEY, algorithm, data, 20, progress=False)
    found = verdict(KEY, FLAT, algorithm, result, data)
    assert np.isnan([found.unlearned, found.unlearned_error, found.squeezed]).all()


def test_data_in_a_corner_of_their_units_are_the_likely_cause_of_what_is_found():
    """Beside a few huge simulated x the data differ by next to nothing in r's units."""
    scales = HierarchicalImplicitModel(
        dist.Normal(0.0, 3.0), generate=lambda noise, beta, c: (None, jnp.exp(3 * beta + noise)),
        noise_shape=(),
    )  # fmt: skip
    algorithm = lfvi(
        scales, MeanFieldNormal(), ratio_network(hidden=(8,)),
        ratio_optimizer=cosine_adam(1e-2, 300), posterior_optimizer=cosine_adam(2e-2, 300),
    )  # fmt: skip
    data = Data(1e-3 * jnp.exp(MANY.x[:20]))
    result = fit(KEY, algorithm, data, 300, progress=False)
    found = verdict(KEY, scales, algorithm, result, data)
    assert findings(found)[0] == "SQUEEZED" and len(found.findings) > 1
