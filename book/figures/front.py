"""Draw the picture of the front page, front.png: python book/figures/front.py (a minute or two).

A simulator throws a dart z and tells only x, how far from the center it landed, give or take a little. Where
was the dart? LFVI learns it from throws alone; its settings are those of chapter 6.
"""

import hashlib
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.colors import LinearSegmentedColormap

from himlib import Data, ImplicitConditional, PointMass, lfvi, ratio_network
from himlib.book.plotting import COLORS, new_figure, use_style
from himlib.diagnostics import sliced_wasserstein
from himlib.simulators.curved import RING

EARLY, STEPS, AVERAGED = 200, 3_000, 1_000
SEEN = jnp.array([0.5, 1.3, 2.1, 2.9])  # the x of the last panel; the third is that of the second panel
LIMIT = 3.6


def digest() -> str:
    """Identify the script; the picture carries it, so that a test notices an old picture."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]


def optimizer(rate, steps, final):
    return optax.flatten(optax.adam(optax.cosine_decay_schedule(rate, steps, final), b1=0.5))


def train(algorithm, data):
    """Return the state after a few steps, and the last one with q averaged over the steps before it."""

    @jax.jit
    def advance(state, count):
        def step(_, carry):
            state, total = carry
            state, _ = algorithm.step(jax.random.fold_in(jax.random.key(1), state.step), state, data)
            return state, jax.tree.map(jnp.add, total, state.posterior)

        nothing = jax.tree.map(jnp.zeros_like, state.posterior)
        state, total = jax.lax.fori_loop(0, count, step, (state, nothing))
        return state, state._replace(posterior=jax.tree.map(lambda total: total / count, total))

    early, _ = advance(algorithm.init(jax.random.key(0), data), EARLY)
    late, _ = advance(early, STEPS - AVERAGED - EARLY)
    return early, advance(late, AVERAGED)[1]


def dots(panel, z, color, size, **options):
    panel.scatter(*np.asarray(z).T, s=size, c=color, lw=0, rasterized=True, **options)


def draw():
    z, x = RING.simulate(jax.random.key(0), 5_000)
    leaky_relu = partial(jax.nn.leaky_relu, negative_slope=0.2)
    algorithm = lfvi(
        RING.model,
        PointMass(),
        ratio_network(quadratic=False, activation=leaky_relu),
        local=ImplicitConditional(shape=(2,), noise_size=4, hidden=(64, 64), activation=leaky_relu),
        ratio_optimizer=optimizer(1e-3, 3 * STEPS, 0.2),
        posterior_optimizer={"beta": optax.set_to_zero(), "z": optimizer(3e-3, STEPS, 0.02)},
        ratio_batch=512,
        ratio_steps=3,
        batch_size=512,
        posterior_samples=1,
    )
    early, late = train(algorithm, Data(x))

    def guess(state, x, size):
        return algorithm.sample_local(jax.random.key(2), state, jnp.zeros(()), Data(jnp.full(size, x)))

    use_style()
    figure, panels = new_figure(1, 3, height=3.35)
    colors = plt.get_cmap("viridis")
    shade = partial(np.interp, xp=[0, 3.2], fp=[0, 0.95])
    dots(panels[0], z, colors(shade(x)), 4)

    odds = LinearSegmentedColormap.from_list("odds", ["#E9A36B", "#F8E3D2", "white", "#CFE3F1", "#6FAFD8"])
    axis = jnp.linspace(-LIMIT, LIMIT, 181)
    grid = jnp.stack(jnp.meshgrid(axis, axis), axis=-1)

    def log_odds(z):
        return algorithm.log_ratio(early, SEEN[2], z, jnp.zeros(()), None)

    field = jax.vmap(jax.vmap(log_odds))(grid)
    guesses = guess(early, SEEN[2], 150)
    push = jax.vmap(jax.grad(log_odds))(guesses[::3])
    panels[1].pcolormesh(axis, axis, field, cmap=odds, vmin=-3, vmax=3, rasterized=True)
    dots(panels[1], guesses, COLORS["paper"], 12)
    panels[1].quiver(*np.asarray(guesses[::3]).T, *np.asarray(push).T, width=0.008, scale=26)

    for x in SEEN:
        found, exact = guess(late, x, 1_500), RING.posterior(x).sample(jax.random.key(3), 1_500)
        distance = sliced_wasserstein(found, exact)
        print(f"x = {x:.1f}: distance from the exact posterior {distance:.3f}")
        assert distance < 0.15
        dots(panels[2], found, [colors(shade(x))], 4)
        box = {"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none"}
        panels[2].annotate(f"{x:.1f}", (0, float(x)), ha="center", va="center", fontsize=11, bbox=box)

    titles = ("1. Simulate", "2. Compare", "3. Infer")
    below = ("darts, colored by distance x", "log-odds push guesses", "where it was, given x")
    for panel, title, text in zip(panels, titles, below, strict=True):
        panel.set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), aspect="equal", xticks=[], yticks=[])
        panel.set_title(title, fontsize=16)
        panel.set_xlabel(text, fontsize=12)
        panel.spines[:].set_visible(False)
        panel.grid(visible=False)
    figure.savefig(
        Path(__file__).with_suffix(".png"), dpi=170, metadata={"Software": None, "Description": digest()}
    )


if __name__ == "__main__":
    draw()
