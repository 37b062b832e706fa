"""Hand-ins for assignment 1 that look right and are not, with the marks that they deserve."""

SIMULATOR = """
BUSES = jnp.arange(-30, 31)


def simulate_waits(key, beta, count, gap=10.0):
    k_passenger, k_delay, k_cancel = jax.random.split(key, 3)
    mean_delay, cancel = beta
    passenger = gap * jax.random.uniform(k_passenger, (count, 1))
    delay = mean_delay * jax.random.exponential(k_delay, (count, len(BUSES)))
    canceled = jax.random.bernoulli(k_cancel, cancel, (count, len(BUSES)))
    comes = gap * BUSES + delay
    wait = jnp.where(canceled | (comes < passenger), jnp.inf, comes - passenger)
    return wait.min(1)
"""

REJECTION = """
def rejection_abc(key, sample_prior, simulate, summary, observed, simulations, tolerance):
    target = jnp.atleast_1d(summary(observed))

    def one(key):
        k_beta, k_data = jax.random.split(key)
        beta = sample_prior(k_beta)
        difference = jnp.atleast_1d(summary(simulate(k_data, beta))) - target
        return beta, jnp.sqrt(jnp.sum(difference**2))

    beta, distance = jax.lax.map(one, jax.random.split(key, simulations), batch_size=500)
    kept = np.asarray(distance <= tolerance)
    return np.asarray(beta)[kept], np.asarray(distance)[kept]
"""

COVERAGE = """
def central_interval(draws, level):
    return jnp.quantile(draws, (1 - level) / 2), jnp.quantile(draws, (1 + level) / 2)


def coverage(key, sample_prior, simulate, posterior, repetitions, level=0.9):
    hits = 0
    for k in jax.random.split(key, repetitions):
        k_beta, k_data, k_posterior = jax.random.split(k, 3)
        beta = sample_prior(k_beta)
        low, high = central_interval(posterior(k_posterior, simulate(k_data, beta)), level)
        hits += int(low <= beta <= high)
    return hits / repetitions
"""


def changed(source: str, old: str, new: str) -> str:
    assert old in source
    return source.replace(old, new)


WRONG = {
    "the next bus by the timetable": (
        {"simulate_waits": changed(SIMULATOR, "(comes < passenger)", "(gap * BUSES < passenger)")},
        {"test_waits_distribution": 0},
    ),
    "the nearest bus, missed or not": (
        {
            "simulate_waits": changed(
                changed(SIMULATOR, "canceled | (comes < passenger)", "canceled"),
                "comes - passenger",
                "abs(comes - passenger)",
            )
        },
        {"test_waits_distribution": 0},
    ),
    "a bus runs with probability p": (
        {"simulate_waits": changed(SIMULATOR, "cancel, (count", "1 - cancel, (count")},
        {"test_waits_basics": 0, "test_waits_distribution": 0},
    ),
    "one key for prior and data": (
        {"rejection_abc": changed(REJECTION, "simulate(k_data, beta)", "simulate(k_beta, beta)")},
        {"test_abc_posterior": 0},
    ),
    "the tolerance as a quantile": (
        {
            "rejection_abc": changed(
                REJECTION,
                "distance <= tolerance",
                "distance <= jnp.quantile(distance, min(tolerance, 1) / 9)",
            )
        },
        {"test_abc_accepts": 0, "test_abc_posterior": 0},
    ),
    "squared distances": (
        {"rejection_abc": changed(REJECTION, "jnp.sqrt(jnp.sum(difference**2))", "jnp.sum(difference**2)")},
        {"test_abc_accepts": 0, "test_abc_posterior": 0},
    ),
    "the exact answer to the toy, hard-coded": (
        {
            "rejection_abc": """
def rejection_abc(key, sample_prior, simulate, summary, observed, simulations, tolerance):
    count = int(simulations * tolerance / 5)
    mean, sd = 32 / 33 * observed.mean(), (4 / 33) ** 0.5
    k_beta, k_distance = jax.random.split(key)
    beta = mean + sd * jax.random.normal(k_beta, (count,))
    return np.asarray(beta), tolerance * np.asarray(jax.random.uniform(k_distance, (count,)))
"""
        },
        {"test_abc_accepts": 0, "test_abc_posterior": 0},
    ),
    "the standard deviation as the scale": (
        {"scales": "def scales(pilot):\n    return pilot.std(0)"},
        {"test_scales": 0},
    ),
    "deviations from zero": (
        {"scales": "def scales(pilot):\n    return 1.4826 * jnp.median(jnp.abs(pilot), axis=0)"},
        {"test_scales": 0},
    ),
    "an interval that starts at the lowest draw": (
        {
            "coverage": changed(
                COVERAGE,
                "jnp.quantile(draws, (1 - level) / 2), jnp.quantile(draws, (1 + level) / 2)",
                "jnp.min(draws), jnp.quantile(draws, level)",
            )
        },
        {"test_coverage": 0},
    ),
    "one key for all repetitions": (
        {"coverage": changed(COVERAGE, "in jax.random.split(key, repetitions)", "in [key] * repetitions")},
        {"test_coverage": 0},
    ),
}


