"""The stored results of chapter 7: what `fit` and `verdict` say of sick and of healthy runs, 20 seeds each.

python book/full/07_failures.py [part of a kind's name ...]

Each kind is a model, data simulated anew for each seed, and settings; and, for a sick one, the names by
which it may be called. They were written down before the seeds were run. Each kind is a piece of its own in
``book/full/_build``, so that a stopped run goes on where it was. Twenty-five minutes on one core.
"""

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
from store import store

from himlib import (
    ALGORITHM_1,
    Data,
    FullRankNormal,
    HierarchicalImplicitModel,
    ImplicitConditional,
    MeanFieldNormal,
    cosine_adam,
    fit,
    lfvi,
    ratio_network,
    verdict,
)
from himlib.simulators.conjugate import ConjugateGaussian
from himlib.simulators.linear_regression import LinearRegression

NAME, SEEDS, STEPS = Path(__file__).stem, range(2000, 2020), 800
FOLDER = Path(__file__).parent / "_build" / NAME


class Kind(NamedTuple):
    """One row of the table: ``names`` is empty for a healthy run."""

    names: tuple[str, ...]
    model: HierarchicalImplicitModel
    data: Any  # a function of a key
    log_likelihood: Any = None  # of one beta and the data, where the posterior of one number is to be exact
    network: Any = ratio_network(hidden=(32,))
    posterior: Any = MeanFieldNormal()
    steps: int = STEPS
    rounds: int = 1
    rates: tuple = (1e-2, 3e-2)
    optimizers: Any = None
    wait: float = 0.2
    settings: dict = {}  # noqa: RUF012


def model_of(prior, generate, shape=()):
    return HierarchicalImplicitModel(prior, generate=generate, noise_shape=shape)


def simulated(model, N, covariate=None):
    """Data of the model at a beta of its prior."""

    def data(key):
        k_beta, k_x = jax.random.split(key)
        beta = jax.tree.map(lambda leaf: jnp.repeat(leaf, N, 0), model.sample_prior(k_beta, (1,)))
        return Data(model.simulate_batch(k_x, beta, covariate)[1], covariate)

    return data


def normals(location, scale, N):
    return lambda key: Data(location + scale * jax.random.normal(key, (N,)))


STANDARD = dist.Normal(0.0, 1.0)
LOCATION = model_of(STANDARD, lambda e, b, c: (None, b + e))
VECTOR = model_of(STANDARD, lambda e, b, c: (None, b + e), (100,))
FOLDED = model_of(STANDARD, lambda e, b, c: (None, jnp.abs(b) + 0.5 * e))
SCALE = HierarchicalImplicitModel(
    dist.HalfCauchy(1.0), simulate=lambda key, b, c: (None, b * jax.random.normal(key))
)
CAUCHY = HierarchicalImplicitModel(STANDARD, simulate=lambda key, b, c: (None, b + jax.random.cauchy(key)))
COUNTS = HierarchicalImplicitModel(
    dist.Gamma(2.0, 2.0), simulate=lambda key, b, c: (None, jnp.float32(jax.random.poisson(key, b)))
)
EDGE = model_of(dist.Uniform(0.0, 1.0), lambda e, b, c: (None, b + 0.2 * e))
SHARP = model_of(STANDARD, lambda e, b, c: (None, b + 0.003 * e))
TINY = model_of(dist.Normal(0.0, 1e-9), lambda e, b, c: (None, b + 1e-9 * e))
FAILING = HierarchicalImplicitModel(
    STANDARD,
    simulate=lambda key, b, c: (
        None, jnp.where(jax.random.uniform(key) < 5e-5, jnp.nan, b + jax.random.normal(key)),
    ),
)  # fmt: skip
MIXED = model_of(STANDARD, lambda e, b, c: (None, b + jnp.where(e[1] > 1, 1.0, 0.3) * e[0]), (2,))
REGRESSION = LinearRegression(2)
COVARIATES = jax.random.normal(jax.random.key(5), (50, 2))
MANY = 60
WIDE = model_of(
    dist.Normal(jnp.zeros(MANY), 0.35).to_event(1), lambda e, b, c: (None, jnp.exp(0.5 * (c @ b)) + 0.5 * e)
)
GENES = jax.random.normal(jax.random.key(6), (80, MANY))
LOCALS = ConjugateGaussian()
PLANE_TURN = jnp.array([[1.0, 0.5], [-0.5, 1.0], [0.3, 2.0]])
PLANE_SPREAD, PLANE_NOISE = jnp.array([2.0, 0.5]), jnp.array([0.5, 1.0, 2.0])


