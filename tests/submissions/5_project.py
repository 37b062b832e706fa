"""Hand-ins for assignment 5 that look right and are not, with the marks that they deserve."""

MODEL = """
def make_model(simulator):
    def simulate(key, beta, covariate):
        return None, simulator.simulate(key, jnp.exp(beta))

    prior = dist.Normal(simulator.location, simulator.scale).to_event(1)
    return HierarchicalImplicitModel(prior, simulate=simulate)
"""

INTERVALS = """
def intervals(draws, level):
    return jnp.quantile(jnp.exp(draws), jnp.array([(1 - level) / 2, (1 + level) / 2]), axis=0).T
"""

COVERAGE = """
def coverage(truth, draws, level):
    low, high = jnp.quantile(draws, jnp.array([(1 - level) / 2, (1 + level) / 2]), axis=1)
    return ((low <= truth) & (truth <= high)).mean(0)
"""


def changed(source: str, old: str, new: str) -> str:
    assert old in source
    return source.replace(old, new)


WRONG = {
    "one tail counted, and normal intervals": (
        {
            "coverage": changed(COVERAGE, "(low <= truth) & (truth <= high)", "truth <= high"),
            "intervals": """
def intervals(draws, level):
    reach = jax.scipy.stats.norm.ppf((1 + level) / 2) * draws.std(0)
    return jnp.exp(jnp.stack([draws.mean(0) - reach, draws.mean(0) + reach], axis=1))
""",
        },
        {"test_coverage": 0, "test_intervals": 0},
    ),
    "intervals of the logarithms, and the tails of another level": (
        {
            "intervals": changed(INTERVALS, "jnp.exp(draws)", "draws"),
            "coverage": changed(COVERAGE, "(1 - level) / 2, (1 + level) / 2", "1 - level, level"),
        },
        {"test_intervals": 0, "test_coverage": 0},
    ),
    "another map to the positive numbers, which nobody sees who looks at shapes alone": (
        {"make_model": changed(MODEL, "jnp.exp(beta)", "jnp.log1p(jnp.exp(beta))")},
        {"test_model_laws": 0},
    ),
    "a summary of the total alone, with a logarithm of nothing": (
        {
            "summary": """
def summary(x):
    return jnp.log(jnp.stack([x.sum(), x[-1]]))
"""
        },
        {"test_summary_bounds": 0, "test_summary_tells": 0, "test_inference": 0, "test_study": 0},
    ),
    "a prior of another width": (
        {"make_model": changed(MODEL, "simulator.scale)", "1.5 * simulator.scale)")},
        {"test_model_laws": 0, "test_inference": 0},
    ),
    "an answer learned by heart": (
        {
            "coverage": "def coverage(truth, draws, level):\n    return jnp.arange(truth.shape[1]) < 1\n",
            "intervals": changed(INTERVALS, "(1 - level) / 2, (1 + level) / 2", "0.5 - 0.4 * level, 0.95"),
        },
        {"test_coverage": 0, "test_intervals": 0},
    ),
}

RIGHT: dict[str, dict[str, str]] = {
    "a prior of independent parts, and loops": {
        "make_model": """
def make_model(simulator):
    prior = dist.Independent(dist.Normal(simulator.location, simulator.scale), 1)

    def simulate(key, beta, covariate):
        del covariate
        return None, simulator.simulate(key, jnp.exp(beta))

    return HierarchicalImplicitModel(prior=prior, simulate=simulate)
""",
        "summary": """
def summary(x):
    x = jnp.sort(x) if CHOICE != "sir" else x
    if CHOICE == "g_and_k":
        return jnp.arcsinh(x[jnp.array([1, 6, 12, 18, 24, 31, 37, 43, 48])])
    return jnp.concatenate([jnp.log1p(x), jnp.log1p(jnp.array([x.mean(), x.max()]))])
""",
        "inference": """
STEPS = 600
network = ratio_network(
    lambda x, z, beta, covariate, center: jnp.concatenate([beta, summary(x)]), (32, 32)
)
algorithm = build(network, cosine_adam(5e-3, STEPS), STEPS, 256)
result = fit(jax.random.key(SEED + 7), algorithm, Data(observed), STEPS, progress=False)
""",
        "intervals": """
def intervals(draws, level):
    tails = [50 * (1 - level), 50 * (1 + level)]
    return np.array([np.percentile(np.exp(np.asarray(column)), tails) for column in draws.T])
""",
        "coverage": """
def coverage(truth, draws, level):
    hits = np.zeros(truth.shape[1])
    for beta, sample in zip(np.asarray(truth), np.asarray(draws), strict=True):
        low, high = np.quantile(sample, [(1 - level) / 2, (1 + level) / 2], axis=0)
        hits += (low < beta) & (beta < high)
    return hits / len(truth)
""",
    },
    "a multivariate prior, and ranks": {
        "make_model": """
def make_model(simulator):
    d = len(simulator.names)
    return HierarchicalImplicitModel(
        dist.Normal(simulator.location, simulator.scale).expand([d]).to_event(1),
        simulate=lambda key, beta, covariate: (None, simulator.simulate(key, jnp.exp(beta))),
    )
""",
        "summary": """
def summary(x):
    if CHOICE == "sir":
        return jnp.append(jnp.sqrt(x) / 3, jnp.log1p(x))
    at = jnp.quantile(x, jnp.array([0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98]))
    return jnp.log(at) if CHOICE == "queue" else jnp.append(jnp.log(jnp.diff(at) + 1e-6), at[3])
""",
        "inference": """
STEPS = 800


def features(x, z, beta, covariate, center):
    return jnp.append(summary(x), beta - simulator.location)


network = ratio_network(features, (48,))
algorithm = build(network, cosine_adam(1e-2, STEPS), STEPS, 200)
result = fit(jax.random.key(0), algorithm, Data(observed), STEPS, progress=False)
""",
        "intervals": """
def intervals(draws, level):
    low, high = (jnp.quantile(draws, 0.5 + side * level / 2, axis=0) for side in (-1, 1))
    return jnp.exp(jnp.stack([low, high], axis=-1))
""",
        "coverage": """
def coverage(truth, draws, level):
    at = 0.5 + jnp.array([-0.5, 0.5]) * level
    ends = jax.vmap(lambda sample: jnp.exp(jnp.quantile(sample, at, axis=0)))(draws)
    return jnp.mean((ends[:, 0] <= jnp.exp(truth)) & (jnp.exp(truth) <= ends[:, 1]), axis=0)
""",
    },
}
