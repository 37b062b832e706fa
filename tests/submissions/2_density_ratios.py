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


DV = """
def donsker_varadhan(r_p, r_q):
    return {log_mean} - r_p.mean(-1)


def centered(r, r_q):
    return r - jnp.expand_dims({log_mean}, -1)
"""

RIGHT: dict[str, dict[str, str]] = {
    "NumPy, SciPy and loops": {
        "counts": """
def log_ratio_from_counts(counts_p, counts_q):
    p, q = (np.asarray(counts, float) for counts in (counts_p, counts_q))
    return np.log((p / p.sum()) / (q / q.sum()))
""",
        "losses": """
def log_loss(r):
    return -jax.nn.log_sigmoid(r), -jax.nn.log_sigmoid(-r)


def brier_loss(r):
    p = jax.nn.sigmoid(r)
    return (1 - p) ** 2, p**2


def hinge_loss(r):
    return jnp.maximum(0, 1 - r), jnp.maximum(0, 1 + r)
""",
        "best_r": """
def best_r(loss, a, b):
    grid = np.arange(-600, 601) / 100
    on_p, on_q = (np.asarray(side) for side in loss(grid))
    return np.array([grid[np.argmin(one * on_p + other * on_q)] for one, other in zip(a, b)])
""",
        "not_a_ratio": 'not_a_ratio = "hinge"',
        "is_ratio": """
def is_ratio(loss):
    for r in np.linspace(-4, 4, 33):
        slope_p, slope_q = jax.jacfwd(loss)(float(r))
        if not (slope_p < 0 and abs(slope_q + np.exp(r) * slope_p) < 0.01 * abs(slope_q)):
            return False
    return True
""",
        "donsker_varadhan": DV.format(
            log_mean="(r_q.max(-1) + np.log(np.exp(r_q - r_q.max(-1, keepdims=True)).mean(-1)))"
        ),
        "fit": """
def fit(loss, x_p, x_q):
    from scipy.optimize import minimize

    powers = np.arange(3)

    @jax.jit
    def average(theta):
        return loss(x_p[:, None] ** powers @ theta)[0].mean() + loss(x_q[:, None] ** powers @ theta)[1].mean()

    slope = jax.jit(jax.grad(average))
    return minimize(average, np.zeros(3), jac=lambda theta: np.asarray(slope(theta), float)).x
""",
    },
    "other formulas, and maps": {
        "counts": """
def log_ratio_from_counts(counts_p, counts_q):
    odds = jnp.log(counts_p) - jnp.log(counts_q)
    return odds - (jnp.log(jnp.sum(counts_p)) - jnp.log(jnp.sum(counts_q)))
""",
        "losses": """
def log_loss(r):
    return jnp.logaddexp(0.0, -r), jnp.logaddexp(0.0, r)


def brier_loss(r):
    tilt = jnp.tanh(jnp.asarray(r) / 2)
    return (1 - tilt) ** 2 / 4, (1 + tilt) ** 2 / 4


def hinge_loss(r):
    return jnp.where(r < 1, 1 - r, 0.0), jnp.where(r > -1, 1 + r, 0.0)
""",
        "best_r": """
def best_r(loss, a, b):
    grid = jnp.linspace(-6, 6, 6_001)

    def one(a, b):
        on_p, on_q = jax.vmap(loss)(grid)
        return grid[(a * on_p + b * on_q).argmin()]

    return jax.vmap(one)(a, b)
""",
        "not_a_ratio": "not_a_ratio = ('log', 'brier', 'hinge')[-1]",
        "is_ratio": """
def is_ratio(loss):
    r = jnp.linspace(-4, 4, 201)
    slope_p, slope_q = jax.vmap(jax.jacrev(loss))(r)
    best = jnp.log(-slope_q / slope_p)  # where this r is best
    return bool(jnp.all(slope_p < 0) & jnp.all(jnp.abs(best - r) < 0.01))
""",
        "donsker_varadhan": DV.format(
            log_mean="jax.vmap(jax.nn.logsumexp)(r_q.reshape(-1, r_q.shape[-1])).reshape(r_q.shape[:-1])"
            " - np.log(r_q.shape[-1])"
        ),
        "fit": """
def fit(loss, x_p, x_q):
    adam = optax.adam(optax.linear_schedule(0.1, 0.001, 1_500))

    def r(theta, x):
        return jnp.polyval(theta[::-1], x)

    @jax.jit
    def step(theta, state):
        slope = jax.grad(lambda t: loss(r(t, x_p))[0].mean() + loss(r(t, x_q))[1].mean())(theta)
        updates, state = adam.update(slope, state)
        return optax.apply_updates(theta, updates), state

    theta = jnp.zeros(3)
    state = adam.init(theta)
    for _ in range(1_500):
        theta, state = step(theta, state)
    return theta
""",
    },
}