def in_the_plane(e, beta, c):
    z = beta + PLANE_SPREAD * e[:2]
    return z, PLANE_TURN @ z + PLANE_NOISE * e[2:]


PLANE = model_of(dist.Normal(jnp.zeros(2), 3.0).to_event(1), in_the_plane, (5,))


def normal_likelihood(scale=1.0):
    return lambda b, data: dist.Normal(b, scale).log_prob(data.x).sum()


def see(function, **options):
    return ratio_network(lambda x, z, b, c, m: jnp.stack(function(x, b)), hidden=(32,), **options)


def index(x, z, b, c, m):
    return jnp.stack([x, c @ b, x - jnp.exp(0.5 * (c @ b))])


KINDS = {
    # Sick, and by what names they may be called.
    "one atom as reference": Kind(
        ("SATURATED",),
        VECTOR,
        simulated(VECTOR, 1),
        normal_likelihood(),
        network=ratio_network(hidden=(16,), quadratic=False),
        settings=ALGORITHM_1,
    ),
    "a sharp datum, no quadratic form": Kind(
        ("SATURATED", "UNDERTRAINED", "WIDE", "INCONSISTENT"),
        SHARP,
        simulated(SHARP, 1),
        normal_likelihood(0.003),
        network=ratio_network(hidden=(16,), quadratic=False),
    ),
    "features without beta": Kind(
        ("BLIND",),
        LOCATION,
        simulated(LOCATION, 20),
        normal_likelihood(),
        network=see(lambda x, b: [x, x**2]),
    ),
    "features without x": Kind(
        ("BLIND",),
        LOCATION,
        simulated(LOCATION, 20),
        normal_likelihood(),
        network=see(lambda x, b: [b, b**2]),
    ),
    "r hardly learns": Kind(
        ("UNDERTRAINED", "BLIND"),
        LOCATION,
        simulated(LOCATION, 20),
        normal_likelihood(),
        rates=(1e-5, 3e-2),
    ),
    "a twentieth of the steps": Kind(
        ("UNDERTRAINED", "DRIFTING", "BLIND", "WIDE"),
        LOCATION,
        simulated(LOCATION, 20),
        normal_likelihood(),
        steps=STEPS // 20,
    ),
    "q hardly moves": Kind(
        ("WIDE", "DRIFTING"),
        LOCATION,
        simulated(LOCATION, 100),
        normal_likelihood(),
        rates=(1e-2, 1e-3),
    ),
    "q never slows down": Kind(
        ("DRIFTING", "NARROW", "WIDE"),
        LOCATION,
        simulated(LOCATION, 100),
        normal_likelihood(),
        optimizers=(cosine_adam(1e-2, STEPS), optax.adam(3.0)),
    ),
    "simulator fails 1 in 20,000": Kind(
        ("SIMULATOR_NOT_FINITE",),
        FAILING,
        simulated(LOCATION, 20),
        normal_likelihood(),
    ),
    "r explodes": Kind(
        ("NOT_FINITE", "UNDERTRAINED", "SATURATED"),
        LOCATION,
        simulated(LOCATION, 20),
        normal_likelihood(),
        optimizers=(optax.sgd(1e4), cosine_adam(3e-2, STEPS)),
    ),
    "hinge loss": Kind(
        ("UNDERTRAINED", "INCONSISTENT", "NARROW", "WIDE"),
        LOCATION,
        simulated(LOCATION, 100),
        normal_likelihood(),
        settings={"loss": "hinge"},
    ),
    "two modes": Kind(
        ("MODES",),
        FOLDED,
        normals(1.0, 0.5, 20),
        lambda b, d: dist.Normal(jnp.abs(b), 0.5).log_prob(d.x).sum(),
    ),
    "two modes, two rounds": Kind(
        ("MODES",),
        FOLDED,
        normals(1.0, 0.5, 20),
        lambda b, d: dist.Normal(jnp.abs(b), 0.5).log_prob(d.x).sum(),
        rounds=2,
    ),
    "long tails, raw x": Kind(
        ("FLAT", "UNDERTRAINED", "INCONSISTENT"),
        CAUCHY,
        simulated(CAUCHY, 30),
        lambda b, d: dist.Cauchy(b, 1.0).log_prob(d.x).sum(),
    ),
    "a small scale, raw x": Kind(
        ("SQUEEZED",),
        SCALE,
        normals(0.0, 0.01, 30),
        lambda b, d: dist.Normal(0.0, b).log_prob(d.x).sum(),
        settings={"center_score": True},
    ),
    "covariates hidden": Kind(
        ("UNDERTRAINED",),
        REGRESSION.model,
        simulated(REGRESSION.model, 50, COVARIATES),
        network=ratio_network(lambda x, z, b, c, m: jnp.append(b, x), hidden=(32,)),
        posterior=FullRankNormal(),
    ),
    "data wider than the model": Kind(
        ("STEEP",),
        LOCATION,
        normals(0.0, 3.0, 50),
        normal_likelihood(),
    ),
    "data narrower than the model": Kind(
        ("FLAT",),
        LOCATION,
        normals(0.0, 0.3, 50),
        normal_likelihood(),
    ),
    "Algorithm 1 as printed, 1,000 data": Kind(
        ("WIDE", "UNDERTRAINED", "INCONSISTENT", "NARROW", "BIASED", "UNSURE"),
        LOCATION,
        simulated(LOCATION, 1000),
        normal_likelihood(),
        network=ratio_network(hidden=(16,)),
        settings=ALGORITHM_1,
    ),
    "60 globals, q does not wait": Kind(
        ("OUTSIDE", "BIASED", "UNDERTRAINED", "STEEP", "DRIFTING"),
        WIDE,
        simulated(WIDE, 80, GENES),
        network=ratio_network(index, hidden=(32,)),
        wait=0.0,
        rates=(1e-2, 2e-1),
        rounds=2,
        settings={"center_score": True, "posterior_samples": 4},
    ),
    "a biased r, 1,000 data": Kind(
        ("BIASED", "UNSURE"),
        CAUCHY,
        simulated(CAUCHY, 1000),
        lambda b, d: dist.Cauchy(b, 1.0).log_prob(d.x).sum(),
        network=see(lambda x, b: [jnp.arcsinh(x), b]),
        settings={"posterior_samples": 2},
    ),
    "locals that r cannot follow": Kind(
        ("LOCALS",),
        PLANE,
        simulated(PLANE, 40),
        network=ratio_network(hidden=(32, 32)),
        steps=2000,
        optimizers=(cosine_adam(2e-2, 2000), {"beta": cosine_adam(2e-2, 2000), "z": cosine_adam(1e-2, 2000)}),
        settings={
            "local": ImplicitConditional(shape=(2,), noise_size=3),
            "proposal": "posterior",
            "width": 4.0,
        },
    ),
    # Healthy.
    "1 datum": Kind((), LOCATION, simulated(LOCATION, 1), normal_likelihood()),
    "5 data": Kind((), LOCATION, simulated(LOCATION, 5), normal_likelihood()),
    "20 data": Kind((), LOCATION, simulated(LOCATION, 20), normal_likelihood()),
    "20 data, two rounds": Kind((), LOCATION, simulated(LOCATION, 20), normal_likelihood(), rounds=2),
    "100 data, r follows q": Kind(
        (),
        LOCATION,
        simulated(LOCATION, 100),
        normal_likelihood(),
        settings={"proposal": "posterior", "width": 4.0, "ratio_steps": 5, "posterior_samples": 4},
    ),
    "20 data of 1e-9": Kind((), TINY, simulated(TINY, 20)),
    "a datum three sds out": Kind((), LOCATION, lambda key: Data(jnp.full(1, 4.2)), normal_likelihood()),
    "the edge of a uniform prior": Kind(
        (), EDGE, lambda key: Data(jnp.full(1, 1.3)), normal_likelihood(0.2), rates=(1e-2, 2e-2)
    ),
    "a sharp datum": Kind(
        (),
        SHARP,
        simulated(SHARP, 1),
        normal_likelihood(0.003),
        network=see(lambda x, b: [x, b, jnp.arcsinh(300 * (x - b))]),
        rounds=2,
    ),
    "counts, centered": Kind(
        (),
        COUNTS,
        simulated(COUNTS, 50),
        lambda b, d: dist.Poisson(b).log_prob(d.x).sum(),
        settings={"center_score": True, "ratio_batch": 512},
        steps=1200,
        rounds=2,
    ),
    "long tails, bounded features": Kind(
        (),
        CAUCHY,
        simulated(CAUCHY, 30),
        lambda b, d: dist.Cauchy(b, 1.0).log_prob(d.x).sum(),
        network=see(lambda x, b: [jnp.arcsinh(x), b]),
        settings={"ratio_batch": 1024},
        steps=1500,
        rounds=2,
    ),
    "a small scale, logarithms": Kind(
        (),
        SCALE,
        normals(0.0, 0.01, 30),
        lambda b, d: dist.Normal(0.0, b).log_prob(d.x).sum(),
        network=see(lambda x, b: [jnp.log(jnp.abs(x) + 1e-6), jnp.log(b)]),
        settings={"center_score": True},
        rounds=3,
    ),
    "regression, 50 rows": Kind(
        (),
        REGRESSION.model,
        simulated(REGRESSION.model, 50, COVARIATES),
        posterior=FullRankNormal(),
        network=ratio_network(lambda x, z, b, c, m: jnp.stack([x, c @ b, x - c @ b]), hidden=(32,)),
    ),
    "a mixture of noises": Kind(
        (),
        MIXED,
        simulated(MIXED, 50),
        lambda b, d: (
            dist.MixtureSameFamily(
                dist.Categorical(jnp.array([0.8413447, 0.1586553])), dist.Normal(b, jnp.array([0.3, 1.0]))
            )
            .log_prob(d.x[:, None][..., 0])
            .sum()
        ),
        network=see(lambda x, b: [x, b, x - b]),
        rounds=2,
    ),
    "locals": Kind(
        (),
        LOCALS.model,
        simulated(LOCALS.model, 10),
        network=ratio_network(hidden=(32, 32)),
        steps=2000,
        optimizers=(
            cosine_adam(2e-2, 10_000),
            {"beta": cosine_adam(2e-2, 2000), "z": cosine_adam(3e-3, 2000)},
        ),
        settings={
            "local": ImplicitConditional(noise_size=2),
            "proposal": "posterior",
            "width": 4.0,
            "ratio_steps": 5,
            "ratio_batch": 512,
        },
    ),
}


