"""The stored results of chapter 11: posteriors of up to a million Lotka-Volterra series.

python book/full/11_lotka_volterra_at_scale.py

Goes on from what ``himlib/book/results/11_lotka_volterra_at_scale.json`` holds; delete it to begin anew.
Half an hour on two cores that have nothing else to do; less than 1 GB of memory.
"""

import datetime
import json
import os
import re
import time
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")  # two cores, two devices

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial
from store import begun, store

from himlib import Data, FullRankNormal, cosine_adam, fit, lfvi, ratio_network
from himlib.many_data import solve_score, train_ratio
from himlib.models import Frame
from himlib.random import normal
from himlib.simulators.lotka_volterra import INITIAL, TRUE_BETA, LotkaVolterra, transitions

NAME = Path(__file__).stem
SERIES = 1000  # per chunk

simulator = LotkaVolterra()
model = simulator.model
beta_true = jnp.array(TRUE_BETA)
rows = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))


def features(x, z, beta, covariate, center):
    residual = (x - simulator.mean(covariate, beta)) / np.sqrt(simulator.noise_variance * simulator.interval)
    return jnp.concatenate([15 * jnp.arcsinh(residual / 15), jnp.log(x + 1)])


def jitter(key, covariate):
    noise = normal(key, (2, 2))
    return jnp.abs(covariate * (1 + 0.1 * noise[0]) + noise[1])


network = ratio_network(features, (32, 32), baseline=True)
stage = lfvi(
    model,
    FullRankNormal(),
    network,
    ratio_optimizer=cosine_adam(3e-3, 400),
    posterior_optimizer=cosine_adam(2e-2, 400),
    ratio_batch=512,
    jitter=jitter,
)


def chunks_of(seed):
    """A thousand series for each index: a data set of any size that nobody has to store."""
    betas = jnp.broadcast_to(beta_true, (SERIES, 4))
    starts = jnp.broadcast_to(jnp.array(INITIAL), (SERIES, 2))

    def load(index):
        key = jax.random.fold_in(jax.random.key(seed), index)
        series = simulator.simulate_series(key, betas, starts, 150, size=SERIES)
        covariate, x = transitions(series, INITIAL)
        return Data(x, covariate)

    return load


def train(seed):
    """Stage 1 on the first four series, then r once more on a wide proposal."""
    data = chunks_of(seed)(0)
    four = jax.tree.map(lambda leaf: leaf[:600], data)
    run = fit(jax.random.key(seed), stage, four, 400, rounds=3, progress=False)
    location, scale = stage.moments(run.state)
    frame = Frame(location, 10 * scale)  # four series halve the sd of one: five times that one
    wide, _ = train_ratio(
        jax.random.key(seed), model, network, data, frame, cosine_adam(3e-3, 4000), jitter=jitter
    )
    return {"frame": frame, "wide": wide, "rough": Partial(stage.log_ratio, run.state)}


@jax.jit
def exact_terms(beta, data):
    """Gradient and Hessian of the exact log-likelihood, summed over blocks of a chunk."""

    def block_terms(block):
        def terms(beta):
            return jax.vmap(simulator.transition_log_prob, (0, 0, None))(block.x, block.covariate, beta)

        def slope(beta):
            return (jnp.sum(jax.jacfwd(terms)(beta), 0),) * 2

        hessian, gradient = jax.jacfwd(slope, has_aux=True)(beta)
        return gradient, hessian

    return jax.lax.map(block_terms, jax.tree.map(lambda leaf: leaf.reshape(20, -1, 2), data))


def exact_posterior(load, count, steps):
    """Newton's method on the exact likelihood, from the truth, with sums in double precision."""
    location, precision = (
        np.float64(value) for value in (simulator.prior.mean, 1 / simulator.prior.variance)
    )
    mean = np.float64(beta_true)
    for _ in range(steps):
        beta = np.float64(np.float32(mean))
        gradient, hessian = -precision * (beta - location), -np.diag(precision)
        for index in range(count):
            terms = exact_terms(jnp.asarray(beta, jnp.float32), load(index))
            part, curvature = (np.asarray(term, np.float64).sum(0) for term in terms)
            gradient, hessian = gradient + part, hessian + curvature
        mean = beta - np.linalg.solve(hessian, gradient)
    return mean, np.sqrt(np.diag(np.linalg.inv(-hessian)))


