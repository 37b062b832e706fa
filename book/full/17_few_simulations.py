"""Few simulations, held to exact posteriors of three problems; a part of chapter 17's comparison.

python book/full/17_few_simulations.py [part of a problem's name ...]

Two beacons tell distances, so that the posterior has two mirror images; an epidemic (SIR) and a mixture of
two normals, both of Lueckmann et al. (2021). Posteriors are exact, by a grid or by rejection, and
observations are of seeds that no setting was chosen on. Each run is a piece of its own, in
``book/full/_build``, so that a stopped one goes on where it was; half an hour on one core.
"""

import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neural_network import MLPClassifier
from store import store

from himlib import Data, HierarchicalImplicitModel, fit_rounds

NAME, OBSERVATIONS, BUDGETS, DRAWS = Path(__file__).stem, (101, 102, 103), (1_000, 10_000), 10_000
PIECES = Path(__file__).with_name("_build")
BEACONS = np.array([[-0.5, 0.0], [0.5, 0.0]])
DAYS, PEOPLE, TESTED = 153, 1e6, 1000
LOCATION, SCALE = np.log([0.4, 0.125]), np.array([0.5, 0.2])


def from_grid(rng, log_density, *axes):
    """Draws from a density on a fine grid, spread evenly over its cells."""
    p = np.exp(log_density - log_density.max())
    cells = np.unravel_index(rng.choice(p.size, DRAWS, p=(p / p.sum()).ravel()), p.shape)
    jitter = rng.random((2, DRAWS)) - 0.5
    pairs = zip(axes, cells, jitter, strict=True)
    return np.stack([axis[cell] + (axis[1] - axis[0]) * move for axis, cell, move in pairs], axis=1)


def beacons(rng):
    """Two distances, each off by 3 %, of a point in the square."""

    def generate(noise, beta, covariate):
        return None, jnp.linalg.norm(beta - BEACONS, axis=1) * jnp.exp(0.03 * noise)

    prior = dist.Uniform(-jnp.ones(2), jnp.ones(2)).to_event(1)
    model = HierarchicalImplicitModel(prior, generate=generate, noise_shape=(2,))
    x = np.linalg.norm(rng.uniform(-1, 1, 2) - BEACONS, axis=1) * np.exp(0.03 * rng.normal(size=2))
    axis = (np.arange(2401) + 0.5) / 1200.5 - 1
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    far = [np.linalg.norm(points - beacon, axis=-1) for beacon in BEACONS]
    log_density = sum(-0.5 * (np.log(xi / d) / 0.03) ** 2 for xi, d in zip(x, far, strict=True))
    return model, x, from_grid(rng, log_density, axis, axis)


def infected(beta):
    """The infected share of a million people on days 0, 17, ..., 153: Runge and Kutta, half a day a step."""

    def slope(state):
        susceptible, ill = state
        new = beta[0] * susceptible * ill / PEOPLE
        return jnp.stack([-new, new - beta[1] * ill])

    def step(state, _):
        h = 0.5
        k1 = slope(state)
        k2 = slope(state + h / 2 * k1)
        k3 = slope(state + h / 2 * k2)
        k4 = slope(state + h * k3)
        state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return state, state[1]

    start = jnp.array([PEOPLE - 1, 1.0])
    ill = jnp.concatenate([start[1:], jax.lax.scan(step, start, None, length=2 * DAYS)[1]])
    return jnp.clip(ill[::34] / PEOPLE, 1e-9, 1 - 1e-9)


