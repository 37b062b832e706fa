"""The stored results of chapter 12: LFVI, its neighbors in sbi, and NUTS, on two simulators.

sbi is no part of the book's environment. Make one for it, of Python 3.11, and run the script there:

python3.11 -m venv book/full/_build/sbi
book/full/_build/sbi/bin/pip install . sbi==0.27.0 torch==2.13.0 -c constraints.txt
book/full/_build/sbi/bin/python book/full/12_simulation_based_inference.py

Goes on from the pieces in ``book/full/_build/12``, one for each simulator, method and seed, and stores all
that there are. A torch for CPUs is enough, and one core is all that is used: some six minutes of it.
"""

import base64
import json
import os
import time
from contextlib import chdir
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

# One core, for all libraries alike.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
os.environ.setdefault("PJRT_NPROC", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS, init_to_value

from himlib.abc import smc, standardize
from himlib.families import FullRankNormal, ImplicitConditional, MeanFieldNormal
from himlib.lfvi import Data, lfvi
from himlib.models import HierarchicalImplicitModel
from himlib.networks import ratio_network
from himlib.random import normal
from himlib.results import load, store
from himlib.simulators.conjugate import ConjugateGaussian
from himlib.simulators.jump_process import summary_statistics
from himlib.simulators.lotka_volterra import INITIAL, TRUE_BETA, LotkaVolterra, transitions
from himlib.training import cosine_adam, fit

NAME = Path(__file__).stem
FOLDER = Path(__file__).parent / "_build" / "12"
SEEDS = range(5)  # of the data; a network that serves any data is trained once
RESULTS = Path(__file__).parents[2] / "himlib" / "results"  # not those of the himlib that was installed
DRAWS = {"gaussian": 500, "lotka_volterra": 400}  # stored of each posterior
PAIRS = 10_000  # simulated data sets, or single data, that a network of sbi learns from
DATA_SETS = {"gaussian": 50_000, "lotka_volterra": 20_000}  # for ABC: as many as LFVI simulates, or so

gaussian, ecology = ConjugateGaussian(), LotkaVolterra()


# The two simulators, their data, and three ways to look at a data set


@cache
def gaussian_data(seed):
    """The data of chapter 5."""

    def simulate(key, beta):
        k_z, k_x = jax.random.split(key)
        z = beta + jax.random.normal(k_z, beta.shape)
        return z, z + jax.random.normal(k_x, beta.shape)

    k_beta, k_data = jax.random.split(jax.random.key(seed))
    return simulate(k_data, jnp.full(100, jax.random.normal(k_beta)))[1]


@cache
def series_data(seed):
    """The data of chapter 7."""
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


SUMMARIES = {
    "mean and spread": mean_and_spread,
    "nine statistics": nine_statistics,
    "four regressions": four_regressions,
}


@cache
def prior_of(task):
    return dist.Normal(jnp.zeros(1), 1.0).to_event(1) if task == "gaussian" else ecology.prior


def simulate_pairs(key, task, look, size):
    """Draws of the prior, and what a method is shown of a data set simulated at each."""
    k_beta, k_data = jax.random.split(key)
    beta = prior_of(task).sample(k_beta, (size,))
    if task == "lotka_volterra":
        starts = jnp.tile(jnp.array(INITIAL), (size, 1))
        shown = ecology.simulate_series(k_data, beta, starts, 150, size=size)
        shown = jax.jit(jax.vmap(SUMMARIES[look]))(shown)
    else:
        count = 1 if look == "single data" else 100
        betas = jnp.repeat(beta[:, 0], count)
        shown = gaussian.model.simulate_batch(k_data, betas, None)[1].reshape(size, count)
        if count == 100:
            shown = mean_and_spread(shown)
    return np.array(beta), np.array(shown)


def observed(task, look, seed):
    data = gaussian_data(seed) if task == "gaussian" else series_data(seed)
    return np.array(data)[:, None] if look == "single data" else np.array(SUMMARIES[look](data))[None]


clock = time.process_time

# The book's own methods. Each returns draws, data simulated, and seconds to train and to draw.


def run_nuts(task, method, look, seed):
    """NUTS on the density of the transitions: the simulator is not asked."""
    covariate, x = transitions(series_data(seed), INITIAL)

    def model():
        beta = numpyro.sample("beta", ecology.prior)
        density = jax.vmap(ecology.transition_log_prob, (0, 0, None))(x, covariate, beta)
        numpyro.factor("data", density.sum())

    start = init_to_value(values={"beta": ecology.prior.mean})
    began = clock()
    chains = {"num_chains": 4, "chain_method": "vectorized", "progress_bar": False}
    sampler = MCMC(
        NUTS(model, dense_mass=True, init_strategy=start), num_warmup=500, num_samples=1000, **chains
    )
    sampler.warmup(jax.random.key(seed), extra_fields=("num_steps",), collect_warmup=True)
    gradients = sampler.get_extra_fields()["num_steps"].sum()
    sampler.run(jax.random.key(seed), extra_fields=("num_steps",))
    gradients = int(gradients + sampler.get_extra_fields()["num_steps"].sum())
    chains = np.asarray(sampler.get_samples(group_by_chain=True)["beta"], np.float64)
    report = {
        "r_hat": round(float(numpyro.diagnostics.split_gelman_rubin(chains).max()), 4),
        "ess": round(float(numpyro.diagnostics.effective_sample_size(chains).min())),
        "gradients": gradients,
    }
    return chains.reshape(-1, 4), 0, 0.0, clock() - began, report


@cache
def lfvi_of(task):
    """The settings of chapters 5 and 7, steps and rounds."""
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


def run_lfvi(task, method, look, seed):
    algorithm, steps, rounds, simulated = lfvi_of(task)
    data = Data(gaussian_data(seed))
    if task == "lotka_volterra":
        data = Data(*reversed(transitions(series_data(seed), INITIAL)))
    began = clock()
    run = fit(jax.random.key(seed), algorithm, data, steps, rounds=rounds, progress=False)
    seconds, began = clock() - began, clock()
    draws = np.asarray(algorithm.sample(jax.random.key(seed), run.state, 4000)).reshape(4000, -1)
    return draws, simulated, seconds, clock() - began, {"outcome": run.outcome.name}


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


def run_smc(task, method, look, seed):
    model, summary = abc_problem(task, look)
    data = Data(gaussian_data(seed)) if task == "gaussian" else Data(jnp.asarray(observed(task, look, seed)))
    size = 150 if task == "lotka_volterra" else 100
    budget = {"simulations": DATA_SETS[task], "particles": 500, "progress": False}
    began = clock()
    found = smc(jax.random.key(seed), model, data, summary=summary, **budget)
    seconds = clock() - began
    rows = np.random.default_rng(seed).choice(len(found.beta), 4000, p=found.weights / found.weights.sum())
    draws = np.asarray(found.beta).reshape(len(found.beta), -1)[rows]
    report = {"tolerance": round(float(found.tolerance), 4), "ess": round(float(found.ess))}
    return draws, found.simulations * size, 0.0, seconds, report


# sbi, with its defaults but for what saves time where there are chains: NLE learns a mixture of ten normals
# in place of a flow, and fifty chains warm up for 30 steps in place of twenty for 200.


@cache
def sbi_posterior(method, task, look):
    """Train on draws of the prior: no data are needed, and the result serves any."""
    import torch
    from sbi import inference

    torch.set_num_threads(1)
    torch.manual_seed(0)
    prior = prior_of(task)
    prior = torch.distributions.MultivariateNormal(
        torch.tensor(np.array(prior.mean)), torch.diag(torch.tensor(np.array(prior.variance)))
    )
    began = clock()
    beta, x = simulate_pairs(jax.random.key(0), task, look, PAIRS)
    network = {"density_estimator": "mdn"} if method == "NLE" else {}
    with chdir(FOLDER):  # where it leaves its logs
        trainer = getattr(inference, method)(prior, show_progress_bars=False, **network)
    trainer.append_simulations(torch.tensor(beta), torch.tensor(x)).train()
    chains = {} if method == "NPE" else {"mcmc_parameters": {"warmup_steps": 30, "num_chains": 50}}
    posterior = trainer.build_posterior(**chains)
    return posterior, clock() - began, trainer.summary["epochs_trained"][-1]


def run_sbi(task, method, look, seed):
    import torch

    posterior, train_seconds, epochs = sbi_posterior(method, task, look)
    torch.manual_seed(seed)
    began = clock()
    draws = posterior.sample((500,), x=torch.tensor(observed(task, look, seed)), show_progress_bars=False)
    size = 150 if task == "lotka_volterra" else 1 if look == "single data" else 100
    return draws.numpy(), PAIRS * size, train_seconds, clock() - began, {"epochs": epochs}


# What there is to run: simulator, method, what it is shown of the data, the function, and its packages.
RUNS = [
    ("gaussian", "LFVI", "single data", run_lfvi, "himlib"),
    ("gaussian", "NPE", "mean and spread", run_sbi, "sbi"),
    ("gaussian", "NLE", "single data", run_sbi, "sbi"),
    ("gaussian", "NRE", "single data", run_sbi, "sbi"),
    ("gaussian", "SMC-ABC", "mean and spread", run_smc, "himlib"),
    ("lotka_volterra", "NUTS", "density", run_nuts, "numpyro"),
    ("lotka_volterra", "LFVI", "transitions", run_lfvi, "himlib"),
    ("lotka_volterra", "NPE", "four regressions", run_sbi, "sbi"),
    ("lotka_volterra", "NLE", "four regressions", run_sbi, "sbi"),
    ("lotka_volterra", "NRE", "four regressions", run_sbi, "sbi"),
    ("lotka_volterra", "SMC-ABC", "four regressions", run_smc, "himlib"),
    ("lotka_volterra", "SMC-ABC", "nine statistics", run_smc, "himlib"),
]


def encode(draws, task, center, scale):
    """Draws in hundredths of the reference's standard deviations, as 16-bit integers in base 64."""
    z = (np.float64(draws) - center) / scale
    z = np.random.default_rng(0).permutation(z)[: DRAWS[task]]
    z = np.clip(np.rint(100 * z), -32_768, 32_767).astype("<i2")
    return base64.b64encode(z.tobytes()).decode()


@cache
def reference(task, seed):
    """Mean and sd of the exact posterior, or of Laplace's approximation, which chapter 7 confirms."""
    if task == "gaussian":
        exact = gaussian.posterior(gaussian_data(seed))
        return np.array([exact.mean]), np.array([exact.scale])
    covariate, x = transitions(series_data(seed), INITIAL)
    exact = ecology.laplace(x, covariate)
    return np.array(exact.mean), np.sqrt(exact.variance)


def piece(task, method, look, function, package, seed):
    """Run it, unless it has been run."""
    name = "-".join((task, method, look.replace(" ", "_"), package, str(seed)))
    path = FOLDER / f"{name}.json"
    if not path.exists():
        center, scale = reference(task, seed)
        draws, simulated, train_seconds, draw_seconds, report = function(task, method, look, seed)
        mean, sd = draws.mean(0), draws.std(0)
        packages = {"himlib": ["jax"], "numpyro": ["jax"], "sbi": ["torch"]}[package]
        found = {
            "task": task,
            "method": method,
            "look": look,
            "seed": seed,
            "versions": {name: version(name) for name in (package, *packages)},
            "date": datetime.now(UTC).date().isoformat(),
            "simulated": simulated,
            "train_seconds": round(train_seconds, 2),
            "draw_seconds": round(draw_seconds, 2),
            **report,
            "mean": mean.tolist(),
            "sd": sd.tolist(),
            "draws": encode(draws, task, center, scale),
        }
        print(time.strftime("%H:%M"), {**found, "draws": "..."}, flush=True)
        print("     ", ((mean - center) / scale).round(2), (sd / scale).round(2), flush=True)
        path.write_text(json.dumps(found))
    return json.loads(path.read_text())


def main():
    if not find_spec("sbi"):
        print("Passed over: sbi is not in this environment. The first lines of this script make one.")
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    began = any(FOLDER.glob("*.json")) and (RESULTS / f"{NAME}.json").exists()
    earlier = load(NAME, RESULTS)["made"] if began else None
    found = []
    for run in RUNS:
        # One run of NUTS is enough to see that it agrees with Laplace.
        found += [piece(*run, seed) for seed in SEEDS if run[1] != "NUTS" or seed == 0]
        store(NAME, {"pairs": PAIRS, "runs": found}, RESULTS, earlier=earlier)


if __name__ == "__main__":
    main()
