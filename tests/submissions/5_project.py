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
