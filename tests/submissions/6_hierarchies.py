"""Hand-ins for assignment 6, wrong ones with the marks that they deserve, and other right ones."""

MARGINAL = """
def log_marginal(x, mu, tau, sigma):
    {covariance}
    far = x - jnp.asarray(mu)[..., None]
    return jax.scipy.stats.multivariate_normal.logpdf(far, jnp.zeros(x.shape[-1]), covariance)
"""

LOCALS = """
def local(x, mu, tau, sigma):
    weight = {weight}
    return mu + weight * (x.mean(1) - mu), (weight / x.shape[1]) ** 0.5 * sigma


def locals_of_all(x, tau, sigma, prior_sd):
    mean_mu, sd_mu = posterior_of_mu(x, tau, sigma, prior_sd)
    mean, sd = local(x, mean_mu, tau, sigma)
    return mean, {sd}
"""

WRONG: dict[str, tuple[dict[str, str], dict[str, float]]] = {
    "a new z for each weighing": (
        {
            "simulate": """
def simulate(key, mu, tau, sigma, size):
    k_z, k_other, k_x = jax.random.split(key, 3)
    z = mu + tau * jax.random.normal(k_z, mu.shape)
    each = mu[:, None] + tau * jax.random.normal(k_other, (*mu.shape, size))
    return z, each + sigma * jax.random.normal(k_x, each.shape)
"""
        },
        {"test_simulate": 0},
    ),
    "weighings taken as independent": (
        {
            "log_marginal": MARGINAL.format(
                covariance="covariance = (tau**2 + sigma**2) * jnp.eye(x.shape[-1])"
            )
        },
        {"test_log_marginal": 0},
    ),
    "the reference's average of logarithms": (
        {
            "log_ratio": """
def log_ratio(x, mu, proposed, tau, sigma):
    each = log_marginal(x[:, None], proposed[None], tau, sigma)
    return log_marginal(x, mu, tau, sigma) - each.mean(1)
"""
        },
        {"test_log_ratio": 0},
    ),
    "as many data as weighings": (
        {
            "posterior_of_mu": """
def posterior_of_mu(x, tau, sigma, prior_sd):
    precision = x.size / (tau**2 + sigma**2) + prior_sd**-2
    return x.sum() / (tau**2 + sigma**2) / precision, precision**-0.5
"""
        },
        {"test_posterior_of_mu": 0},
    ),
    "a sum over what was simulated": (
        {
            "centered_score": """
def centered_score(estimate, mu, x, simulated, prior_sd):
    return estimate(x, mu).sum() - estimate(simulated, mu).sum() - mu / prior_sd**2
"""
        },
        {"test_centered_score": 0},
    ),
    "one weighing's weight, and locals at the mean": (
        {"local": LOCALS.format(weight="tau**2 / (tau**2 + sigma**2)", sd="sd")},
        {"test_local": 0, "test_locals_of_all": 0},
    ),
    "locals at the mean of the global": (
        {"local": LOCALS.format(weight="tau**2 / (tau**2 + sigma**2 / x.shape[1])", sd="sd")},
        {"test_locals_of_all": 0},
    ),
}