@jax.jit
def weighted_scores(log_ratio, beta, data, noise, weight):
    """Sums of d and of its outer products, with the expectation over any weighted noise."""
    simulate = jax.vmap(jax.vmap(model.generate, (0, None, 0)), (0, None, None))

    def block_sums(block):
        data, noise = block
        noise = jnp.broadcast_to(noise, (len(weight), len(data.x), *model.noise_shape))
        _, simulated = simulate(noise, beta, data.covariate)
        x = jnp.concatenate([data.x[None], simulated])

        def contrast(beta, x, covariate):
            r = jax.vmap(log_ratio, (0, None, None, None))(x, None, beta, covariate)
            return r[0] - weight @ r[1:]

        score = jax.vmap(jax.grad(contrast), (None, 1, 0))(beta, x, data.covariate)
        return score.sum(0), score.T @ score

    blocks = jax.tree.map(lambda leaf: leaf.reshape(60, -1, *leaf.shape[1:]), data)
    noise = jnp.broadcast_to(noise, (60, *noise.shape[-4:]))
    return jax.lax.map(block_sums, (blocks, noise))


def pair(index):
    """One antithetic pair for each transition of a chunk."""
    noise = normal(jax.random.fold_in(jax.random.key(9), index), (60, 1, SERIES * 150 // 60, 1, 2))
    return jnp.concatenate([noise, -noise], 1), jnp.full(2, 0.5)


def grid(nodes):
    """Gauss-Hermite nodes in both noises, the same for all transitions."""
    points, weight = np.polynomial.hermite_e.hermegauss(nodes)
    weight = weight / weight.sum()
    points = np.stack(np.meshgrid(points, points), -1).reshape(-1, 1, 1, 2)
    return jnp.float32(points), jnp.float32(np.outer(weight, weight).ravel())


def total(log_ratio, beta, load, count, design):
    sums = [0.0, 0.0]
    for index in range(count):
        noise, weight = design(index)
        parts = weighted_scores(log_ratio, jnp.asarray(beta, jnp.float32), load(index), noise, weight)
        sums = [
            before + np.asarray(part, np.float64).sum(0) for before, part in zip(sums, parts, strict=True)
        ]
    return sums


def memory_mb():
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) >> 10


def rounded(values, digits=5):
    return [float(f"{value:.{digits}g}") for value in np.ravel(values)]


def posterior(seed, count, trained, steps, uncentered):
    """LFVI beside the exact posterior: errors in exact sds, ratios of sds, and what they cost."""
    load = chunks_of(seed)
    mean, sd = exact_posterior(load, count, steps)
    before, wall, cpu = memory_mb(), time.perf_counter(), time.process_time()
    options = {"data": load, "frame": trained["frame"], "chunks": count, "sharding": rows}
    few = min(count, 5)
    result = solve_score(jax.random.key(seed), model, trained["wide"], curvature_chunks=few, **options)
    found = {
        "series": count * SERIES,
        "seed": seed,
        "outcome": result.outcome.name,
        "exact_mean": rounded(mean, 9),
        "exact_sd": rounded(sd),
        "start_off": rounded((np.asarray(trained["frame"].location) - mean) / sd),
        "error": rounded((result.mean - mean) / sd),
        "sd": rounded(np.sqrt(np.diag(result.covariance))),
        "sd_ratio": rounded(np.sqrt(np.diag(result.covariance)) / sd),
        "sd_ratio_curvature": rounded(np.sqrt(np.diag(np.linalg.inv(result.curvature))) / sd),
        "sd_ratio_information": rounded(np.sqrt(np.diag(np.linalg.inv(result.information))) / sd),
        "noise": rounded(result.noise),
        "pass_sizes": [int(size) // 150 for size in result.history.size],
        "pass_steps": rounded(result.history.step),
        "pass_errors": [rounded((m - mean) / sd) for m in result.history.mean],
        "wall_seconds": round(time.perf_counter() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_mb_before": before,
        "peak_mb": memory_mb(),
    }
    for name in uncentered:
        biased = solve_score(jax.random.key(seed), model, trained[name], centered=False, **options)
        found[f"uncentered_error_{name}"] = rounded((biased.mean - mean) / sd)
    return found


def newton_by_outer_products(seed, count, trained, passes=6):
    """Newton's method with I in place of the measured A: errors in exact sds after each pass."""
    load = chunks_of(seed)
    mean, sd = exact_posterior(load, count, 2)
    found = {"series": count * SERIES, "seed": seed}
    for name in ("rough", "wide"):
        beta = np.asarray(trained["frame"].location, np.float64)
        errors = [rounded((beta - mean) / sd)]
        for _ in range(passes):
            score, information = total(trained[name], beta, load, count, pair)
            beta = np.float64(np.float32(beta)) + np.linalg.solve(information, score)
            errors.append(rounded((beta - mean) / sd))
        found[name] = errors
    result = solve_score(
        jax.random.key(seed), model, trained["rough"], load, trained["frame"], chunks=count, sharding=rows
    )
    found["measured_rough"] = [rounded((m - mean) / sd) for m in result.history.mean]
    found["measured_rough_sizes"] = [int(size) // 150 for size in result.history.size]
    found["measured_rough_sd_ratio"] = rounded(np.sqrt(np.diag(result.covariance)) / sd)
    factor = np.eye(4) - np.linalg.solve(result.information, result.curvature)
    found["factors_rough"] = rounded(np.sort(np.linalg.eigvals(factor).real), 3)
    return found


def quadrature(seed, count, trained):
    """What Gauss-Hermite grids shift the answer by, in exact sds, against one of 15 x 15 nodes."""
    load = chunks_of(seed)
    mean, sd = exact_posterior(load, count, 2)
    result = solve_score(
        jax.random.key(seed), model, trained["wide"], load, trained["frame"], chunks=count, sharding=rows
    )
    scores = {
        name: total(trained["wide"], mean, load, count, design)[0]
        for name, design in {
            **{f"{n} x {n}": lambda index, n=n: grid(n) for n in (3, 5, 7, 15)},
            "one pair": pair,
        }.items()
    }
    shift = {
        name: rounded(np.linalg.solve(result.curvature, score - scores["15 x 15"]) / sd, 3)
        for name, score in scores.items()
    }
    return {"series": count * SERIES, "seed": seed, "shift": shift}


def main():
    stored = begun(NAME)
    pieces, earlier, trained = stored["pieces"], stored["made"], {}

    def ready(seed):
        if seed not in trained:
            trained[seed] = train(seed)
        return trained[seed]

    def piece(name, compute):
        if name in pieces:
            return
        began, used = time.perf_counter(), time.process_time()
        print(f"{datetime.datetime.now():%H:%M} {name} ...", flush=True)
        result = compute()
        result["all_wall_seconds"] = round(time.perf_counter() - began, 1)
        result["all_cpu_seconds"] = round(time.process_time() - used, 1)
        pieces[name] = result
        store(NAME, {"pieces": pieces}, earlier=earlier)
        print(json.dumps(result), flush=True)

    def posteriors(seeds, count, steps, uncentered=()):
        for seed in seeds:
            piece(
                f"N={count * SERIES} seed={seed}",
                lambda seed=seed: posterior(seed, count, ready(seed), steps, uncentered),
            )

    posteriors((0,), 100, 1, ("wide",))
    piece("outer products", lambda: newton_by_outer_products(0, 10, ready(0)))
    piece("quadrature", lambda: quadrature(0, 1, ready(0)))
    posteriors((0,), 1000, 1)
    posteriors((1, 2), 100, 1)
    for count in (1, 10):
        posteriors(range(5), count, 2, ("wide", "rough"))


if __name__ == "__main__":
    main()
