"""What sbi makes of the problems in problems.py; 17_few_simulations.py runs it in an environment of its own.

python rivals.py METHOD PROBLEM OBSERVATION SIMULATIONS FILE

METHOD is NPE or NRE, whose simulations come from the prior, or SNPE or TSNPE, in five rounds. Settings are
the library's own, but for what its authors take for such problems: a neural spline flow. The epidemic's
parameters are given in coordinates in which the prior is N(0, I).
"""

import json
import sys
import time

import numpy as np
import torch
from problems import DRAWS, PROBLEMS
from sbi.inference import NPE, NRE
from sbi.utils import BoxUniform, RestrictedPrior, get_density_thresholder

ROUNDS = 5


def main(method: str, name: str, observation: int, budget: int, file: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(observation)
    rng = np.random.default_rng(observation + 1000)
    problem = PROBLEMS[name]
    kind, first, second = problem.prior
    first, second = (torch.tensor(values, dtype=torch.float32) for values in (first, second))
    box = kind == "uniform"
    prior = (
        BoxUniform(first, second)
        if box
        else torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
    )

    def natural(theta):
        theta = theta.double().numpy()
        return theta if box else np.exp(problem.prior[1] + problem.prior[2] * theta)

    def simulate(theta):
        return torch.tensor(problem.simulate(rng, natural(theta)), dtype=torch.float32)

    x = torch.tensor(problem.observe(observation)[0], dtype=torch.float32)
    began = time.process_time()
    inference = NRE(prior) if method == "NRE" else NPE(prior, density_estimator="nsf")
    proposal = prior
    rounds = ROUNDS if method in ("SNPE", "TSNPE") else 1
    for _ in range(rounds):
        theta = proposal.sample((budget // rounds,))
        given = {"proposal": proposal} if method == "SNPE" else {}
        forced = {"force_first_round_loss": True} if method == "TSNPE" else {}
        inference.append_simulations(theta, simulate(theta), **given).train(**forced)
        posterior = inference.build_posterior()
        if method == "SNPE":
            proposal = posterior.set_default_x(x)
        if method == "TSNPE":
            inside = get_density_thresholder(posterior.set_default_x(x), quantile=1e-4)
            proposal = RestrictedPrior(prior, inside, sample_with="rejection")
    draws = natural(posterior.sample((DRAWS,), x=x, show_progress_bars=False))
    seconds = time.process_time() - began
    with open(file, "w") as out:
        json.dump({"draws": np.asarray(draws).round(7).tolist(), "processor_seconds": round(seconds, 1)}, out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
