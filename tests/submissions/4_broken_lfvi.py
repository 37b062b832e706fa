"""Hand-ins for assignment 4 that look right and are not, with the marks that they deserve."""

MENDED = """
def simulate_pairs(key, beta, c):
    k_change, k_gauge = jax.random.split(key)
    z = true_change(k_change, beta, c)
    return z, z + 0.6 * normal(k_gauge, c.shape)


def features_with_rain(x, z, beta, c):
    u = jnp.stack([jnp.ones_like(x), x, z, beta * c], axis=-1)
    rows, columns = np.triu_indices(4)
    return u[..., rows] * u[..., columns]


def elbo_of_all(log_prior, log_q, r, size):
    return (log_prior - log_q) / size + r.mean()


mended = broken | {"simulate": simulate_pairs, "features": features_with_rain, "elbo": elbo_of_all}
"""


def changed(old: str, new: str) -> str:
    assert old in MENDED
    return MENDED.replace(old, new)


WRONG = {
    "the rain beside beta, and not times it": (
        {
            "mended": changed("x, z, beta * c]", "x, z, beta, c]").replace(
                "triu_indices(4)", "triu_indices(5)"
            )
        },
        {"test_mended_ratio": 0, "test_mended_program": 0},
    ),
    "the minibatch's mean in place of its sum": (
        {"mended": changed("/ size + r.mean()", "+ r.mean()")},
        {"test_mended_bound": 0, "test_mended_program": 0},
    ),
    "one key for the change and for the gauge": (
        {"mended": changed("k_change, k_gauge = jax.random.split(key)", "k_change = k_gauge = key")},
        {"test_mended_simulator": 0, "test_mended_program": 0},
    ),
    "two faults of three, and instruments that rain misleads": (
        {
            "mended": changed(', "elbo": elbo_of_all', ""),
            "pair_correlation": """
def pair_correlation(simulate, key, beta, c):
    z, x = simulate(key, beta, c)
    return jnp.corrcoef(z, x)[0, 1]
""",
            "shuffle_change": """
def shuffle_change(log_ratio, key, x, z, beta, c):
    order = jax.random.permutation(key, len(c))
    change = log_ratio(x[order], z[order], beta[order], c[order]) - log_ratio(x, z, beta, c)
    return jnp.sqrt((change**2).mean())
""",
        },
        {
            "test_pair_correlation": 0,
            "test_shuffle_change": 0,
            "test_mended_bound": 0,
            "test_mended_program": 0,
        },
    ),
    "the gauge's noise alone, and a regression the wrong way around": (
        {
            "exact_answers": """
def exact_posterior(x, c):
    precision = 1 + (c**2).sum() / 0.6**2
    return (c * x).sum() / 0.6**2 / precision, precision**-0.5


def exact_local(x, beta, c):
    return beta * c + 0.64 * (x - beta * c), 0.48
""",
            "calibration_slope": """
def calibration_slope(sum_of_r, x, c, beta):
    exact = norm.logpdf(x, beta[:, None] * c).sum(1)
    r = sum_of_r - sum_of_r.mean()
    return (r @ r) / (r @ (exact - exact.mean()))
""",
        },
        {"test_exact": 0, "test_calibration_slope": 0},
    ),
    "an answer learned by heart": (
        {"pair_correlation": "def pair_correlation(simulate, key, beta, c):\n    return jnp.array(1.0)\n"},
        {"test_pair_correlation": 0},
    ),
}