RIGHT: dict[str, dict[str, str]] = {
    "matrices and loops": {
        "simulate": """
def simulate(key, mu, tau, sigma, size):
    noise = jax.random.normal(key, (len(mu), 1 + size))
    z = mu + noise[:, 0] * tau
    return z, jnp.stack([z + sigma * noise[:, 1 + j] for j in range(size)], axis=1)
""",
        "log_marginal": MARGINAL.format(
            covariance="covariance = sigma**2 * jnp.eye(x.shape[-1]) + tau**2 * jnp.ones((x.shape[-1],) * 2)"
        ),
        "log_ratio": """
def log_ratio(x, mu, proposed, tau, sigma):
    differences = [log_marginal(x, m, tau, sigma) - log_marginal(x, mu, tau, sigma) for m in proposed]
    return jnp.log(len(proposed)) - jax.scipy.special.logsumexp(jnp.stack(differences), axis=0)
""",
        "posterior_of_mu": """
def posterior_of_mu(x, tau, sigma, prior_sd):
    mean, variance = 0.0, prior_sd**2
    for hive in np.asarray(x):  # one hive after another
        gain = variance / (variance + tau**2 + sigma**2 / len(hive))
        mean, variance = mean + gain * (hive.mean() - mean), (1 - gain) * variance
    return mean, np.sqrt(variance)
""",
        "centered_score": """
def centered_score(estimate, mu, x, simulated, prior_sd):
    bias = jnp.mean(estimate(simulated, mu))
    return jnp.sum(estimate(x, mu) - bias) - mu / prior_sd**2
""",
        "local": """
def local(x, mu, tau, sigma):
    precision = 1 / tau**2 + x.shape[1] / sigma**2
    return (mu / tau**2 + x.sum(1) / sigma**2) / precision, precision**-0.5


def locals_of_all(x, tau, sigma, prior_sd):
    x = np.asarray(x, float)
    prior = prior_sd**2 + tau**2 * np.eye(len(x))
    gain = prior @ np.linalg.inv(prior + sigma**2 / x.shape[1] * np.eye(len(x)))
    return gain @ x.mean(1), np.sqrt(np.diag(prior - gain @ prior))
""",
    },
    "maps, slopes and NumPy": {
        "simulate": """
def simulate(key, mu, tau, sigma, size):
    def one(key, mu):
        k_z, k_x = jax.random.split(key)
        z = mu + tau * jax.random.normal(k_z)
        return z, z + sigma * jax.random.normal(k_x, (size,))

    return jax.vmap(one)(jax.random.split(key, len(mu)), mu)
""",
        "log_marginal": """
def log_marginal(x, mu, tau, sigma):
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    z = jnp.asarray(mu)[..., None] + tau * nodes
    logs = jax.scipy.stats.norm.logpdf(jnp.asarray(x)[..., None], z[..., None, :], sigma).sum(-2)
    return jax.scipy.special.logsumexp(logs, b=weights / weights.sum(), axis=-1)
""",
        "log_ratio": """
def log_ratio(x, mu, proposed, tau, sigma):
    x = np.asarray(x, float)
    variance = tau**2 + sigma**2 / x.shape[1]  # the mean of a hive is enough

    def energy(mu):
        return -((x.mean(1) - mu) ** 2) / (2 * variance)

    return energy(mu) - np.logaddexp.reduce([energy(float(m)) for m in proposed]) + np.log(len(proposed))
""",
        "posterior_of_mu": """
def posterior_of_mu(x, tau, sigma, prior_sd):
    def log_joint(mu):
        variance = tau**2 + sigma**2 / x.shape[1]
        return -((x.mean(1) - mu) ** 2).sum() / (2 * variance) - mu**2 / (2 * prior_sd**2)

    curvature = -jax.hessian(log_joint)(0.0)
    return jax.grad(log_joint)(0.0) / curvature, 1 / jnp.sqrt(curvature)
""",
        "centered_score": """
def centered_score(estimate, mu, x, simulated, prior_sd):
    both = np.asarray(estimate(jnp.concatenate([x, simulated]), mu), float)
    return (both[: len(x)].mean() - both[len(x) :].mean()) * len(x) - mu / prior_sd**2
""",
        "local": """
def local(x, mu, tau, sigma):
    mean = np.asarray(x, float).mean(1)
    share = 1 / (1 + sigma**2 / (x.shape[1] * tau**2))
    return (1 - share) * np.asarray(mu) + share * mean, np.full(len(mean), tau * np.sqrt(1 - share))


def locals_of_all(x, tau, sigma, prior_sd):
    mean_mu, sd_mu = posterior_of_mu(x, tau, sigma, prior_sd)
    low, high = (local(x, mean_mu + side * sd_mu, tau, sigma)[0] for side in (-1, 1))
    mean, sd = local(x, mean_mu, tau, sigma)
    return mean, np.hypot(sd, (np.asarray(high) - np.asarray(low)) / 2)
""",
    },
}