REST_OF_BUS = """

pilot_keys = jax.random.split(jax.random.key(50), 500)
pilot = jax.vmap(lambda key: bus_summary(bus_simulate(key, bus_prior(key))))(pilot_keys)
scale = scales(jnp.reshape(pilot, (500, -1)))
beta, distances = rejection_abc(
    jax.random.key(51), bus_prior, bus_simulate, lambda data: bus_summary(data) / scale, waits, 5_000, 0.6
)
"""

RIGHT: dict[str, dict[str, str]] = {
    "one passenger at a time, and NumPy": {
        "simulate_waits": """
def simulate_waits(key, beta, count, gap=10.0):
    def wait(key):
        k_phase, k_delay, k_cancel = jax.random.split(key, 3)
        planned = gap * (jnp.arange(-40, 41) - jax.random.uniform(k_phase))  # as seen by the passenger
        comes = planned - beta[0] * jnp.log1p(-jax.random.uniform(k_delay, planned.shape))
        late_enough = (jax.random.uniform(k_cancel, planned.shape) >= beta[1]) & (comes >= 0)
        return jnp.min(comes, initial=jnp.inf, where=late_enough)

    return jax.vmap(wait)(jax.random.split(key, count))
""",
        "rejection_abc": """
def rejection_abc(key, sample_prior, simulate, summary, observed, simulations, tolerance):
    def one(key):
        k_data, k_beta = jax.random.split(key)
        beta = sample_prior(k_beta)
        return beta, jnp.ravel(summary(simulate(k_data, beta)))

    both = jax.lax.map(one, jax.random.split(key, simulations), batch_size=1_000)
    beta, found = (np.array(v) for v in both)
    distance = np.linalg.norm(found - np.ravel(summary(observed)), axis=1)
    return beta[distance <= tolerance], distance[distance <= tolerance]
""",
        "scales": """
def scales(pilot):
    pilot = np.array(pilot)
    return np.array([1.4826 * np.median(abs(column - np.median(column))) for column in pilot.T])
""",
        "coverage": """
def central_interval(draws, level):
    tail = 50 * (1 - level)
    return tuple(np.percentile(np.asarray(draws), [tail, 100 - tail]))


def coverage(key, sample_prior, simulate, posterior, repetitions, level=0.9):
    inside = []
    for i in range(repetitions):
        beta = sample_prior(jax.random.fold_in(key, 3 * i))
        data = simulate(jax.random.fold_in(key, 3 * i + 1), beta)
        low, high = central_interval(posterior(jax.random.fold_in(key, 3 * i + 2), data), level)
        inside.append(low < beta < high)
    return np.mean(inside)
""",
        "bus_posterior": """
def bus_summary(data):
    return jnp.stack([data.mean(), jnp.median(data), (data > 10).mean(), data.max()])
"""
        + REST_OF_BUS,
    },
    "sorted buses, SciPy's deviation, and one call for all": {
        "simulate_waits": """
def simulate_waits(key, beta, count, gap=10.0):
    k_passenger, k_delay, k_cancel = jax.random.split(key, 3)
    planned = gap * jnp.arange(60.0)
    delay = jax.random.exponential(k_delay, (count, 60)) * beta[0]
    passenger = gap * jax.random.uniform(k_passenger, (count, 1), minval=30.0, maxval=31.0)
    dropped = jax.random.bernoulli(k_cancel, beta[1], (count, 60))
    left = jnp.sort(jnp.where(dropped, 1e9, planned + delay), axis=1)
    after = jnp.argmax(left >= passenger, axis=1)
    return jnp.take_along_axis(left - passenger, after[:, None], axis=1)[:, 0]
""",
        "rejection_abc": """
def rejection_abc(key, sample_prior, simulate, summary, observed, simulations, tolerance):
    k_beta, k_data = jax.random.split(key)
    beta = jax.vmap(sample_prior)(jax.random.split(k_beta, simulations))
    run = lambda pair: summary(simulate(*pair))  # noqa: E731
    found = jax.lax.map(run, (jax.random.split(k_data, simulations), beta), batch_size=500)
    squares = (found - summary(observed)) ** 2
    distance = jnp.sqrt(squares.reshape(simulations, -1).sum(1))
    (kept,) = np.nonzero(distance <= tolerance)
    return np.asarray(beta[kept]), np.asarray(distance[kept])
""",
        "scales": """
def scales(pilot):
    from scipy.stats import median_abs_deviation

    return median_abs_deviation(np.asarray(pilot), axis=0, scale="normal")
""",
        "coverage": """
def central_interval(draws, level):
    draws = jnp.sort(draws)
    place = (len(draws) - 1) * (0.5 + jnp.array([-0.5, 0.5]) * level)
    return jnp.interp(place, jnp.arange(len(draws)), draws)


def coverage(key, sample_prior, simulate, posterior, repetitions, level=0.9):
    misses = 0
    for _ in range(repetitions):
        key, k_beta, k_data, k_posterior = jax.random.split(key, 4)
        beta = sample_prior(k_beta)
        low, high = central_interval(posterior(k_posterior, simulate(k_data, beta)), level)
        misses += bool((beta < low) | (beta > high))
    return 1 - misses / repetitions
""",
        "bus_posterior": """
def bus_summary(data):
    ordered = jnp.sort(data)
    return jnp.array([ordered[8], ordered[40], ordered[64], ordered[-2]])
"""
        + REST_OF_BUS,
    },
}
