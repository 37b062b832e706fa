"""The stored results of chapter 9: inference for the jump process, and whether it is calibrated.

python book/full/09_lotka_volterra.py

Goes on from what ``himlib/book/results/09_lotka_volterra.json`` holds; delete it to begin anew. A quarter of
an hour on one core that has nothing else to do; about 1 GB of memory.
"""

import os
import time
from functools import partial
from pathlib import Path

# Small arrays: one thread is quicker.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from store import begun, store

from himlib import Data, FullRankNormal, HierarchicalImplicitModel, cosine_adam, fit, lfvi, ratio_network
from himlib.abc import rejection
from himlib.diagnostics import ranks, region_ranks
from himlib.random import normal
from himlib.simulators.jump_process import (
    OBSERVED_STATISTICS,
    PILOT_MEANS,
    PILOT_SDS,
    UNIFORM_PRIOR,
    JumpProcess,
    summary_statistics,
)
from himlib.simulators.lotka_volterra import INITIAL, TRUE_BETA, LotkaVolterra, transitions

NAME = Path(__file__).stem
SEED = 1  # settings were chosen on others
DATA_SETS, DRAWS, TABLE, NEAREST, PLAGUE = 100, 999, 100_000, 199, 2000

start = jnp.array(INITIAL)
prior = dist.Normal(np.float32(TRUE_BETA), np.full(4, 0.3, np.float32)).to_event(1)
process = JumpProcess(prior=prior)


# Markov transitions: what the chapter's section spells out.
mean_field = LotkaVolterra(inner_steps=4)


def features(x, z, beta, covariate, center):
    rates, after = jnp.exp(beta), mean_field.mean(covariate, beta)
    events = 0.0
    for prey, predators in (covariate, after):
        pairs = prey * predators
        events += process.interval / 2 * jnp.stack(
            [rates[0] * prey + rates[1] * pairs, rates[2] * predators + rates[3] * pairs]
        )  # fmt: skip
    residual = (x - after) / jnp.sqrt(events + 1)
    states = jnp.log(jnp.concatenate([covariate, x]) + 1)
    return jnp.concatenate([10 * jnp.arcsinh(residual / 10), jnp.log(events + 1), states])


def jitter(key, covariate):
    noise = normal(key, (2, 2))
    return jnp.round(jnp.abs(covariate * (1 + 0.1 * noise[0]) + noise[1]))


steps, rounds = 500, 2
# One interval may hold more events than a series is allowed: thousands of prey, and rates far from the truth.
transition = JumpProcess(prior=prior, max_events=1_000_000)
by_transitions = lfvi(
    transition.model,
    FullRankNormal(),
    ratio_network(features, (32, 32), baseline=True),
    ratio_optimizer=cosine_adam(3e-3, steps),
    posterior_optimizer=cosine_adam(2e-2, steps),
    ratio_batch=512,
    posterior_samples=4,
    center_score=True,
    jitter=jitter,
)


def nine(series):
    """The statistics of Papamakarios and Murray, in the units of their pilot run."""
    states = jnp.concatenate([start[None], series])
    return (summary_statistics(states) - jnp.array(PILOT_MEANS)) / jnp.array(PILOT_SDS)


def series_model(prior, summarize):
    """A whole series as one datum, of which only a summary is seen."""

    def simulate(key, beta, covariate):
        return None, summarize(process.simulate_series(key, beta, start, 150))

    return HierarchicalImplicitModel(prior, simulate=simulate)


def rounded(values, digits=4):
    return np.round(np.asarray(values, np.float64), digits).tolist()


def observation_by_abc():
    observed = (jnp.array(OBSERVED_STATISTICS) - jnp.array(PILOT_MEANS)) / jnp.array(PILOT_SDS)
    result = rejection(
        jax.random.key(SEED),
        series_model(UNIFORM_PRIOR, nine),
        Data(observed[None]),
        summary=lambda data: data.x[0],
        simulations=TABLE,
        tolerance=1.0,
        progress=False,
    )
    return {
        "tolerance": result.tolerance,
        "simulations": result.simulations,
        "accepted": len(result.beta),
        "capped": result.not_finite,
        "mean": rounded(result.beta.mean(0)),
        "sd": rounded(result.beta.std(0)),
        "quantiles": rounded(np.quantile(result.beta, (0.025, 0.5, 0.975), axis=0)),
    }


