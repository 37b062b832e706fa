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
