"""Hand-ins for assignment 7, wrong ones with the marks that they deserve, and other right ones."""

PEOPLE = """
def make_people(b, c):
    return CausalModel(
        {{
            "z": lambda key, v: jax.random.bernoulli(key, 0.5).astype(float),
            "x": lambda key, v: {copies},
            "y": lambda key, v: c * v["z"] + b * v["x"] + {noise},
        }}
    )
"""

TWO = """
def seen(model, key, size, cause, outcome, low, high):
    {seen}


def done(model, key, size, cause, outcome, low, high):
    {done}
"""

SEEN = "people = model.sample(key, size)\n"
SEEN += "    pairs = list(zip(people[cause].tolist(), people[outcome].tolist(), strict=True))\n"
SEEN += "    return np.mean([y for a, y in pairs if a == high]) - np.mean([y for a, y in pairs if a == low])"
DONE = "up, down = (model.do(**{cause: at}).sample(key, size)[outcome] for at in (high, low))\n"
DONE += "    return (up - down).mean()"

SCAN = """
def scan(genotypes, y, covariates):
    fixed = np.column_stack([np.ones(len(y)), np.asarray(covariates, float)])
    statistics = []
    for snp in np.asarray(genotypes, float).T:
        design = np.column_stack([{design}])
        inverse = np.linalg.pinv(design.T @ design)
        slope = inverse @ design.T @ np.asarray(y, float)
        rest = ((y - design @ slope) ** 2).sum() / ({freedom})
        statistics.append(slope[-1] / np.sqrt(rest * inverse[-1, -1]))
    return np.array(statistics)


def components(genotypes, count):
    genotypes = np.asarray(genotypes, float)
    {components}


def calls(t, level):
    {calls}
"""
FINE = {
    "design": "fixed, snp",
    "freedom": "len(y) - design.shape[1]",
    "components": "sd = genotypes.std(0)\n    u = (genotypes - genotypes.mean(0)) / np.where(sd, sd, 1)\n"
    "    return np.linalg.eigh(u @ u.T)[1][:, ::-1][:, :count]",
    "calls": "return np.abs(np.asarray(t)) > jax.scipy.stats.norm.isf(level / np.size(t) / 2)",
}

WORLD = """
def other_world(a, sigma, b, c, t, k):
    solved = a / (sigma**2 + a @ a)
    return b + k * c * solved, (1 - k) * c, {t}
"""

WRONG: dict[str, tuple[dict[str, str], dict[str, float]]] = {
    "copies of one draw": (
        {
            "make_people": PEOPLE.format(
                copies='2.0 * jax.random.bernoulli(key, 0.2 + 0.6 * v["z"])',
                noise="0.5 * jax.random.normal(key)",
            )
        },
        {"test_make_people": 0},
    ),
    "an intervention by looking": (
        {
            "seen_and_done": TWO.format(
                seen=SEEN, done="return seen(model, key, size, cause, outcome, low, high)"
            )
        },
        {"test_done": 0},
    ),
    "the other way around": (
        {"seen_and_done": TWO.format(seen=SEEN.replace("return ", "return -1 * (") + ")", done=DONE)},
        {"test_seen": 0},
    ),
    "shares of those who have the value": (
        {"adjusted": "def adjusted(z, x, y, value):\n    return y[x == value].mean()"},
        {"test_adjusted": 0},
    ),
    "degrees of freedom without covariates, and one side": (
        {
            "scan": SCAN.format(
                **FINE
                | {
                    "freedom": "len(y) - 2",
                    "calls": "return t > jax.scipy.stats.norm.isf(level / t.size / 2)",
                }
            )
        },
        {"test_scan": 0, "test_calls": 0},
    ),
    "no constant, genotypes that are not centered, no Bonferroni": (
        {
            "scan": SCAN.format(
                **FINE
                | {
                    "design": "fixed[:, 1:], snp",
                    "components": "return np.linalg.svd(genotypes, full_matrices=False)[0][:, :count]",
                    "calls": "return np.abs(np.asarray(t)) > jax.scipy.stats.norm.isf(level / 2)",
                }
            )
        },
        {"test_scan": 0, "test_components": 0, "test_calls": 0},
    ),
    "noise that stays as it is": (
        {"other_world": WORLD.format(t="t")},
        {"test_other_world": 0},
    ),
}