def quadrature(kind):
    """The exact mean and sd of the one unconstrained coordinate, as a function of the data."""
    space = kind.model.space

    def log_joint(u, data):
        beta = jax.tree.map(lambda leaf: leaf.reshape(()), space.constrain(u[None]))
        return kind.model.log_prior(beta) + space.log_jacobian(u[None]) + kind.log_likelihood(beta, data)

    @jax.jit
    def exact(data):
        mean, sd = space.frame.location[0], space.frame.scale[0]
        for _ in range(5):  # nearer and nearer to where the mass is
            u = mean + sd * jnp.linspace(-8, 8, 2001)
            weight = jax.nn.softmax(jax.lax.map(lambda u: log_joint(u, data), u, batch_size=200))
            mean = (weight * u).sum()
            found = jnp.sqrt((weight * (u - mean) ** 2).sum())
            sd = found + 2 * (u[1] - u[0])
        return mean, found

    return exact


def rounded(value):
    return round(float(value), 3) if np.isfinite(value) else None


def run(name):
    """What is said of each seed, and how far off it is."""
    kind = KINDS[name]
    ratio_rate, rate = kind.rates
    steps = kind.settings.get("ratio_steps", 1) * kind.steps
    optimizers = kind.optimizers or (cosine_adam(ratio_rate, steps), cosine_adam(rate, kind.steps))
    algorithm = lfvi(
        kind.model,
        kind.posterior,
        kind.network,
        ratio_optimizer=optimizers[0],
        posterior_optimizer=optimizers[1],
        **{"ratio_batch": 256, **kind.settings},
    )
    exact, rows = quadrature(kind), []
    for seed in SEEDS:
        k_data, k_fit, k_look = jax.random.split(jax.random.key(seed), 3)
        data, options = kind.data(k_data), {"rounds": kind.rounds, "wait": kind.wait, "progress": False}
        result = fit(k_fit, algorithm, data, kind.steps, **options)
        looked = verdict(k_look, kind.model, algorithm, result, data)
        row = {"found": [text.partition(":")[0] for text in looked.findings]}
        measures = ("width", "information_ratio", "contrast", "unlearned", "other_mode", "local_p_value")
        row |= {measure: rounded(getattr(looked, measure)) for measure in measures}
        row["shift"] = rounded(np.abs(looked.shift).max())
        if kind.log_likelihood is not None:
            (mean, sd), (q_mean, q_sd) = exact(data), np.asarray(algorithm.moments(result.state))[:, 0]
            row |= {"error": rounded((q_mean - mean) / sd), "sd": rounded(q_sd / sd)}
        rows.append(row)
    return {"names": list(kind.names), "rows": rows}


