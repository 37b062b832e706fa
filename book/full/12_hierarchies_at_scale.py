"""The stored results of chapter 12: globals and locals of a normal hierarchy, up to a million groups.

python book/full/12_hierarchies_at_scale.py

Goes on from what ``himlib/book/results/12_hierarchies_at_scale.json`` holds; delete it to begin anew.
A quarter of an hour on two cores that have nothing else to do; about 1 GB of memory.
"""

import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from scipy import optimize, stats
from store import begun, store

from himlib import Data, HierarchicalImplicitModel, cosine_adam, ratio_network
from himlib.many_data import fit_locals, solve_score, train_ratio
from himlib.models import Frame

NAME = Path(__file__).stem
TRUE, MEMBERS = np.array([0.7, -0.5, 0.3]), 5
PRIOR_SD = np.array([3.0, 1.0, 1.0])


def generate(noise, beta, covariate):
    z = beta[0] + jnp.exp(beta[1]) * noise[0]
    return z, z + jnp.exp(beta[2]) * noise[1:]


model = HierarchicalImplicitModel(
    dist.Normal(jnp.zeros(3), jnp.array(PRIOR_SD)).to_event(1), generate=generate, noise_shape=(MEMBERS + 1,)
)
proposal = Frame(np.array([0.5, -0.3, 0.2]), np.array([0.5, 0.5, 0.3]))


def features(x, z, beta, covariate, center):
    mean, log_variance = x.mean(), jnp.log(x.var() + 1e-6)
    squares = (mean - beta[0]) ** 2 / jnp.exp(2 * beta[1]), jnp.exp(log_variance - 2 * beta[2])
    return jnp.stack([mean, mean**2, log_variance, *squares, *beta])


network, optimizer = ratio_network(features), cosine_adam(3e-3, 4000)


def exact_posterior(x):
    """The mode and the inverse curvature there, from the sufficient statistics."""
    x = np.asarray(x, np.float64)
    size, mean = len(x), x.mean(1)
    within, center = ((x - mean[:, None]) ** 2).sum(), mean.mean()
    between = ((mean - center) ** 2).sum()

    def energy(beta):
        noise = np.exp(2 * beta[2])
        total = np.exp(2 * beta[1]) + noise / MEMBERS
        squares = (between + size * (center - beta[0]) ** 2) / total + within / noise
        logs = size * np.log(total) + 2 * size * (MEMBERS - 1) * beta[2]
        return (squares + logs + np.sum((beta / PRIOR_SD) ** 2)) / 2

    start = np.r_[center, TRUE[1:]]
    mode = optimize.minimize(
        lambda beta: energy(beta) / size, start, method="Nelder-Mead",
        options={"xatol": 1e-8, "fatol": 1e-14, "maxiter": 9000},
    ).x  # fmt: skip
    step = 1e-3 * np.eye(3)
    signs = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    hessian = [
        [sum(s * t * energy(mode + s * a + t * b) for s, t in signs) / 4e-6 for a in step] for b in step
    ]
    return mode, np.linalg.inv(hessian)


def distance(found, x, beta, each=250):
    """Kolmogorov's distance of draws from the exact locals, averaged over groups; and of sds, their ratio."""
    rows = jnp.repeat(jnp.asarray(beta, jnp.float32), each, 0)
    z = np.asarray(found.sample(jax.random.key(9), Data(x), rows)).reshape(len(beta), each, len(x))
    between, noise = np.exp(2 * beta[:, 1:2]), np.exp(2 * beta[:, 2:]) / MEMBERS
    weight = between / (between + noise)
    mean = beta[:, :1] + weight * (np.asarray(x, np.float64).mean(1) - beta[:, :1])
    sd = np.sqrt(weight * noise)
    u = np.sort(stats.norm.cdf((z - mean[:, None]) / sd[:, None]).reshape(-1, len(x)), 0)
    ks = np.abs(u - (np.arange(len(u)) + 0.5)[:, None] / len(u)).max(0).mean()
    return float(ks), float((z.std(1) / sd).mean())


def rounded(values, digits=4):
    return [float(f"{value:.{digits}g}") for value in np.ravel(values)]


def one(seed, size):
    truth = jnp.broadcast_to(jnp.float32(TRUE), (size, 3))
    x = model.simulate_batch(jax.random.key(100 + seed), truth)[1]
    mode, covariance = exact_posterior(x)
    sd = np.sqrt(np.diag(covariance))
    cpu = [time.process_time()]
    data, some = Data(x), Data(x[:1000])
    log_ratio, _ = train_ratio(
        jax.random.key(seed), model.marginal, network, some, proposal, optimizer, steps=4000
    )
    cpu.append(time.process_time())
    fit = solve_score(jax.random.key(50 + seed), model.marginal, log_ratio, data, proposal, progress=False)
    cpu.append(time.process_time())
    mine = np.sqrt(np.diag(fit.covariance))
    found = fit_locals(jax.random.key(seed), model, some, Frame(fit.mean, 3 * mine))
    cpu.append(time.process_time())
    rng = np.random.default_rng(seed)
    ks, ratio = distance(found, x[:1000], rng.multivariate_normal(fit.mean, fit.covariance, 20))
    return {
        "groups": size, "seed": seed, "outcome": fit.outcome.name, "pairs": fit.pairs,
        "error": rounded((fit.mean - mode) / sd), "sd_ratio": rounded(mine / sd), "noise": rounded(fit.noise),
        "locals": found.outcome.name, "ks": ks, "local_sd_ratio": ratio,
        "cpu_seconds": rounded(np.diff(cpu), 3),
    }  # fmt: skip


def main():
    stored = begun(NAME)
    pieces, earlier = stored["pieces"], stored["made"]
    runs = [(size, seed) for size in (250_000, 1000) for seed in range(5)]
    for size, seed in [*runs, (1_000_000, 0)]:
        name = f"N={size} seed={seed}"
        if name not in pieces:
            pieces[name] = one(seed, size)
            store(NAME, {"pieces": pieces}, earlier=earlier)
            print(json.dumps(pieces[name]), flush=True)


if __name__ == "__main__":
    main()
