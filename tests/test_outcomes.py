"""What fit says of a run: outcomes read off histories, and q(beta) that waits for r."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from toys import FLAT, GAUSSIAN, X, known_ratio

from himlib import (
    ALGORITHM_1,
    Data,
    ImplicitConditional,
    Info,
    MeanFieldNormal,
    Outcome,
    cosine_adam,
    fit,
    fit_seeds,
    lfvi,
    ratio_network,
    training,
)
from himlib.models import Frame

KEY = jax.random.key(70)
STEPS, CHUNK = 100, 10
PRIOR = Frame(np.zeros(2), np.ones(2))


def judged(accuracy=0.6, sd=0.3, mean=0.0, center=0.0, width=1.0, rounds=1, path=None, noise=0.01):
    """The outcome of a history with this accuracy, and this q and proposal at each look of the last round."""
    size = STEPS * rounds
    scatter = noise * np.random.default_rng(0).normal(size=size)
    history = Info(*(np.full(size, value, np.float64) for value in (0, 0, accuracy, 0, 0, sd)))
    history = history._replace(accuracy=history.accuracy + scatter)
    means = np.full(10, mean) if path is None else np.asarray(path)
    last = [np.array([[m, m], [sd, sd], [center, center], [width, width]]) for m in means]
    first = [np.array([[0.0, 0.0], [sd, sd], [0.0, 0.0], [1.0, 1.0]])] * (10 * (rounds - 1))
    return training._judge(history, first + last, PRIOR, STEPS, CHUNK)


@pytest.mark.parametrize(
    ("outcome", "changes"),
    [
        (Outcome.AT_REST, {}),
        (Outcome.BLIND, {"accuracy": 0.5, "sd": 1.0}),
        (Outcome.BLIND, {"accuracy": 0.5, "sd": 0.9}),
        (Outcome.AT_REST, {"accuracy": 0.5, "sd": 0.3}),  # many data, each of which says little
        (Outcome.AT_REST, {"accuracy": 0.53, "sd": 1.0}),  # r knows something; the data may say nothing
        (Outcome.AT_REST, {"accuracy": 0.5, "sd": 0.0}),  # a point
        (Outcome.OUTSIDE, {"mean": 3.1}),
        (Outcome.AT_REST, {"mean": 2.9}),
        (Outcome.AT_REST, {"mean": 30.0, "center": 28.0}),
        (Outcome.OUTSIDE, {"mean": 1.0, "width": 0.3, "rounds": 2}),
        (Outcome.DRIFTING, {"path": np.linspace(0, 2, 10)}),
        (Outcome.AT_REST, {"path": [*np.linspace(0, 2, 8), 2, 2]}),
        (Outcome.COLLAPSED, {"sd": 1e-6}),
    ],
)  # fmt: skip
def test_judged(outcome, changes):
    assert judged(**changes) is outcome


def test_a_proposal_that_was_left_is_seen_one_round_later():
    """The next round is centered where q was: it may have been sent there by an r never trained there."""
    looks = [np.array([[m] * 2, [0.3] * 2, [0.0] * 2, [1.0] * 2]) for m in np.linspace(0, 5, 10)]
    looks += [np.array([[5.0] * 2, [0.3] * 2, [5.0] * 2, [0.9] * 2])] * 10
    history = Info(*(np.full(2 * STEPS, value) for value in (0, 0, 0.6, 0, 0, 0.3)))
    assert training._judge(history, looks, PRIOR, STEPS, CHUNK) is Outcome.OUTSIDE
    longer = Info(*(np.full(3 * STEPS, value) for value in (0, 0, 0.6, 0, 0, 0.3)))
    assert training._judge(longer, looks + looks[-10:], PRIOR, STEPS, CHUNK) is Outcome.AT_REST


def algorithm(**options):
    options = {
        "ratio_optimizer": cosine_adam(1e-2, 40),
        "posterior_optimizer": cosine_adam(3e-2, 40),
        **options,
    }
    model, local = (GAUSSIAN.model, options.pop("local", None)) if "local" in options else (FLAT, None)
    return lfvi(
        model, MeanFieldNormal(), ratio_network(hidden=(4,)), local=local, ratio_batch=64, **options
    )  # fmt: skip


def path(built, wait):
    """Mean and sd of q after each step."""
    moments = []
    data = Data(jnp.asarray(X))
    state = training._hold(built.init(KEY, data), wait * 40)
    for step in range(40):
        state, _ = jax.jit(built.step)(jax.random.fold_in(KEY, step), state, data)
        moments.append(built.moments(state))
    return np.array(moments)[:, :, 0], state


@pytest.mark.usefixtures("quick_compilation")
class TestWaiting:
    def test_q_waits_and_then_sets_off(self):
        """With signs of gradients for updates, the length of each step is what the pace makes of the rate."""
        signs = optax.stateless(lambda updates, _: jax.tree.map(jnp.sign, updates))
        moments, state = path(algorithm(posterior_optimizer=optax.chain(signs, optax.scale(-1e-2))), wait=0.2)
        moved = np.abs(np.diff(moments[:, 0]))
        assert moved[:8].max() == 0
        np.testing.assert_allclose(moved[8:15], 1e-2 * (np.arange(1, 8) / 8) ** 2, rtol=1e-3)
        np.testing.assert_allclose(moved[15:], 1e-2, rtol=1e-3)
        assert list(state.wait) == [0, 8] and state.step == 40

    def test_the_weight_of_the_data_grows_meanwhile(self):
        """At the prior the rest of the objective has no slope: that of q is the data's, times its weight."""
        slope = []
        for left in (16, 4, 0):
            built = algorithm(posterior_optimizer=optax.sgd(1.0), posterior_samples=2)
            state = built.init(KEY, Data(jnp.asarray(X)))._replace(wait=jnp.array([left, 8]))
            state = state._replace(ratio=jax.tree.map(lambda leaf: leaf + 0.1, state.ratio))
            _, info = jax.jit(built.step)(KEY, state, Data(jnp.asarray(X)))
            slope.append(float(info.posterior_gradient))
        assert slope[0] == 0 and slope[1] == pytest.approx(slope[2] / 4, rel=1e-3)

    def test_locals_and_r_do_not_wait(self):
        built, data = algorithm(local=ImplicitConditional(hidden=(4,))), Data(jnp.asarray(X))
        state = training._hold(built.init(KEY, data), 10)
        after, _ = jax.jit(built.step)(KEY, state, data)
        for part, moved in {"beta": False, "z": True}.items():
            same = jax.tree.map(jnp.array_equal, state.posterior[part], after.posterior[part])
            assert all(jax.tree.leaves(same)) is not moved
        assert not all(jax.tree.leaves(jax.tree.map(jnp.array_equal, state.ratio, after.ratio)))

    def test_fit_and_fit_seeds_wait_for_a_fifth_of_each_round(self):
        data, built = Data(jnp.asarray(X)), algorithm()
        spread = fit(KEY, built, data, 40, rounds=2, progress=False).history.spread
        for start in (0, 40):
            assert np.ptp(spread[start : start + 9]) == 0 and np.ptp(spread[start + 8 : start + 12]) > 0
        seeds = fit_seeds(jax.random.split(KEY, 2), built, data, 40, progress=False).history.spread
        assert np.ptp(seeds[:, :9]) == 0 and (np.ptp(seeds[:, 8:12], 1) > 0).all()
        at_once = fit(KEY, built, data, 40, wait=0.0, progress=False)
        assert np.ptp(at_once.history.spread[:3]) > 0

    def test_an_atom_saturates_r(self):
        """One datum of twenty numbers against the simulator: r knows each sample's class, and q nothing."""
        model = FLAT.__class__(
            FLAT.prior, generate=lambda noise, beta, c: (None, beta + noise), noise_shape=(20,)
        )
        built = lfvi(
            model, MeanFieldNormal(), ratio_network(hidden=(8,), quadratic=False), ratio_batch=64,
            ratio_optimizer=optax.adam(3e-2), posterior_optimizer=optax.adam(1e-2), **ALGORITHM_1,
        )  # fmt: skip
        run = fit(KEY, built, Data(jax.random.normal(KEY, (1, 20))), 400, progress=False)
        assert run.outcome is Outcome.SATURATED

    @pytest.mark.parametrize("wait", [-0.1, 0.5, 1])
    def test_wrong_share(self, wait):
        with pytest.raises(ValueError, match="wait: expected a share of the steps in"):
            fit(KEY, algorithm(), Data(jnp.asarray(X)), 40, wait=wait, progress=False)

    def test_rounds_leave_the_states_that_they_ended_in(self):
        run = fit(KEY, algorithm(), Data(jnp.asarray(X)), 40, rounds=3, progress=False)
        assert [int(state.step) for state in run.earlier] == [40, 80]