RIGHT: dict[str, dict[str, str]] = {
    "NumPy, precisions, and the bound of all data": {
        "exact_answers": """
TRUE_SD, GAUGE_SD = 0.8, 0.6


def exact_posterior(x, c):
    mean, variance = 0.0, 1.0
    for reading, rain in zip(np.asarray(x, float), np.asarray(c, float), strict=True):
        gain = variance * rain / (rain**2 * variance + 1)
        mean, variance = mean + gain * (reading - rain * mean), variance * (1 - gain * rain)
    return mean, np.sqrt(variance)


def exact_local(x, beta, c):
    precision = TRUE_SD**-2 + GAUGE_SD**-2
    return (beta * c / TRUE_SD**2 + x / GAUGE_SD**2) / precision, precision**-0.5
""",
        "pair_correlation": """
def pair_correlation(simulate, key, beta, c):
    z, x = (np.asarray(v - beta * c, float) for v in simulate(key, beta, c))
    return np.corrcoef(z, x)[0, 1]
""",
        "shuffle_change": """
def shuffle_change(log_ratio, key, x, z, beta, c):
    order = np.asarray(jax.random.permutation(key, len(c)))
    change = np.asarray(log_ratio(x, z, beta, c[order])) - np.asarray(log_ratio(x, z, beta, c))
    return np.linalg.norm(change) / len(change) ** 0.5
""",
        "calibration_slope": """
def calibration_slope(sum_of_r, x, c, beta):
    exact = [-((np.asarray(x, float) - float(b) * np.asarray(c, float)) ** 2).sum() / 2 for b in beta]
    return np.polyfit(exact, np.asarray(sum_of_r, float), 1)[0]
""",
        "mended": """
def pairs(key, beta, c):
    noise = normal(key, (2, *c.shape))
    z = beta * c + 0.8 * noise[0]
    return z, z + 0.6 * noise[1]


def written_out(x, z, beta, c):
    mean = beta * c
    terms = [1 + 0 * x, x, z, mean, x * x, z * z, mean * mean, x * z, x * mean, z * mean]
    return jnp.stack(terms, axis=-1)


def all_data(log_prior, log_q, r, size):
    return log_prior - log_q + size * jnp.mean(r)


mended = {**broken, "simulate": pairs, "features": written_out, "elbo": all_data}
""",
    },
    "sums of squares, a rotation, and more features": {
        "exact_answers": """
TRUE_SD, GAUGE_SD = 0.8, 0.6


def exact_posterior(x, c):
    rows, right = jnp.append(c, 1.0)[:, None], jnp.append(x, 0.0)  # the prior is one datum more
    mean = jnp.linalg.lstsq(rows, right)[0][0]
    return mean, 1 / jnp.linalg.norm(rows)


def exact_local(x, beta, c):
    mean = 0.36 * beta * c + 0.64 * x
    return mean, jnp.full(jnp.shape(mean), 0.48)
""",
        "pair_correlation": """
def pair_correlation(simulate, key, beta, c):
    z, x = simulate(key, beta, c)
    u, v = z - beta * c, x - beta * c
    u, v = u - u.mean(), v - v.mean()
    return (u * v).sum() / jnp.sqrt((u**2).sum() * (v**2).sum())
""",
        "shuffle_change": """
def shuffle_change(log_ratio, key, x, z, beta, c):
    shift = jax.random.randint(key, (), 1, len(c))  # nobody keeps his own
    change = log_ratio(x, z, beta, jnp.roll(c, shift)) - log_ratio(x, z, beta, c)
    return jnp.mean(change**2) ** 0.5
""",
        "calibration_slope": """
def calibration_slope(sum_of_r, x, c, beta):
    exact = jax.vmap(lambda b: norm.logpdf(x - b * c).sum())(beta)
    both = jnp.cov(exact, sum_of_r)
    return both[0, 1] / both[0, 0]
""",
        "mended": """
mended = dict(broken)


def simulate_mended(key, beta, c):
    k_change, k_gauge, _ = jax.random.split(key, 3)
    z = true_change(k_change, beta, c)
    return z, jnp.add(z, GAUGE_SD * normal(k_gauge, z.shape))


def features_of_differences(x, z, beta, c):
    u = jnp.stack([jnp.ones_like(x), x - beta * c, z - beta * c, beta * c], axis=-1)
    return jnp.concatenate([u, u[..., 1:] ** 2, u[..., 1:] * jnp.roll(u[..., 1:], 1, axis=-1)], axis=-1)


mended["simulate"] = simulate_mended
mended["features"] = features_of_differences
mended["elbo"] = lambda log_prior, log_q, r, size: (log_prior - log_q + r.sum() * (size / r.size)) / size
""",
    },
}
