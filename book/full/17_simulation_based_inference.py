"""The stored results of chapter 17: LFVI, its neighbors in sbi and sbijax, and NUTS, on two simulators.

Neither package is part of the book's environment. Make one for each, and run the script in both:

python3.11 -m venv book/full/_build/sbi
book/full/_build/sbi/bin/pip install . sbi==0.27.0 torch==2.13.0 -c constraints.txt
book/full/_build/sbi/bin/python book/full/17_simulation_based_inference.py

python3.12 -m venv book/full/_build/sbijax
book/full/_build/sbijax/bin/pip install . sbijax==0.4.2.post1
book/full/_build/sbijax/bin/python book/full/17_simulation_based_inference.py

Goes on from the pieces in ``book/full/_build/17``, one for each simulator, method, package, training and
seed, makes those whose package is here, and stores all. Each has its own date, versions and seconds of
process time; "made" tells of the last call alone. A torch for CPUs and one core are enough.
"""

import base64
import json
import os
import platform
import time
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from pathlib import Path

# One core, for all libraries alike.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
os.environ.setdefault("PJRT_NPROC", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax
import jax.numpy as jnp
import neighbors
import numpy as np
import numpyro.distributions as dist
from store import store

from himlib import (
    Data,
    FullRankNormal,
    HierarchicalImplicitModel,
    ImplicitConditional,
    MeanFieldNormal,
    cosine_adam,
    fit,
    lfvi,
    ratio_network,
)
from himlib.abc import smc, standardize
from himlib.random import normal
from himlib.simulators.conjugate import ConjugateGaussian
from himlib.simulators.jump_process import summary_statistics
from himlib.simulators.lotka_volterra import INITIAL, TRUE_BETA, LotkaVolterra, transitions

NAME = Path(__file__).stem
FOLDER = Path(__file__).parent / "_build" / "17"
SEEDS = range(5)  # of the data
RESULTS = Path(__file__).parents[2] / "himlib" / "results"  # not those of the himlib that was installed
DRAWS = 400  # kept of each posterior
PAIRS = 10_000  # simulated data sets, or single data, that a network of sbi or sbijax learns from
ROUNDS = (4_000, 3_000, 3_000)  # as many, in rounds
DATA_SETS = {"gaussian": 50_000, "lotka_volterra": 20_000}  # for ABC: as many as LFVI simulates, or so

gaussian, ecology = ConjugateGaussian(), LotkaVolterra()


# The two simulators, their data, and three ways to look at a data set


@cache
def gaussian_data(seed):
    """The data of chapter 6."""

    def simulate(key, beta):
        k_z, k_x = jax.random.split(key)
        z = beta + jax.random.normal(k_z, beta.shape)
        return z, z + jax.random.normal(k_x, beta.shape)

    k_beta, k_data = jax.random.split(jax.random.key(seed))
    return simulate(k_data, jnp.full(100, jax.random.normal(k_beta)))[1]


@cache
def series_data(seed):
    """The data of chapter 9."""
    return ecology.simulate_series(jax.random.key(seed), jnp.array(TRUE_BETA), INITIAL, 150)


def mean_and_spread(x):
    return jnp.stack([x.mean(-1), jnp.log(x.std(-1))], -1)


def nine_statistics(series):
    start = jnp.broadcast_to(jnp.array(INITIAL), (*series.shape[:-2], 1, 2))
    return summary_statistics(jnp.concatenate([start, series], -2))


def four_regressions(series):
    """Log rates by weighted least squares: how a population's growth depends on the other population."""
    path = jnp.maximum(jnp.concatenate([jnp.array([INITIAL]), series]), 1e-3)
    prey, predators = path.T
    growth = jnp.log(path[1:] / path[:-1]) / ecology.interval
    ones = jnp.ones(len(series))
    designs = jnp.stack([ones, -predators[:-1]], -1), jnp.stack([-ones, prey[1:]], -1)
    found = []
    for design, change, population in zip(designs, growth.T, (prey, predators), strict=True):
        scale = jnp.array([1.0, 0.01])  # the rates' own
        weighted = (design * scale).T * population[:-1] ** 2  # the noise of growth falls with the population
        square = weighted @ (design * scale)
        square = square + 1e-6 * jnp.trace(square) * jnp.eye(2)
        found.append(jnp.log(jnp.maximum(scale * jnp.linalg.solve(square, weighted @ change), 1e-4)))
    return jnp.concatenate(found)


SUMMARIES = {f.__name__.replace("_", " "): f for f in (mean_and_spread, nine_statistics, four_regressions)}


@cache
def prior_of(task):
    return dist.Normal(jnp.zeros(1), 1.0).to_event(1) if task == "gaussian" else ecology.prior


def simulate_series(key, beta, look):
    starts = jnp.tile(jnp.array(INITIAL), (len(beta), 1))
    series = ecology.simulate_series(key, jnp.asarray(beta), starts, 150, size=len(beta))
    return np.array(jax.jit(jax.vmap(SUMMARIES[look]))(series))


def simulate_groups(key, beta, count):
    """Latents and data of the Gaussian model, a row for each beta."""
    z, x = gaussian.model.simulate_batch(key, jnp.repeat(beta[:, 0], count), None)
    return z.reshape(-1, count), x.reshape(-1, count)


def simulate_pairs(key, task, look, size):
    """Draws of the prior, and what a method is shown of a data set simulated at each."""
    k_beta, k_data = jax.random.split(key)
    beta = prior_of(task).sample(k_beta, (size,))
    if task == "lotka_volterra":
        shown = simulate_series(k_data, beta, look)
    elif look == "single data":
        shown = simulate_groups(k_data, beta, 1)[1]
    else:
        shown = mean_and_spread(simulate_groups(k_data, beta, 100)[1])
    return np.array(beta), np.array(shown)


def observed(task, look, seed):
    data = gaussian_data(seed) if task == "gaussian" else series_data(seed)
    return np.array(data)[:, None] if look == "single data" else np.array(SUMMARIES[look](data))[None]


def scores_of_z(z, x):
    """Draws of all z, a row for each beta: rms error of the means, and mean sd, in exact sds."""
    exact = gaussian.posterior(x)
    z = (np.float64(z) - (x + exact.mean) / 2) / np.sqrt(1 / 2 + exact.scale**2 / 4)
    error, width = np.sqrt(np.mean(z.mean(0) ** 2)), z.std(0).mean()
    return {"z_error": round(float(error), 3), "z_sd_ratio": round(float(width), 3)}


def count_of(task, look):
    """The number of simulated data in what a method is shown of one data set."""
    return 150 if task == "lotka_volterra" else 1 if look == "single data" else 100


clock = time.process_time

# The book's own methods. Each returns draws, data simulated, seconds to train and to draw, and a report.


def run_nuts(task, method, look, package, training, seed):
    """NUTS on the density of the transitions: the simulator is not asked."""
    covariate, x = transitions(series_data(seed), INITIAL)
    density = jax.vmap(ecology.transition_log_prob, (0, 0, None))
    began = clock()
    draws, report = neighbors.nuts(ecology.prior, lambda beta: density(x, covariate, beta).sum(), seed)
    return draws, 0, 0.0, clock() - began, report


@cache
def lfvi_of(task):
    """The settings of chapters 6 and 9, steps and rounds."""
    if task == "gaussian":
        algorithm = lfvi(
            gaussian.model,
            MeanFieldNormal(),
            ratio_network(hidden=(32, 32)),
            local=ImplicitConditional(noise_size=2),
            ratio_optimizer=cosine_adam(2e-2, 10_000),
            posterior_optimizer={"beta": cosine_adam(2e-2, 2000), "z": cosine_adam(3e-3, 2000)},
            ratio_batch=512,
            proposal="posterior",
            width=4.0,
            ratio_steps=5,
        )
        return algorithm, 2000, 1, 2000 * 5 * 512

    def features(x, z, beta, covariate, center):
        scale = np.sqrt(ecology.noise_variance * ecology.interval)
        residual = (x - ecology.mean(covariate, beta)) / scale
        return jnp.concatenate([15 * jnp.arcsinh(residual / 15), jnp.log(x + 1)])

    def jitter(key, covariate):
        noise = normal(key, (2, 2))
        return jnp.abs(covariate * (1 + 0.1 * noise[0]) + noise[1])

    algorithm = lfvi(
        ecology.model,
        FullRankNormal(),
        ratio_network(features, (32,), baseline=True),
        ratio_optimizer=cosine_adam(6e-3, 2800),
        posterior_optimizer=cosine_adam(2e-2, 2800),
        ratio_batch=512,
        posterior_samples=4,
        width=4.0,
        jitter=jitter,
    )
    return algorithm, 2800, 2, 2 * 2800 * 512


def run_lfvi(task, method, look, package, training, seed):
    algorithm, steps, rounds, simulated = lfvi_of(task)
    series = task == "lotka_volterra"
    data = Data(*reversed(transitions(series_data(seed), INITIAL))) if series else Data(gaussian_data(seed))
    began = clock()
    run = fit(jax.random.key(seed), algorithm, data, steps, rounds=rounds, progress=False)
    seconds, began = clock() - began, clock()
    draws = np.asarray(algorithm.sample(jax.random.key(seed), run.state, 4000)).reshape(4000, -1)
    report = {"outcome": run.outcome.name}
    if not series:
        keys = jax.random.split(jax.random.key(seed), 500)
        local = jax.vmap(lambda key, beta: algorithm.sample_local(key, run.state, beta, data))
        report |= scores_of_z(local(keys, jnp.asarray(draws[:500, 0])), data.x)
    return draws, simulated, seconds, clock() - began, report


@cache
def abc_problem(task, look):
    """The data set as one datum: its summary; scaled by a pilot run of 1,000 simulations."""
    if task == "gaussian":
        model, summary = gaussian.model, lambda data: mean_and_spread(data.x)
    else:

        def generate(noise, beta, _):
            def step(x, epsilon):
                x = ecology.model.generate(epsilon[None], beta, x)[1]
                return x, x

            return None, SUMMARIES[look](jax.lax.scan(step, jnp.array(INITIAL), noise)[1])

        model = HierarchicalImplicitModel(ecology.prior, generate=generate, noise_shape=(150, 2))
        summary = lambda data: data.x[0]  # noqa: E731
    data = Data(gaussian_data(0)) if task == "gaussian" else Data(jnp.asarray(observed(task, look, 0)))
    return model, standardize(jax.random.key(1000), model, data, summary=summary)


def run_smc(task, method, look, package, training, seed):
    model, summary = abc_problem(task, look)
    data = Data(gaussian_data(seed)) if task == "gaussian" else Data(jnp.asarray(observed(task, look, seed)))
    budget = {"simulations": DATA_SETS[task], "particles": 500, "progress": False}
    began = clock()
    found = smc(jax.random.key(seed), model, data, summary=summary, **budget)
    seconds = clock() - began
    rows = np.random.default_rng(seed).choice(len(found.beta), 4000, p=found.weights / found.weights.sum())
    draws = np.asarray(found.beta).reshape(len(found.beta), -1)[rows]
    report = {"tolerance": round(float(found.tolerance), 4), "ess": round(float(found.ess))}
    return draws, found.simulations * count_of(task, look), 0.0, seconds, report


# The neighbors. A network that was trained on draws of the prior serves all data sets; a second and a third
# training, each on pairs of its own, show what is due to chance.


@cache
def trained(task, method, look, package, training):
    began = clock()
    beta, x = simulate_pairs(jax.random.key(training), task, look, PAIRS)
    draw, report = getattr(neighbors, package)(method, prior_of(task), beta, x, training, FOLDER)
    return draw, clock() - began, report


def run_trained(task, method, look, package, training, seed):
    draw, train_seconds, report = trained(task, method, look, package, training)
    began = clock()
    draws, chains = draw(observed(task, look, seed), seed)
    return draws, PAIRS * count_of(task, look), train_seconds, clock() - began, report | chains


def run_rounds(task, method, look, package, training, seed):
    keys = iter(jax.random.split(jax.random.key(seed), len(ROUNDS)))
    began = clock()
    simulate, shown = lambda beta: simulate_series(next(keys), beta, look), observed(task, look, seed)
    draws, report = neighbors.rounds_of_npe(prior_of(task), simulate, shown, seed, FOLDER, ROUNDS)
    return draws, sum(ROUNDS) * count_of(task, look), clock() - began, 0.0, report


@cache
def trained_hnpe(training):
    began = clock()
    k_beta, k_data = jax.random.split(jax.random.key(training))
    beta = prior_of("gaussian").sample(k_beta, (PAIRS,))
    arrays = (np.array(array) for array in (beta, *simulate_groups(k_data, beta, 100)))
    prior_of_z = dist.Normal(jnp.zeros(1), np.sqrt(2)).to_event(1)
    draw, report = neighbors.hnpe(prior_of("gaussian"), prior_of_z, *arrays, training, FOLDER)
    return draw, clock() - began, report


def run_hnpe(task, method, look, package, training, seed):
    draw, train_seconds, report = trained_hnpe(training)
    began, x = clock(), np.array(gaussian_data(seed))
    draws, z = draw(x, seed)
    return draws, PAIRS * 100, train_seconds, clock() - began, {**report, **scores_of_z(z, x)}


BOTH = ("sbi", "sbijax")
# What there is to run: simulator, method, what it is shown of the data, the function, packages, trainings.
RUNS = [
    ("gaussian", "LFVI", "single data", run_lfvi, ("himlib",), 1),
    ("gaussian", "NPE", "mean and spread", run_trained, BOTH, 3),
    ("gaussian", "HNPE", "whole data set", run_hnpe, ("sbi",), 1),
    ("gaussian", "NLE", "single data", run_trained, BOTH, 1),
    ("gaussian", "NRE", "single data", run_trained, BOTH, 1),
    ("gaussian", "SMC-ABC", "mean and spread", run_smc, ("himlib",), 1),
    ("lotka_volterra", "NUTS", "density", run_nuts, ("numpyro",), 1),
    ("lotka_volterra", "LFVI", "transitions", run_lfvi, ("himlib",), 1),
    ("lotka_volterra", "NPE", "four regressions", run_trained, BOTH, 3),
    ("lotka_volterra", "NPE in rounds", "four regressions", run_rounds, ("sbi",), 1),
    ("lotka_volterra", "NLE", "four regressions", run_trained, BOTH, 1),
    ("lotka_volterra", "NRE", "four regressions", run_trained, BOTH, 1),
    ("lotka_volterra", "SMC-ABC", "four regressions", run_smc, ("himlib",), 1),
    ("lotka_volterra", "SMC-ABC", "nine statistics", run_smc, ("himlib",), 1),
]


def encode(draws, center, scale):
    """Draws in hundredths of the reference's standard deviations, as 16-bit integers in base 64."""
    z = (np.float64(draws) - center) / scale
    z = np.random.default_rng(0).permutation(z)[:DRAWS]
    z = np.clip(np.rint(100 * z), -32_768, 32_767).astype("<i2")
    return base64.b64encode(z.tobytes()).decode()


@cache
def reference(task, seed):
    """Mean and sd of the exact posterior, or of Laplace's approximation, which chapter 9 confirms."""
    if task == "gaussian":
        exact = gaussian.posterior(gaussian_data(seed))
        return np.array([exact.mean]), np.array([exact.scale])
    exact = ecology.laplace(*reversed(transitions(series_data(seed), INITIAL)))
    return np.array(exact.mean), np.sqrt(exact.variance)


def piece(task, method, look, function, package, training, seed):
    """Run it, unless it has been run; None if its package is not here."""
    name = f"{task}-{method}-{look}-{package}-{training}-{seed}".replace(" ", "_")
    path, (center, scale) = FOLDER / f"{name}.json", reference(task, seed)
    if not path.exists():
        if not find_spec(package):
            return None
        draws, simulated, *seconds, report = function(task, method, look, package, training, seed)
        packages = (package, "torch" if package == "sbi" else "jax")
        versions = {name: version(name) for name in packages} | {"Python": platform.python_version()}
        found = {
            "task": task,
            "method": method,
            "look": look,
            "package": package,
            "training": training,
            "seed": seed,
            "versions": versions,
            "date": datetime.now(UTC).date().isoformat(),
            "simulated": simulated,
            **{"train_seconds": round(seconds[0], 2), "draw_seconds": round(seconds[1], 2), **report},
            "mean": draws.mean(0).tolist(),
            "sd": draws.std(0).tolist(),
            "draws": encode(draws, center, scale),
        }
        path.write_text(json.dumps(found))
    found = json.loads(path.read_text())
    found["error"] = ((found["mean"] - center) / scale).round(4).tolist()
    found["sd_ratio"] = (found["sd"] / scale).round(4).tolist()
    print(name, found["error"], found["sd_ratio"], flush=True)
    if (task, training, seed) != ("lotka_volterra", 0, 0):  # the chapter shows draws of one series
        del found["draws"]
    return found


def main():
    if not (find_spec("sbi") or find_spec("sbijax")):
        print("Passed over: no sbi and no sbijax here. The first lines of this script make environments.")
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    found = []
    for *run, packages, trainings in RUNS:
        seeds = SEEDS if run[1] != "NUTS" else (0,)  # one is enough to see that Laplace is right
        found += [piece(*run, *rest) for rest in product(packages, range(trainings), seeds)]
        store(NAME, {"pairs": PAIRS, "runs": [run for run in found if run]}, RESULTS)


if __name__ == "__main__":
    main()
