"""Drift and diffusion on one core: trials in a second, and the exact posterior of 50 subjects, by two ways.

Run ``python -m tests.benchmarks.bench_drift_diffusion``: a minute or two, most of it quadrature.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS

from himlib.draws import importance
from himlib.simulators.drift_diffusion import DriftDiffusion
from tests.benchmarks.bench_simulators import best_seconds, report

TRUE = jnp.array([1.2, 0.4, -1.2, -0.8, -1.6, -1.7])


def bench_trials(size=5000):
    contestants = {}
    for name, simulator in (
        ("exact draws", DriftDiffusion()),
        ("100 steps", DriftDiffusion(collapsing=True)),
    ):
        simulate, beta = jax.jit(simulator.model.simulate_batch), jnp.tile(simulator.prior.mean, (size, 1))
        contestants[name] = lambda simulate=simulate, beta=beta: simulate(jax.random.key(0), beta)
    report("trials", 30 * size, best_seconds(contestants, turns=3), "exact draws", {})


def bench_posterior(subjects=50, draws=200):
    """NUTS over globals and locals, beside importance sampling of globals with locals integrated out."""
    simulator = DriftDiffusion()
    _, x = simulator.model.simulate_batch(jax.random.key(9), jnp.tile(TRUE, (subjects, 1)))
    chain = MCMC(NUTS(simulator.hierarchy), num_warmup=500, num_samples=1000, progress_bar=False)
    start = time.process_time()
    chain.run(jax.random.key(1), x, extra_fields=("diverging",))
    beta = np.asarray(chain.get_samples()["beta"])
    print(f"NUTS: {time.process_time() - start:.0f} s, compilation included; of 1000 draws of beta", end=" ")
    print(f"{effective_sample_size(beta[None]).min():.0f} effective at least", end="; ")
    print(f"{chain.get_extra_fields()['diverging'].sum()} divergences")

    @jax.jit
    def log_posterior(beta):
        evidence = jax.vmap(lambda x: simulator.exact_local(x, beta, size=13).log_evidence)(x)
        return jnp.sum(evidence) + simulator.prior.log_prob(beta)

    noise = np.random.default_rng(0).normal(size=(draws // 2, 6))
    noise = np.concatenate([noise, -noise])
    proposed = beta.mean(0) + noise @ np.linalg.cholesky(1.2 * np.cov(beta.T)).T
    start = time.process_time()
    target = np.array([log_posterior(row) for row in proposed.astype(np.float32)])
    weighing = importance(target + (noise**2).sum(1) / 2)
    print(f"quadrature: {time.process_time() - start:.0f} s, k-hat {weighing.k_hat:.2f}")
    mean = weighing.weights @ proposed
    sd = np.sqrt(weighing.weights @ (proposed - mean) ** 2)
    print("difference of means, in sds", np.round((mean - beta.mean(0)) / beta.std(0), 2))
    print("ratio of sds               ", np.round(sd / beta.std(0), 2))


def main():
    bench_trials()
    bench_posterior()


if __name__ == "__main__":
    main()
