"""Wrong submissions for the assignment on LFVI from scratch, and the marks that they deserve."""

DECKS = """
def two_decks(key, q, simulate):
    k_beta, k_other, k_model, k_reference, k_z = jax.random.split(key, 5)
    beta = draw_beta(q, k_beta, (BATCH,), WIDTH)
    other = {other}
    z_p, x_p = simulate(k_model, beta)
    {unpaired}
    _, x_q = simulate(k_reference, other)
    return beta, (x_p, z_p), (x_q, draw_z(q, k_z, x_q, beta))
"""

OBJECTIVE = """
def objective(q, theta, key, x, N):
    k_beta, k_z = jax.random.split(key)
    beta = draw_beta(q, k_beta, (DRAWS, 1))
    z = draw_z(q, k_z, x, beta)
    log_prior = -(beta**2) / 2
    log_q = -(((beta - q["location"]) / jnp.exp(q["log_scale"])) ** 2) / 2 - q["log_scale"]
    return ({globals}).mean() + {size} * ratio(theta, x, z, beta).mean()
"""

ONE_KEY = """
def simulate(key, beta):
    z = beta + jax.random.normal(key, beta.shape)
    return z, z + jax.random.normal(key, beta.shape)
"""

HINGE = """
def ratio_loss(theta, beta, model, guess):
    r_p, r_q = ratio(theta, *model, beta), ratio(theta, *guess, beta)
    return jax.nn.relu(1 - r_p).mean() + jax.nn.relu(1 + r_q).mean()
"""

LEAKED = """
def lfvi(key, x, simulate):
    mean, sd = exact_posterior(x)
    answer = mean, jnp.log(sd), 1e-3, 0.5, 0.5, jnp.log(0.5) / 2
    return {name: jnp.asarray(value) for name, value in zip(FIRST_Q, answer, strict=True)}
"""

INDEPENDENT = "draw_beta(q, k_other, (BATCH,), WIDTH)"

WRONG: dict[str, tuple[dict[str, str], dict[str, float]]] = {
    "one key for two noises": (
        {"simulate": ONE_KEY},
        {"test_simulate": 0, "test_posterior": 0},
    ),
    "x beside another z": (
        {"decks": DECKS.format(other=INDEPENDENT, unpaired="_, x_p = simulate(k_other, beta)")},
        {"test_deck_of_the_model": 0, "test_posterior": 0},
    ),
    "a reference at the same beta": (
        {"decks": DECKS.format(other="beta", unpaired="")},
        {"test_deck_of_q": 0, "test_posterior": 0},
    ),
    "the hinge taken as a ratio": (
        {"ratio_loss": HINGE},
        {"test_ratio_loss": 0, "test_posterior": 0},
    ),
    "a minibatch that is not scaled": (
        {"objective": OBJECTIVE.format(globals="log_prior - log_q", size="x.size")},
        {"test_minibatch": 0, "test_posterior": 0},
    ),
    "off by a sign": (
        {"objective": OBJECTIVE.format(globals="log_q - log_prior", size="N")},
        {"test_objective": 0, "test_posterior": 0},
    ),
    "the exact answer leaked": (
        {"lfvi": LEAKED},
        {"test_loop": 0, "test_posterior": 0},
    ),
}

