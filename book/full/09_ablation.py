"""What each part of chapter 9's recipe is for: one thing changed at a time, on three of its series.

python book/full/09_ablation.py

The chapter's model, data, seeds, optimizers and steps. Beside the fits stands a likelihood learned by hand
from the same residual. Nothing was tuned for any row. It goes on from what
``himlib/book/results/09_ablation.json`` holds; delete that to begin anew. Some ten minutes on one core that
has nothing else to do; 1 GB of memory.
"""

import os
import time
from functools import cache
from pathlib import Path

# Small arrays: one thread is quicker.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize
from store import begun, store

from himlib import (
    Data,
    FullRankNormal,
    HierarchicalImplicitModel,
    MeanFieldNormal,
    cosine_adam,
    fit,
    lfvi,
    ratio_network,
)
from himlib.diagnostics import verdict
from himlib.random import normal
from himlib.simulators.lotka_volterra import INITIAL, TRUE_BETA, LotkaVolterra, transitions

NAME = Path(__file__).stem
SEEDS, STEPS = range(3), 2800
SIMULATED = (2_000, 20_000)  # transitions, of the likelihood by hand

simulator = LotkaVolterra()
scale = np.sqrt(simulator.noise_variance * simulator.interval)
center, spread = np.float32(simulator.prior.mean), np.sqrt(np.float32(simulator.prior.variance))


def euler(state, beta):
    rates, (prey, predators) = jnp.exp(beta), state
    growth = jnp.stack([rates[0] - rates[1] * predators, rates[3] * prey - rates[2]])
    return state + simulator.interval * growth * state


def residual(mean):
    def features(x, z, beta, covariate, center):
        off = (x - mean(covariate, beta)) / scale
        return jnp.concatenate([15 * jnp.arcsinh(off / 15), jnp.log(x + 1)])

    return features


def logarithms(x, z, beta, covariate, center):
    before, after = jnp.log(covariate + 1), jnp.log(x + 1)
    return jnp.concatenate([before, after, after - before, beta])


def growth(x, z, beta, covariate, middle):
    grown = jnp.log((x + 1) / (covariate + 1)) / simulator.interval
    return jnp.concatenate([grown, covariate / 100, x / 100, (beta - center) / spread])


def whole_series(x, z, beta, covariate, center):
    """The features of all transitions of a series, side by side."""
    states = jnp.concatenate([jnp.array([INITIAL]), x.reshape(-1, 2)])
    of_each = jax.vmap(residual(simulator.mean), (0, None, None, 0, None))
    return of_each(states[1:], None, beta, states[:-1], None).ravel()


def jitter(key, covariate):
    noise = normal(key, (2, 2))
    return jnp.abs(covariate * (1 + 0.1 * noise[0]) + noise[1])


def run_series(noise, beta, _):
    def step(x, epsilon):
        x = simulator.model.generate(epsilon[None], beta, x)[1]
        return x, x

    return None, jax.lax.scan(step, jnp.array(INITIAL), noise)[1].ravel()


series_model = HierarchicalImplicitModel(simulator.prior, generate=run_series, noise_shape=(150, 2))
BOOK = {
    "model": simulator.model,
    "posterior": FullRankNormal(),
    "features": residual(simulator.mean),
    "hidden": (32,),
    "baseline": True,
    "rounds": 2,
    "width": 4.0,
    "ratio_batch": 512,
    "posterior_samples": 4,
    "jitter": jitter,
}
ROWS = {
    "as built": {},
    "a series is one datum": {
        "model": series_model,
        "features": whole_series,
        "jitter": None,
        "ratio_batch": 32,
    },
    "the data as reference": {"reference": "empirical", "jitter": None},
    "residual of Euler's step": {"features": residual(euler)},
    "no residual: logarithms": {"features": logarithms, "hidden": (64, 64)},
    "no residual: growth": {"features": growth, "hidden": (64, 64)},
    "no residual: the library's features": {"features": None, "hidden": (64, 64)},
    "one round": {"rounds": 1},
    "proposal as wide as q": {"width": 1.0},
    "no jitter": {"jitter": None},
    "no baseline": {"baseline": False},
    "r follows q, 4 times as wide": {"proposal": "posterior"},
    "r follows q, as wide": {"proposal": "posterior", "width": 1.0},
    "mean-field": {"posterior": MeanFieldNormal()},
}


