"""Other people's software for 17_simulation_based_inference.py: arrays in, draws out.

There is nothing to run here. sbi and sbijax are imported where they are called, since each lives in an
environment of its own, which the script's first lines make.
"""

from contextlib import chdir

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.infer import MCMC, NUTS, init_to_value


def nuts(prior, log_likelihood, seed):
    """Four chains of numpyro's NUTS, from the prior's mean."""

    def model():
        numpyro.factor("data", log_likelihood(numpyro.sample("beta", prior)))

    kernel = NUTS(model, dense_mass=True, init_strategy=init_to_value(values={"beta": prior.mean}))
    chains = {"num_chains": 4, "chain_method": "vectorized", "progress_bar": False}
    sampler = MCMC(kernel, num_warmup=500, num_samples=1000, **chains)
    sampler.warmup(jax.random.key(seed), extra_fields=("num_steps",), collect_warmup=True)
    gradients = sampler.get_extra_fields()["num_steps"].sum()
    sampler.run(jax.random.key(seed), extra_fields=("num_steps",))
    gradients = int(gradients + sampler.get_extra_fields()["num_steps"].sum())
    draws = np.asarray(sampler.get_samples(group_by_chain=True)["beta"], np.float64)
    report = {
        "r_hat": round(float(numpyro.diagnostics.split_gelman_rubin(draws).max()), 4),
        "ess": round(float(numpyro.diagnostics.effective_sample_size(draws).min())),
        "gradients": gradients,
    }
    return draws.reshape(-1, draws.shape[-1]), report


def torch_normal(prior):
    """A numpyro prior of independent normals, as torch has it."""
    import torch

    mean, variance = (torch.tensor(np.array(moment)) for moment in (prior.mean, prior.variance))
    return torch.distributions.MultivariateNormal(mean, torch.diag(variance))


def sbi(method, prior, beta, x, seed, folder):
    """Train a network of sbi; return what draws from the posterior of an x, and the epochs that it took.

    Defaults, but for what saves time where there are chains: NLE learns a mixture of ten normals in place
    of a flow, and fifty chains warm up for 30 steps in place of twenty for 200.
    """
    import torch
    from sbi import inference

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    network = {"density_estimator": "mdn"} if method == "NLE" else {}
    with chdir(folder):  # where it leaves its logs
        trainer = getattr(inference, method)(torch_normal(prior), show_progress_bars=False, **network)
    trainer.append_simulations(torch.tensor(beta), torch.tensor(x)).train()
    chains = {} if method == "NPE" else {"mcmc_parameters": {"warmup_steps": 30, "num_chains": 50}}
    posterior = trainer.build_posterior(**chains)

    def draw(observed, seed):
        torch.manual_seed(seed)
        return posterior.sample((500,), x=torch.tensor(observed), show_progress_bars=False).numpy(), {}

    return draw, {"epochs": trainer.summary["epochs_trained"][-1]}


def sbijax(method, prior, beta, x, seed, folder):
    """The same with sbijax and its defaults. Standardizing, which sbi does itself, is left to its callers."""
    from sbijax import nle, npe, nre, sample, train
    from sbijax.mcmc import make_sampler, nuts
    from sbijax.nn import make_maf, make_mlp
    from tensorflow_probability.substrates.jax import distributions

    size = beta.shape[1]
    objective = {
        "NPE": lambda: npe(make_maf(size)),
        "NLE": lambda: nle(make_maf(x.shape[1])),
        "NRE": lambda: nre(make_mlp()),
    }[method]()
    center, scale = np.array(prior.mean), np.sqrt(np.array(prior.variance))
    x_center, x_scale = x.mean(0), x.std(0)
    data = {"theta": (beta - center) / scale, "y": (x - x_center) / x_scale}
    params, info = train(jax.random.key(seed), objective, data)
    standard = distributions.JointDistributionNamed(
        {"theta": distributions.Normal(jnp.zeros(size), 1.0)}, batch_ndims=0
    )
    chains = {} if method == "NPE" else {"sampler": make_sampler(nuts, prior=standard)}

    def draw(observed, seed):
        observed = jnp.asarray((observed - x_center) / x_scale)
        found, info = sample(jax.random.key(seed), objective, params, observed, prior=standard, **chains)
        report = {"r_hat": round(float(info.rhat["theta"].max()), 3)} if chains else {}
        return np.asarray(found["theta"]).reshape(-1, size) * scale + center, report

    return draw, {"epochs": len(info.losses)}


def rounds_of_npe(prior, simulate, observed, seed, folder, sizes):
    """NPE for one data set: each round simulates where the last one's posterior is.

    NPE-C, the default of sbi. NPE-A with one normal was tried on seeds 100 and 101; on 101 it went astray.
    """
    import torch
    from sbi.inference import NPE

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    prior = proposal = torch_normal(prior)
    with chdir(folder):
        trainer = NPE(prior, show_progress_bars=False)
    for size in sizes:
        beta = proposal.sample((size,))
        x = torch.tensor(simulate(beta.numpy()))
        trainer.append_simulations(beta, x, proposal=proposal).train()
        proposal = trainer.build_posterior().set_default_x(torch.tensor(observed))
    draws = proposal.sample((500,), show_progress_bars=False)
    return draws.numpy(), {"epochs": trainer.summary["epochs_trained"]}


def hnpe(prior, prior_of_z, beta, z, x, seed, folder):
    """Two flows of sbi: of beta given a set x, with a learned summary, and of z_1 given x_1 and beta.

    The losses share no weights: the minimum of their sum is the minimum of each.
    """
    import torch
    from sbi.inference import NPE
    from sbi.neural_nets import posterior_nn
    from sbi.neural_nets.embedding_nets import FCEmbedding, PermutationInvariantEmbedding

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    beta, z, x = (torch.tensor(array) for array in (beta, z, x))
    summary = PermutationInvariantEmbedding(FCEmbedding(1), 20, aggregation_fn="mean")
    network = posterior_nn("maf", z_score_x="structured", embedding_net=summary)
    with chdir(folder):
        globals_, locals_ = (
            NPE(torch_normal(prior), density_estimator=network, show_progress_bars=False),
            NPE(torch_normal(prior_of_z), show_progress_bars=False),
        )
    globals_.append_simulations(beta, x[..., None]).train()
    locals_.append_simulations(z[:, :1], torch.cat([x[:, :1], beta], 1)).train()
    of_beta, of_z = globals_.build_posterior(), locals_.build_posterior()

    def draw(observed, seed):
        torch.manual_seed(seed)
        observed = torch.tensor(observed)
        betas = of_beta.sample((500,), x=observed[None, :, None], show_progress_bars=False)
        pairs = torch.cartesian_prod(betas[:, 0], observed).flip(1)
        draws = of_z.sample_batched((1,), x=pairs, show_progress_bars=False)
        return betas.numpy(), draws.reshape(len(betas), len(observed)).numpy()

    return draw, {"epochs": [part.summary["epochs_trained"][-1] for part in (globals_, locals_)]}
