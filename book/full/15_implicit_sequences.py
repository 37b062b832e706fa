"""The stored results of chapter 15: an implicit recurrent network by five games, five seeds each.

python book/full/15_implicit_sequences.py [GAME ...]

Plays the games named, or all of them, and keeps a piece of each in ``book/full/_build``; what is there is not
played again. When all are there, it stores them. Thirteen minutes of one quiet core, 1 GB
of memory.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

# Small arrays on one core: more threads only cost.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
from flax import nnx
from store import store

from himlib import MLP, Data, HierarchicalImplicitModel, pure
from himlib.adversarial import joint_matching
from himlib.models import Space
from himlib.networks import NoisyDense, StochasticCell, straight_through
from himlib.random import normal
from himlib.simulators.grammar import ArithmeticGrammar

NAME = Path(__file__).stem
FOLDER = Path(__file__).parent / "_build"
SEEDS = (0, 1, 2, 3, 4)  # everything was chosen on seeds 100 to 109
T, SYMBOLS, HIDDEN, NOISE = 15, 6, 16, 8
STRINGS, LOOKS, SAMPLES = 5000, 20, 1000
SETTINGS = {"rate": 2e-3, "final": 0.05, "batch": 128, "penalty": 1.0, "decay": 0.995, "hidden": 128}
GAMES = {  # unit of x, whether r sees z, r's learning rate over the model's, weight of lengths, steps
    "marginal": (1000.0, 0.0, 1.0, 0.0, 4000),
    "joint, unit 1": (1.0, 1.0, 1.0, 0.0, 4000),
    "joint, unit 5": (5.0, 1.0, 1.0, 0.0, 4000),
    "joint, unit 5, fast r": (5.0, 1.0, 2.5, 0.0, 6000),
    "joint, unit 5, lengths": (5.0, 1.0, 1.0, 5.0, 6000),
}
grammar = ArithmeticGrammar()
cell = pure(lambda rngs, z, x, noise: StochasticCell(SYMBOLS, HIDDEN, NOISE, rngs=rngs))


def generate(noise, beta, covariate):
    def advance(carry, noise):
        z, logits = cell.apply(beta, *carry, noise)
        x = straight_through(logits)
        return (z, x), (z, x)

    _, (z, x) = jax.lax.scan(advance, (jnp.zeros(HIDDEN), jnp.zeros(SYMBOLS)), noise)
    return z, covariate[0] * x


def start(key):
    return cell.init(key, jnp.zeros((1, HIDDEN)), jnp.zeros((1, SYMBOLS)), jnp.zeros((1, 2, NOISE)))


shapes = jax.eval_shape(start, jax.random.key(0))
prior = jax.tree.map(lambda leaf: dist.Normal(jnp.zeros(leaf.shape), 1.0), shapes)
model = HierarchicalImplicitModel(prior, generate=generate, noise_shape=(T, 2, NOISE))


class RecurrentConditional:
    """q(z | x): the model's own state layer, which also sees the whole string."""

    inputs = T * SYMBOLS + 2 * SYMBOLS + HIDDEN

    def __init__(self):
        def build(rngs, noise, inputs):
            activation = nnx.Sequential(nnx.LayerNorm(HIDDEN, rngs=rngs), jax.nn.relu)
            return NoisyDense(self.inputs, NOISE, HIDDEN, rngs=rngs, activation=activation)

        self.network = pure(build)

    def init(self, key, z, x, beta, covariate):
        return self.network.init(key, jnp.zeros((1, NOISE)), jnp.zeros((1, self.inputs)))

    def sample(self, params, key, x, beta, covariate):
        def one(x, noise):
            before = jnp.concatenate([jnp.zeros((1, SYMBOLS)), x[:-1]])

            def advance(z, step):
                noise, now, before = step
                z = self.network.apply(params, noise, jnp.concatenate([x.ravel(), now, before, z]))
                return z, z

            return jax.lax.scan(advance, jnp.zeros(HIDDEN), (noise, x, before))[1]

        return jax.vmap(one)(x / covariate[:, :1, None], normal(key, (len(x), T, NOISE)))


class Ratio(nnx.Module):
    def __init__(self, rngs):
        sizes = (T * (SYMBOLS + HIDDEN), SETTINGS["hidden"], SETTINGS["hidden"], 1)
        self.network = MLP(sizes, rngs=rngs, activation=lambda u: jax.nn.leaky_relu(u, 0.2), last_scale=1.0)

    def __call__(self, x, z, beta, covariate, center):
        unit, sees_z = covariate
        return self.network(jnp.concatenate([x.ravel() / unit, sees_z * z.ravel()]))[0]