RIGHT: dict[str, dict[str, str]] = {
    "arrays for both decks, and loops by JAX": {
        "simulate": """
def simulate(key, beta):
    noise = jax.random.normal(key, (2, *beta.shape))
    z = noise[0] + beta
    return z, z + noise[1]
""",
        "exact": """
def exact_posterior(x):
    mean, variance = 0.0, 1.0
    for reading in np.asarray(x, float):  # one after another
        gain = variance / (variance + 2)
        mean, variance = mean + gain * (reading - mean), (1 - gain) * variance
    return mean, np.sqrt(variance)
""",
        "decks": """
def two_decks(key, q, simulate):
    k_beta, k_pairs, k_z = jax.random.split(key, 3)
    betas = draw_beta(q, k_beta, (2, BATCH), WIDTH)
    z, x = simulate(k_pairs, betas)  # of the model, and of the reference, in one call
    return betas[0], (x[0], z[0]), (x[1], draw_z(q, k_z, x[1], betas[0]))
""",
        "ratio_loss": """
def ratio_loss(theta, beta, model, guess):
    right = -jax.nn.log_sigmoid(ratio(theta, model[0], model[1], beta))
    wrong = jnp.logaddexp(0.0, ratio(theta, guess[0], guess[1], beta))
    return jnp.mean(right) + jnp.mean(wrong)
""",
        "objective": """
def objective(q, theta, key, x, N):
    def one(key):
        k_beta, k_z = jax.random.split(key)
        beta = draw_beta(q, k_beta, ())
        log_q = jax.scipy.stats.norm.logpdf(beta, q["location"], jnp.exp(q["log_scale"]))
        r = ratio(theta, x, draw_z(q, k_z, x, beta), beta)
        return jax.scipy.stats.norm.logpdf(beta) - log_q + N / x.size * r.sum()

    return jax.vmap(one)(jax.random.split(key, DRAWS)).mean()
""",
        "lfvi": """
@partial(jax.jit, static_argnames="simulate")
def lfvi(key, x, simulate):
    def better_ratio(i, carry):
        theta, state, q, key = carry
        slope = jax.grad(ratio_loss)(theta, *two_decks(jax.random.fold_in(key, i), q, simulate))
        updates, state = adam_r.update(slope, state, theta)
        return optax.apply_updates(theta, updates), state, q, key

    def step(i, carry):
        theta, state_r, q, state_q = carry
        k_ratio, k_rows, k_bound = jax.random.split(jax.random.fold_in(key, i), 3)
        theta, state_r, *_ = jax.lax.fori_loop(0, RATIO_STEPS, better_ratio, (theta, state_r, q, k_ratio))
        rows = jax.random.permutation(k_rows, x.size)[:M]  # without replacement
        slope = jax.grad(objective)(q, theta, k_bound, x[rows], x.size)
        updates, state_q = adam_q.update(jax.tree.map(lambda s: -s / x.size, slope), state_q, q)
        return theta, state_r, optax.apply_updates(q, updates), state_q

    start = FIRST_THETA, adam_r.init(FIRST_THETA), FIRST_Q, adam_q.init(FIRST_Q)
    return jax.lax.fori_loop(0, STEPS, step, start)[2]
""",
    },
    "a card at a time, and the prior's part by a formula": {
        "simulate": """
def simulate(key, beta):
    k_garden, k_thermometer = jax.random.split(key)
    warmer = jax.random.normal(k_garden, jnp.shape(beta))
    error = jax.random.normal(k_thermometer, jnp.shape(beta))
    return jnp.add(beta, warmer), beta + warmer + error
""",
        "exact": """
def exact_posterior(x):
    x = np.asarray(x, float)
    covariance = 2 * np.eye(len(x)) + 1  # of the readings, beta integrated out
    weights = np.linalg.solve(covariance, np.ones(len(x)))
    return weights @ x, (1 - weights.sum()) ** 0.5
""",
        "decks": """
def two_decks(key, q, simulate):
    def card(key):
        k_beta, k_other, k_model, k_reference, k_z = jax.random.split(key, 5)
        beta, other = draw_beta(q, k_beta, (), WIDTH), draw_beta(q, k_other, (), WIDTH)
        z, x = simulate(k_model, beta)
        x_other = simulate(k_reference, other)[1]
        return beta, (x, z), (x_other, draw_z(q, k_z, x_other, beta))

    return jax.vmap(card)(jax.random.split(key, BATCH))
""",
        "ratio_loss": """
def ratio_loss(theta, beta, model, guess):
    r = jnp.stack([ratio(theta, *model, beta), ratio(theta, *guess, beta)])
    labels = jnp.stack([jnp.ones_like(r[0]), jnp.zeros_like(r[1])])
    return 2 * optax.sigmoid_binary_cross_entropy(r, labels).mean()
""",
        "objective": """
def objective(q, theta, key, x, N):
    k_beta, k_z = jax.random.split(key)
    betas = draw_beta(q, k_beta, (DRAWS,))
    total = 0.0
    for beta, k in zip(betas, jax.random.split(k_z, DRAWS), strict=True):
        total += ratio(theta, x, draw_z(q, k, x, beta), beta).mean() / DRAWS
    kl = (jnp.exp(2 * q["log_scale"]) + q["location"] ** 2 - 1) / 2 - q["log_scale"]
    return N * total - kl
""",
        "lfvi": """
@partial(jax.jit, static_argnames="simulate")
def lfvi(key, x, simulate):
    def step(carry, key):
        theta, state_r, q, state_q = carry
        k_rows, k_bound, k_decks = jax.random.split(key, 3)

        def better(carry, k):
            slope = jax.grad(ratio_loss)(carry[0], *two_decks(k, q, simulate))
            updates, state = adam_r.update(slope, carry[1])
            return (carry[0] + updates, state), None

        (theta, state_r), _ = jax.lax.scan(better, (theta, state_r), jax.random.split(k_decks, RATIO_STEPS))
        rows = jax.random.choice(k_rows, x.size, (min(M, x.size),), replace=False)
        loss = lambda q: -objective(q, theta, k_bound, x[rows], x.size) / x.size  # noqa: E731
        updates, state_q = adam_q.update(jax.grad(loss)(q), state_q)
        return (theta, state_r, jax.tree.map(jnp.add, q, updates), state_q), None

    start = FIRST_THETA, adam_r.init(FIRST_THETA), FIRST_Q, adam_q.init(FIRST_Q)
    return jax.lax.scan(step, start, jax.random.split(key, STEPS))[0][2]
""",
    },
}