def epidemic(rng):
    """Positive tests among a thousand people, on ten days."""

    def simulate(key, beta, covariate):
        counts = jax.random.binomial(key, TESTED, infected(beta))
        return None, jnp.sqrt(counts + 3 / 8)

    model = HierarchicalImplicitModel(
        dist.LogNormal(jnp.float32(LOCATION), jnp.float32(SCALE)).to_event(1), simulate=simulate
    )
    shares = jax.jit(jax.vmap(lambda v: infected(jnp.exp(LOCATION + SCALE * v))))
    count = rng.binomial(TESTED, np.float64(shares(rng.normal(size=(1, 2)))[0]))

    def log_density(v):
        p = np.float64(shares(v))
        return (count * np.log(p) + (TESTED - count) * np.log1p(-p)).sum(1) - 0.5 * (v**2).sum(1)

    low, high = np.full(2, -4.0), np.full(2, 4.0)
    for _ in range(6):  # a grid that closes in
        axes = [np.linspace(*ends, 201) for ends in zip(low, high, strict=True)]
        v = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
        values = log_density(v)
        weights = np.exp(values - values.max())
        mean = weights @ v / weights.sum()
        reach = 7 * np.sqrt(weights @ (v - mean) ** 2 / weights.sum()) + (high - low) / 200
        low, high = np.maximum(mean - reach, -6), np.minimum(mean + reach, 6)
    draws = from_grid(rng, values.reshape(201, 201), *axes)
    return model, np.sqrt(count + 3 / 8), np.exp(LOCATION + SCALE * draws)


def mixture(rng):
    """A point, off by a normal of sd 1 or of sd .1, each half of the time."""

    def generate(noise, beta, covariate):
        return None, beta + jnp.where(noise[2] > 0, 1.0, 0.1) * noise[:2]

    prior = dist.Uniform(jnp.full(2, -10.0), jnp.full(2, 10.0)).to_event(1)
    model = HierarchicalImplicitModel(prior, generate=generate, noise_shape=(3,))

    def off(size):
        return np.where(rng.random((size, 1)) < 0.5, 1.0, 0.1) * rng.normal(size=(size, 2))

    x = rng.uniform(-10, 10, 2) + off(1)[0]
    draws = x + off(20 * DRAWS)
    return model, x, draws[(np.abs(draws) < 10).all(1)][:DRAWS]


def c2st(exact, draws):
    """How well a network tells the draws from exact ones: .5 is not at all (settings of Lueckmann et al.)."""
    both = (np.concatenate([exact, draws]) - exact.mean(0)) / exact.std(0)
    labels = np.repeat([0, 1], [len(exact), len(draws)])
    network = MLPClassifier((10 * exact.shape[1],) * 2, max_iter=1000, random_state=1)
    folds = KFold(5, shuffle=True, random_state=1)
    return float(cross_val_score(network, both, labels, cv=folds).mean())


PROBLEMS = {"two beacons": beacons, "epidemic": epidemic, "mixture of normals": mixture}


def run(problem: str, observation: int, budget: int) -> dict:
    """One posterior, and what it cost."""
    model, x, exact = PROBLEMS[problem](np.random.default_rng(observation))
    began = time.process_time()
    data = Data(jnp.asarray(x, jnp.float32)[None])
    fitted = fit_rounds(jax.random.key(2000 + observation), model, data, simulations=budget, progress=False)
    draws = np.asarray(fitted.beta, np.float64)
    seconds = time.process_time() - began
    return {
        "problem": problem,
        "observation": observation,
        "simulations": fitted.simulations,
        "c2st": round(c2st(exact, draws), 4),
        "error": (np.abs(draws.mean(0) - exact.mean(0)) / exact.std(0)).round(3).tolist(),
        "sd_ratio": (draws.std(0) / exact.std(0)).round(3).tolist(),
        "outcome": fitted.outcome.name,
        "processor_seconds": round(seconds, 1),
    }


def main(*wanted: str) -> None:
    rows = []
    PIECES.mkdir(exist_ok=True)
    for budget in BUDGETS[::-1]:
        for problem in PROBLEMS:
            if wanted and not any(part in problem for part in wanted):
                continue
            for observation in OBSERVATIONS:
                piece = PIECES / f"{NAME}_{problem.replace(' ', '_')}_{observation}_{budget}.json"
                if not piece.exists():
                    piece.write_text(json.dumps(run(problem, observation, budget)))
                rows.append(json.loads(piece.read_text()))
                print(*rows[-1].values(), flush=True)
    if not wanted:
        store(NAME, {"runs": rows})


if __name__ == "__main__":
    main(*sys.argv[1:])