def build(unit, faster, lengths, steps):
    def adam(rate):
        schedule = optax.cosine_decay_schedule(rate, steps, SETTINGS["final"])
        return optax.flatten(optax.adam(schedule, b1=0.5, b2=0.99))

    return joint_matching(
        model,
        pure(lambda rngs, *batch: Ratio(rngs)),
        local=RecurrentConditional(),
        start=start,
        ratio_optimizer=adam(faster * SETTINGS["rate"]),
        posterior_optimizer=adam(SETTINGS["rate"]),
        batch_size=SETTINGS["batch"],
        penalty=SETTINGS["penalty"],
        decay=SETTINGS["decay"],
        # The share of strings that have ended at each position; its weight falls to 0 with the last step.
        moments=(lambda x: x[:, -1] / unit) if lengths else None,
        moment_weight=optax.linear_schedule(lengths, 0.0, steps),
    )


def run(name, unit, sees_z, faster, lengths, steps):
    """Train all seeds of one game side by side, and look at their strings along the way."""
    algorithm, space = build(unit, faster, lengths, steps), Space(prior)

    @jax.jit
    @jax.vmap
    def draw_data(key):
        x = unit * jax.nn.one_hot(grammar.sample(key, STRINGS), SYMBOLS)
        return Data(x, jnp.broadcast_to(jnp.array([unit, sees_z]), (STRINGS, 2)))

    @jax.jit
    @jax.vmap
    def advance(key, state, data):
        def body(_, state):
            return algorithm.step(jax.random.fold_in(key, state.step), state, data)[0]

        return jax.lax.fori_loop(0, steps // LOOKS, body, state)

    @jax.jit
    @jax.vmap
    def write(key, state):
        def strings(location):
            beta = space.constrain(state.frame.location + state.frame.scale * location)
            noise = normal(key, (SAMPLES, T, 2, NOISE))
            return jax.vmap(generate, (0, None, None))(noise, beta, jnp.ones(2))[1].argmax(-1)

        average = state.posterior["average"]["beta"]["location"]
        return strings(state.posterior["beta"]["location"]), strings(average)

    k_data, k_init, k_step, k_write = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed), 4))(
        jnp.array(SEEDS)
    ).T
    data = draw_data(k_data)
    state = jax.jit(jax.vmap(algorithm.init))(k_init, data)
    began, looks = time.process_time(), []
    for look in range(LOOKS):
        state = advance(k_step, state, data)
        last, average = write(k_write, state)
        numbers = {
            kind: [[round(float(v), 4) for v in grammar.statistics(seed)] for seed in strings]
            for kind, strings in (("last", last), ("average", average))
        }
        looks.append({"step": (look + 1) * (steps // LOOKS)} | numbers)
        valid = " ".join(f"{seed[0]:.3f}" for seed in numbers["average"])
        print(
            f"{name}: step {looks[-1]['step']}, {time.process_time() - began:.0f} s, valid {valid}",
            flush=True,
        )
    texts = [[grammar.decode(row) for row in np.asarray(seed[:20])] for seed in average]
    minutes = round((time.process_time() - began) / 60, 1)
    settings = [unit, sees_z, faster, lengths, steps]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10  # Linux counts kilobytes
    return {"looks": looks, "strings": texts, "settings": settings, "minutes": minutes, "memory_mb": memory}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    pieces = {name: FOLDER / f"{NAME}_{name.replace(', ', '_').replace(' ', '_')}.json" for name in GAMES}
    earlier = {name: json.loads(piece.read_text()) for name, piece in pieces.items() if piece.exists()}
    for name in sys.argv[1:] or GAMES:
        if not pieces[name].exists():
            pieces[name].write_text(json.dumps(run(name, *GAMES[name])))
    if missing := [name for name, piece in pieces.items() if not piece.exists()]:
        sys.exit(f"still to be played: {missing}")
    results = {name: json.loads(piece.read_text()) for name, piece in pieces.items()}
    minutes = sum(game["minutes"] for game in earlier.values())
    memory = max((game["memory_mb"] for game in earlier.values()), default=0)
    made = {"processor_minutes": minutes, "minutes": minutes, "memory_mb": memory}
    data = [np.asarray(grammar.sample(jax.random.key(100 + seed), SAMPLES)) for seed in SEEDS]
    true = [[round(float(v), 4) for v in grammar.statistics(strings)] for strings in data]
    values = {"seeds": SEEDS, "settings": SETTINGS, "true strings": true, "games": results}
    print(store(NAME, values, earlier=made))
