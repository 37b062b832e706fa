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