@pytest.mark.parametrize("factor", [0.25, 0.5, 2.0])
@pytest.mark.parametrize("size", [5, 20])
def test_centering_keeps_the_weight_of_the_prior(factor, size):
    """A flat r is weighed against the prior as log p is; uncentered, it pulls less, or more."""
    x = 1.5 + jax.random.normal(jax.random.key(3), (size,))
    exact, error = GAUSSIAN.posterior(x), {}
    for centered in (True, False):
        built = lfvi(
            FLAT,
            MeanFieldNormal(),
            known_ratio(lambda x, z, beta, c: factor * GAUSSIAN.predictive(beta).log_prob(x)),
            ratio_optimizer=optax.sgd(0.0),
            posterior_optimizer=cosine_adam(3e-2, 1200),
            center_score=centered,
            ratio_batch=64,
        )
        mean, sd = built.moments(fit(KEY, built, Data(x), 1200, progress=False).state)[:, 0]
        error[centered] = abs(mean - exact.mean) / exact.scale, abs(jnp.log(sd / exact.scale))
    assert max(error[True]) < 0.1 and error[True][0] < 0.05
    assert error[False][1] > 0.25


def test_a_model_in_small_units_ends_as_in_large_ones():
    runs = []
    for unit in (1.0, 2.0**-60, 2.0**60):
        model = FLAT.__class__(
            dist.Normal(0.0, unit), generate=lambda e, beta, c, u=unit: (None, beta + u * e), noise_shape=()
        )
        built = lfvi(
            model, MeanFieldNormal(), ratio_network(hidden=(4,)), ratio_batch=64, center_score=True,
            ratio_optimizer=cosine_adam(1e-2, 60), posterior_optimizer=cosine_adam(3e-2, 60),
        )  # fmt: skip
        run = fit(KEY, built, Data(jnp.asarray(X) * unit), 60, rounds=2, progress=False)
        runs.append(np.asarray(built.moments(run.state), np.float64) / unit)
    np.testing.assert_allclose(runs[1], runs[0], rtol=1e-3)
    np.testing.assert_allclose(runs[2], runs[0], rtol=1e-3)
