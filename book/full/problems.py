"""Three problems with known posteriors for 17_few_simulations.py, in NumPy alone: any library can take them.

Two beacons tell distances, so that the posterior has two mirror images; an epidemic (SIR) and a mixture of
two normals are those of Lueckmann et al. (2021). There is nothing to run here.
"""

from typing import NamedTuple

import numpy as np

DRAWS = 10_000
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


def distances(rng, beta, covariate=None):
    """Two distances of points in the square, each off by 3 %."""
    far = np.linalg.norm(beta[:, None] - BEACONS, axis=2)
    return far * np.exp(0.03 * rng.normal(size=far.shape))


def exact_distances(rng, x):
    axis = (np.arange(2401) + 0.5) / 1200.5 - 1
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    far = [np.linalg.norm(points - beacon, axis=-1) for beacon in BEACONS]
    return from_grid(
        rng, sum(-0.5 * (np.log(xi / d) / 0.03) ** 2 for xi, d in zip(x, far, strict=True)), axis, axis
    )


def infected(beta):
    """The infected share of a million people on days 0, 17, ..., 153: Runge and Kutta, half a day a step."""
    contact, recovery = np.asarray(beta, np.float64).T
    state = np.stack([np.full(len(beta), PEOPLE - 1), np.ones(len(beta))])
    ill = [state[1]]

    def slope(state):
        new = contact * state[0] * state[1] / PEOPLE
        return np.stack([-new, new - recovery * state[1]])

    for step in range(1, 2 * DAYS + 1):
        k1 = slope(state)
        k2 = slope(state + k1 / 4)
        k3 = slope(state + k2 / 4)
        k4 = slope(state + k3 / 2)
        state = state + (k1 + 2 * k2 + 2 * k3 + k4) / 12
        if step % 34 == 0:
            ill.append(state[1])
    return np.clip(np.stack(ill, axis=1) / PEOPLE, 1e-9, 1 - 1e-9)


def epidemic(rng, beta, covariate=None):
    """Positive tests among a thousand people, on ten days, on a scale on which they vary alike."""
    return np.sqrt(rng.binomial(TESTED, infected(beta)) + 3 / 8)


def exact_epidemic(rng, x):
    count = np.round(x**2 - 3 / 8)

    def log_density(v):
        p = infected(np.exp(LOCATION + SCALE * v))
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
    return np.exp(LOCATION + SCALE * from_grid(rng, values.reshape(201, 201), *axes))


def mixture(rng, beta, covariate=None):
    """Points, off by a normal of sd 1 or of sd .1, each half of the time."""
    return beta + np.where(rng.random((len(beta), 1)) < 0.5, 1.0, 0.1) * rng.normal(size=beta.shape)


def exact_mixture(rng, x):
    draws = mixture(rng, np.tile(x, (20 * DRAWS, 1)))
    return draws[(np.abs(draws) < 10).all(1)][:DRAWS]


class Problem(NamedTuple):
    """A prior, ``("uniform", low, high)`` or ``("lognormal", location, scale)``, a simulator, a posterior."""

    prior: tuple
    simulate: object
    exact: object

    def draw(self, rng, size):
        kind, first, second = self.prior
        if kind == "uniform":
            return rng.uniform(first, second, (size, len(first)))
        return np.exp(first + second * rng.normal(size=(size, len(first))))

    def observe(self, seed):
        """An observation and exact draws of its posterior."""
        rng = np.random.default_rng(seed)
        x = self.simulate(rng, self.draw(rng, 1))[0]
        return x, self.exact(rng, x)


def box(reach):
    return "uniform", np.full(2, -reach), np.full(2, reach)


PROBLEMS = {
    "two beacons": Problem(box(1.0), distances, exact_distances),
    "epidemic": Problem(("lognormal", LOCATION, SCALE), epidemic, exact_epidemic),
    "mixture of normals": Problem(box(10.0), mixture, exact_mixture),
}