def data_of(seed):
    series = simulator.simulate_series(jax.random.key(seed), jnp.array(TRUE_BETA), INITIAL, 150)
    covariate, x = transitions(series, INITIAL)
    return Data(x, covariate), simulator.laplace(x, covariate)


def graded(mean, sd, exact):
    """Errors and widths in exact sds; what is not a number is left out."""
    exact_sd = np.sqrt(np.float64(exact.variance))
    numbers = {"error": (mean - np.float64(exact.mean)) / exact_sd, "sd_ratio": sd / exact_sd}
    return {
        name: np.round(np.float64(value), 3).tolist() if np.isfinite(value).all() else None
        for name, value in numbers.items()
    }


@cache
def build(row):
    options = BOOK | ROWS[row]
    model, posterior, features, hidden, baseline, rounds = (
        options.pop(name) for name in ("model", "posterior", "features", "hidden", "baseline", "rounds")
    )
    chosen = {} if features is None else {"features": features}
    algorithm = lfvi(
        model,
        posterior,
        ratio_network(hidden=hidden, baseline=baseline, **chosen),
        ratio_optimizer=cosine_adam(6e-3, STEPS),
        posterior_optimizer=cosine_adam(2e-2, STEPS),
        **options,
    )
    return model, algorithm, rounds


def run(row, seed):
    data, exact = data_of(seed)
    model, algorithm, rounds = build(row)
    if model is series_model:
        data = Data(data.x.reshape(1, -1))
    result = fit(jax.random.key(seed), algorithm, data, STEPS, rounds=rounds, progress=False)
    mean, sd = (np.float64(moment) for moment in algorithm.moments(result.state))
    found = "not looked at"
    if np.isfinite(mean).all():
        look = verdict(jax.random.key(seed), model, algorithm, result, data)
        found = " ".join(finding.split(":")[0] for finding in look.findings)
    return {"outcome": result.outcome.name, "found": found, **graded(mean, sd, exact)}


def by_hand(count, seed):
    """Mean and sd of the residual, learned from transitions at draws of the prior; then Laplace."""
    data, exact = data_of(seed)
    rng = np.random.default_rng(seed)
    keys = jax.random.split(jax.random.key(1000 + seed), 3)
    rows = rng.integers(len(data.x), size=count)
    states = jax.jit(jax.vmap(jitter))(jax.random.split(keys[0], count), data.covariate[rows])
    beta = simulator.prior.sample(keys[1], (count,))
    _, after = jax.jit(simulator.model.simulate_batch)(keys[2], beta, states)
    off = np.asarray((after - jax.jit(jax.vmap(simulator.mean))(states, beta)) / scale)
    middle, sd = jnp.float32(off.mean(0)), jnp.float32(off.std(0))

    def objective(v):
        beta = center + spread * v
        e = (data.x - jax.vmap(simulator.mean, (0, None))(data.covariate, beta)) / scale
        return jnp.sum(((e - middle) / sd) ** 2) / 2 + jnp.sum(v**2) / 2

    gradient, curvature = jax.jit(jax.grad(objective)), jax.jit(jax.hessian(objective))
    found = minimize(jax.jit(objective), np.zeros(4), jac=gradient, method="BFGS")
    v = jnp.float32(found.x)
    for _ in range(5):
        v = v - jnp.linalg.solve(curvature(v), gradient(v))
    covariance = np.linalg.inv(np.float64(curvature(v)))
    return graded(center + spread * np.float64(v), spread * np.sqrt(np.diag(covariance)), exact)


def main():
    stored = begun(NAME)
    pieces = stored["pieces"]
    work = {f"by hand, {count} {seed}": (by_hand, count, seed) for count in SIMULATED for seed in SEEDS}
    work |= {f"{row} {seed}": (run, row, seed) for row in ROWS for seed in SEEDS}
    for name, (compute, *arguments) in work.items():
        if name not in pieces:
            began = time.process_time()
            pieces[name] = compute(*arguments)
            store(NAME, {"pieces": pieces}, earlier=stored["made"])
            print(f"{name}: {time.process_time() - began:.0f} s", pieces[name], flush=True)


if __name__ == "__main__":
    main()
