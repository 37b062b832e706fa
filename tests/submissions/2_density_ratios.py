"""Wrong submissions for the assignment on density ratios, and the marks that they deserve."""

LOSSES = """
def log_loss(r):
    return {log}


def brier_loss(r):
    return jax.nn.sigmoid(-r) ** 2, jax.nn.sigmoid(r) ** 2


def hinge_loss(r):
    return jax.nn.relu(1 - r), jax.nn.relu(1 + r)
"""

FIT = """
def fit(loss, x_p, x_q):
    adam = optax.adam(optax.cosine_decay_schedule(0.1, 1_000, 0.01))

    def average(theta):
        on_p, on_q = (loss(theta[0] + theta[1] * x + theta[2] * x**2)[i] for i, x in enumerate({order}))
        return {mean}

    def step(_, carry):
        theta, state = carry
        updates, state = adam.update(jax.grad(average)(theta), state)
        return theta + updates, state

    theta = jnp.zeros(3)
    return jax.lax.fori_loop(0, 1_000, step, (theta, adam.init(theta)))[0]
"""

IS_RATIO = """
def is_ratio(loss):
    r = jnp.linspace(-4, 4, 80)
    slope_p, slope_q = (jax.vmap(jax.grad(lambda r, side=side: loss(r)[side]))(r) for side in (0, 1))
    return bool({condition})
"""

CENTERED = """

def centered(r, r_q):
    return r - {constant}
"""

WRONG: dict[str, tuple[dict[str, str], dict[str, float]]] = {
    "counts as they are, without the numbers of days": (
        {"counts": "def log_ratio_from_counts(counts_p, counts_q):\n    return jnp.log(counts_p / counts_q)"},
        {"test_counts": 0},
    ),
    "off by a sign": (
        {"losses": LOSSES.format(log="jax.nn.softplus(r), jax.nn.softplus(-r)")},
        {"test_log_loss": 0},
    ),
    "a log loss that overflows": (
        {"losses": LOSSES.format(log="jnp.log(1 + jnp.exp(-r)), jnp.log(1 + jnp.exp(r))")},
        {"test_log_loss": 0},
    ),
    "the hinge taken as a ratio": (
        {
            "is_ratio": IS_RATIO.format(condition="(slope_p <= 0).all() and (slope_q >= 0).all()"),
            "not_a_ratio": 'not_a_ratio = "brier"',
        },
        {"test_is_ratio": 0, "test_not_a_ratio": 0},
    ),
    "half of the theorem": (
        {"is_ratio": IS_RATIO.format(condition="jnp.allclose(slope_q, -jnp.exp(r) * slope_p, rtol=1e-3)")},
        {"test_is_ratio": 0},
    ),
    "hard-coded for the visible test": (
        {"best_r": "def best_r(loss, a, b):\n    return 1 + (a - b) / (a + b)"},
        {"test_best_r": 0},
    ),
    "log-mean-exp over the wrong axis": (
        {
            "donsker_varadhan": "def donsker_varadhan(r_p, r_q):\n"
            "    return jax.nn.logsumexp(r_q, axis=0) - jnp.log(r_q.shape[0]) - r_p.mean(axis=0)"
            + CENTERED.format(constant="(jax.nn.logsumexp(r_q, axis=0) - jnp.log(r_q.shape[0]))")
        },
        {"test_donsker_varadhan": 0, "test_centered": 0},
    ),
    "a log of a sum instead of a mean": (
        {
            "donsker_varadhan": "def donsker_varadhan(r_p, r_q):\n"
            "    return jax.nn.logsumexp(r_q, axis=-1) - r_p.mean(axis=-1)"
            + CENTERED.format(constant="jax.nn.logsumexp(r_q, axis=-1, keepdims=True)")
        },
        {"test_donsker_varadhan": 0, "test_centered": 0},
    ),
    "p and q exchanged": (
        {"fit": FIT.format(order="(x_q, x_p)", mean="on_p.mean() + on_q.mean()")},
        {"test_fit": 0},
    ),
    "all draws in one heap": (
        {"fit": FIT.format(order="(x_p, x_q)", mean="jnp.concatenate([on_p, on_q]).mean()")},
        {"test_fit": 0},
    ),
}