def right(names, rows):
    """On how many seeds what was said is right: one of the names, or nothing at all."""
    return sum(bool(set(names) & set(row["found"])) if names else not row["found"] for row in rows)


def show(found):
    for name, (names, rows) in ((name, piece.values()) for name, piece in found.items()):
        said = Counter(" ".join(row["found"]) or "nothing" for row in rows)
        errors = [(abs(row["error"]), row["sd"]) for row in rows if row.get("error") is not None]
        off = " ".join(f"{value:6.2f}" for value in np.median(errors, 0)) if errors else " " * 13
        print(f"{name:36s} {right(names, rows):3d} of {len(rows)} {off}  {dict(said.most_common())}")


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    paths = {name: FOLDER / f"{name.replace(' ', '_').replace(',', '')}.json" for name in KINDS}
    for name, path in paths.items():
        if not path.exists() and any(part in name for part in sys.argv[1:] or [""]):
            started = time.process_time()
            piece = run(name) | {"processor_seconds": round(time.process_time() - started)}
            path.write_text(json.dumps(piece))
            show({name: {key: piece[key] for key in ("names", "rows")}})
            jax.clear_caches()
    pieces = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    minutes = sum(piece.pop("processor_seconds") for piece in pieces.values()) / 60
    if len(pieces) == len(KINDS):
        for piece in pieces.values():  # by columns
            rows = piece.pop("rows")
            piece["found"] = [" ".join(row["found"]) for row in rows]
            piece |= {field: [row[field] for row in rows] for field in ("error", "sd") if field in rows[0]}
        earlier = {"minutes": minutes, "processor_minutes": minutes, "memory_mb": 0}
        store(NAME, {"seeds": list(SEEDS), "kinds": pieces}, earlier=earlier)


if __name__ == "__main__":
    main()