SHARES = """
EAST, WEST = jnp.array([0.04, 0.32, 0.64]), jnp.array([0.64, 0.32, 0.04])  # of 0, 1 and 2 copies
"""

RIGHT: dict[str, dict[str, str]] = {
    "NumPy and loops": {
        "make_people": SHARES
        + PEOPLE.format(
            copies='1.0 * jax.random.choice(key, 3, p=jnp.where(v["z"] > 0, EAST, WEST))',
            noise="jax.random.normal(key) / 2",
        ),
        "seen_and_done": TWO.format(seen=SEEN, done=DONE),
        "adjusted": """
def adjusted(z, x, y, value):
    z, x, y = (np.asarray(v).tolist() for v in (z, x, y))
    total = 0.0
    for level in sorted(set(z)):
        inside = [c for a, b, c in zip(z, x, y, strict=True) if a == level and b == value]
        total += z.count(level) / len(z) * sum(inside) / len(inside)
    return total
""",
        "scan": SCAN.format(**FINE),
        "other_world": WORLD.format(
            t="jnp.sqrt(t**2 + c**2 * sigma**2 / (sigma**2 + a @ a) * (1 - (1 - k) ** 2))"
        ),
    },
    "weights, maps and other keys": {
        "make_people": PEOPLE.format(
            copies='(jax.random.uniform(key, (2,)) < jnp.where(v["z"] == 1, 0.8, 0.2)).sum() * 1.0',
            noise="jax.random.normal(jax.random.fold_in(key, 5)) * 0.5",
        ),
        "seen_and_done": TWO.format(
            seen="people = model.sample(jax.random.fold_in(key, 1), size)\n"
            "    up, down = people[cause] == high, people[cause] == low\n"
            "    return people[outcome] @ (up / up.sum() - down / down.sum())",
            done="k_high, k_low = jax.random.split(key)\n"
            "    high = model.do(**{cause: jnp.array(high)}).sample(k_high, size)[outcome]\n"
            "    low = model.do(**{cause: jnp.array(low)}).sample(k_low, size)[outcome]\n"
            "    return high.mean() - low.mean()",
        ),
        "adjusted": """
def adjusted(z, x, y, value):
    # Each person counts by how rare the value is among people like this one.
    alike = z[:, None] == z
    chance = (alike & (x == value)).sum(1) / alike.sum(1)
    return jnp.where(x == value, y / chance, 0.0).mean()
""",
        "scan": """
def scan(genotypes, y, covariates):
    fixed = jnp.concatenate([jnp.ones((len(y), 1)), covariates], axis=1)
    freedom = len(y) - fixed.shape[1] - 1

    def left(v):
        return v - fixed @ jnp.linalg.lstsq(fixed, v)[0]

    def one(snp):
        u, v = left(snp), left(y)
        r = u @ v / jnp.sqrt((u @ u) * (v @ v))  # the partial correlation
        return r * jnp.sqrt(freedom / (1 - r**2))

    return jax.vmap(one)(genotypes.T)


def components(genotypes, count):
    u = jnp.nan_to_num((genotypes - genotypes.mean(0)) / genotypes.std(0))
    _, vectors = jnp.linalg.eigh(u.T @ u)
    return u @ vectors[:, : -count - 1 : -1]


def calls(t, level):
    p = 2 * jax.scipy.stats.norm.sf(jnp.abs(t))
    return p * t.size < level
""",
        "other_world": """
def other_world(a, sigma, b, c, t, k):
    a, b = np.asarray(a, float), np.asarray(b, float)
    covariance = np.outer(a, a) + sigma**2 * np.eye(len(a))
    new_c = (1 - k) * c
    new_b = np.linalg.inv(covariance) @ (covariance @ b + (c - new_c) * a)

    def variance(b, c):
        return b @ covariance @ b + 2 * c * (a @ b) + c**2

    return new_b, new_c, np.sqrt(variance(b, c) + t**2 - variance(new_b, new_c))
""",
    },
}