def observation_by_lfvi(seed, loss="log"):
    """A whole series as the datum, seen through its statistics; rounds propose from q itself, to close in."""

    def summarize(series):
        states = jnp.concatenate([start[None], series])
        return jnp.nan_to_num(summary_statistics(states))  # given up: all zero, far from anything observed

    def features(x, z, beta, covariate, center):
        return jnp.concatenate([jnp.log(x[:2] + 1), x[2:4], jnp.arctanh(0.999 * x[4:]), beta])

    steps, rounds, batch = 200, 4, 256
    algorithm = lfvi(
        series_model(JumpProcess().prior, summarize),
        FullRankNormal(),
        ratio_network(features, (32, 32)),
        ratio_optimizer=cosine_adam(5e-3, steps),
        posterior_optimizer=cosine_adam(2e-2, steps),
        ratio_batch=batch,
        width=1.0,
        loss=loss,
    )
    data = Data(jnp.array(OBSERVED_STATISTICS)[None])
    run = fit(jax.random.key(seed), algorithm, data, steps, rounds=rounds, progress=False)
    beta = np.asarray(algorithm.sample(jax.random.key(seed), run.state, 10_000))
    return {
        "seed": seed,
        "outcome": run.outcome.name,
        "simulations": rounds * steps * batch,
        "mean": rounded(beta.mean(0)),
        "sd": rounded(beta.std(0)),
        "quantiles": rounded(np.quantile(beta, (0.025, 0.5, 0.975), axis=0)),
    }


def data_sets():
    """Truths from the prior and a series at each, without those that were given up, and without plagues.

    Leaving out is fair as long as the series alone says which: it changes no posterior of the others. With
    2,000 prey, an interval holds ten thousand events, should a predator be left.
    """
    k_beta, k_series = jax.random.split(jax.random.key(SEED))
    beta = prior.sample(k_beta, (2 * DATA_SETS,))
    series = process.simulate_series(k_series, beta, start, 150, size=2 * DATA_SETS)
    kept = np.flatnonzero((series < PLAGUE).all((1, 2)))[:DATA_SETS]  # false also of NaN
    return beta[kept], series[kept]


def calibration_of_lfvi(index, beta, series):
    covariate, x = transitions(series, INITIAL)
    key = jax.random.fold_in(jax.random.key(SEED), index)
    run = fit(key, by_transitions, Data(x, covariate), steps, rounds=rounds, progress=False)
    draws = np.asarray(by_transitions.sample(key, run.state, DRAWS))[None]
    return {
        "outcome": run.outcome.name,
        "records_with_both": int((series > 0).all(-1).sum()),
        "error": rounded((draws[0].mean(0) - beta) / draws[0].std(0), 3),
        "sd": rounded(draws[0].std(0)),
        "ranks": ranks(key, beta[None], draws)[0].tolist(),
        "region_rank": int(region_ranks(key, beta[None], draws)[0, 0]),
    }


def calibration_of_abc(betas, series):
    """One table of simulations for all data sets: its nearest rows are draws of each posterior."""
    key = jax.random.fold_in(jax.random.key(SEED), 1_000_000)
    summarize, rows, parts = jax.jit(jax.vmap(nine)), 10_000, []
    for chunk in range(TABLE // rows):
        k_beta, k_series = jax.random.split(jax.random.fold_in(key, chunk))
        beta = prior.sample(k_beta, (rows,))
        simulated = process.simulate_series(k_series, beta, start, 150, size=rows)
        parts.append((np.asarray(beta), np.asarray(summarize(simulated))))
    beta, statistics = (np.concatenate(part) for part in zip(*parts, strict=True))
    kept = ~np.isnan(statistics).any(1)
    beta, statistics = beta[kept], statistics[kept]
    scale = statistics.std(0)  # of this prior, much narrower than the published one
    distance = [np.linalg.norm((statistics - one) / scale, axis=1) for one in np.asarray(summarize(series))]
    order = [np.argpartition(row, NEAREST)[:NEAREST] for row in distance]
    draws = np.stack([beta[rows] for rows in order])
    return {
        "simulations": TABLE,
        "capped": int((~kept).sum()),
        "nearest": NEAREST,
        "tolerance_median": float(np.median([row[o].max() for row, o in zip(distance, order, strict=True)])),
        "sd_median": rounded(np.median(draws.std(1), 0)),
        "ranks": ranks(key, np.asarray(betas), draws).tolist(),
        "region_ranks": region_ranks(key, np.asarray(betas), draws)[:, 0].tolist(),
    }


def main():
    stored = begun(NAME)
    pieces, earlier = stored["pieces"], stored["made"]
    betas, series = (np.asarray(array) for array in data_sets())
    work = {
        "observation_abc": observation_by_abc,
        "observation_lfvi_0": partial(observation_by_lfvi, 0),
        "calibration_abc": lambda: calibration_of_abc(betas, series),
    }
    for i in range(DATA_SETS):
        work[f"calibration_lfvi_{i}"] = partial(calibration_of_lfvi, i, betas[i], series[i])
    for name, compute in work.items():
        if name not in pieces:
            began = time.process_time()
            pieces[name] = compute()
            store(NAME, {"seed": SEED, "pieces": pieces}, earlier=earlier)
            print(f"{name}: {time.process_time() - began:.1f} s of processor time", flush=True)


if __name__ == "__main__":
    main()
