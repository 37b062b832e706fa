"""Log ratios from samples: error and CPU seconds of himlib beside other estimators, on the same draws.

Problem (a) is N(1, 1) against N(0, 4) with 2,000 draws of each; (b) is five pairs of normals with correlation
0.8 against independent ones, in ten dimensions with 5,000 draws of each. Errors are root mean squares over
fresh draws of p and of q, in nats. ``python -m tests.benchmarks.bench_ratio``
"""

import math
import time

import jax
import numpy as np
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from himlib.ratio import classifier, fit_ratio

try:
    from densratio import densratio
except ImportError:
    densratio = None

SEEDS, FRESH, RHO = range(3), 4000, 0.8
NETWORK = classifier()


def shifted(rng, n):
    return rng.normal(1, 1, (n, 1)), rng.normal(0, 2, (n, 1))


def shifted_log_ratio(x):
    return (stats.norm.logpdf(x, 1, 1) - stats.norm.logpdf(x, 0, 2))[:, 0]


def correlated(rng, n):
    p, q = rng.normal(size=(2, n, 10))
    p[:, 1::2] = RHO * p[:, ::2] + math.sqrt(1 - RHO**2) * p[:, 1::2]
    return p, q


def correlated_log_ratio(x):
    a, b = x[:, ::2], x[:, 1::2]
    form = (RHO**2 * (a**2 + b**2) - 2 * RHO * a * b) / (2 * (1 - RHO**2))
    return -(form + math.log(1 - RHO**2) / 2).sum(axis=1)


def by_quadratic_features(p, q):
    return fit_ratio(jax.random.key(0), p.astype("f4"), q.astype("f4")).r


def by_network(p, q):
    return fit_ratio(jax.random.key(0), p.astype("f4"), q.astype("f4"), NETWORK).r


def by_scikit_learn(p, q):
    logistic = LogisticRegression(C=np.inf, max_iter=1000)
    model = make_pipeline(PolynomialFeatures(2, include_bias=False), StandardScaler(), logistic)
    model.fit(np.concatenate([p, q]), np.repeat([1, 0], [len(p), len(q)]))
    return model.decision_function


def by_kernels(method):
    def fit(p, q):
        result = densratio(p, q, method=method, verbose=False)
        return lambda x: np.log(np.maximum(result.compute_density_ratio(x), 1e-10))

    return fit


ESTIMATORS = {
    "scikit_learn_logistic": by_scikit_learn,
    "himlib_quadratic": by_quadratic_features,
    "himlib_network": by_network,
}
if densratio is not None:
    ESTIMATORS |= {"densratio_uLSIF": by_kernels("uLSIF"), "densratio_KLIEP": by_kernels("KLIEP")}


def main():
    if densratio is None:
        print("densratio is not installed: its rows are missing")
    for problem, (draw, log_ratio, n) in {
        "a": (shifted, shifted_log_ratio, 2000),
        "b": (correlated, correlated_log_ratio, 5000),
    }.items():
        for name, estimator in ESTIMATORS.items():
            errors, seconds = [], []
            for seed in SEEDS:
                rng = np.random.default_rng(seed)
                p, q = draw(rng, n)
                began = time.process_time()
                r = estimator(p, q)
                np.asarray(r(p[:1].astype("f4")))
                seconds.append(time.process_time() - began)
                fresh = [sample.astype("f4") for sample in draw(rng, FRESH)]
                errors.append([np.sqrt(np.mean((r(x) - log_ratio(x)) ** 2)) for x in fresh])
                if "uLSIF" in name and problem == "b":
                    break  # one takes most of a minute
            on_p, on_q = np.median(errors, axis=0)
            print(
                f"{problem} {name}: rmse {on_p:.3f} over p, {on_q:.3f} over q; "
                f"first fit {seconds[0]:.2f} cpu s, another {seconds[-1]:.2f} cpu s",
                flush=True,
            )


if __name__ == "__main__":
    main()
