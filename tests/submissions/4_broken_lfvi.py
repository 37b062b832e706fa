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
