"""Every loss that tells the log ratio gives LFVI the same posterior; one that tells its sign does not."""

import jax
import pytest
from toys import FLAT, GAUSSIAN

from himlib import Data, MeanFieldNormal, Outcome, cosine_adam, fit, lfvi, ratio_network


def scores(loss):
    """Errors of the mean in exact sds and ratios of sds, on three data sets of twenty."""
    algorithm = lfvi(
        FLAT,
        MeanFieldNormal(),
        ratio_network(hidden=(16,)),
        loss=loss,
        ratio_optimizer=cosine_adam(1e-2, 4_000),
        posterior_optimizer=cosine_adam(3e-2, 800),
        proposal="posterior",
        width=4.0,
        ratio_steps=5,
        ratio_batch=128,
    )
    for seed in range(3):
        x = 1.0 + jax.random.normal(jax.random.key(seed), (20,))
        run, exact = fit(jax.random.key(seed), algorithm, Data(x), 800, progress=False), GAUSSIAN.posterior(x)
        assert run.outcome is Outcome.AT_REST
        mean, sd = algorithm.moments(run.state)[:, 0]
        yield float((mean - exact.mean) / exact.scale), float(sd / exact.scale)


@pytest.mark.parametrize("loss", ["exponential", "kl", "donsker_varadhan"])
def test_losses_that_tell_the_log_ratio(loss):
    for error, ratio in scores(loss):
        assert abs(error) < 0.3 and 0.9 < ratio < 1.1


def test_the_hinge_loss_is_too_sure():
    assert all(ratio < 0.8 for _, ratio in scores("hinge"))
