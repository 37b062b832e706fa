"""Wrong calls: each is refused with what was expected, what came, and the likely cause."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

from himlib import (
    Data,
    FullRankNormal,
    HierarchicalImplicitModel,
    ImplicitConditional,
    MeanFieldNormal,
    Network,
    PointMass,
    RatioLoss,
    Result,
    fit,
    lfvi,
    ratio_network,
)
from himlib._checks import check_precision
from himlib._problem import check_problem
from himlib.abc import rejection
from himlib.diagnostics import c2st, posterior_predictive
from himlib.losses import LOSSES, get_loss
from himlib.models import Space, enable_x64
from himlib.random import normal
from himlib.ratio import fit_ratio
from himlib.simulators.conjugate import ConjugateGaussian

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY, OLD_KEY = jax.random.key(0), jax.random.PRNGKey(0)
X = jnp.linspace(-1, 1, 6)
DATA = Data(X)
PRIOR = dist.Normal(0.0, 1.0)
WITH_Z = ConjugateGaussian().model
SGD = optax.sgd(0.1)
NETWORK = Network(
    lambda key, *batch: {},
    lambda params, x, z, beta, covariate, center: beta * sum(map(jnp.sum, jax.tree.leaves(x))),
)


def model(generate=lambda noise, beta, covariate: (None, beta + noise), noise_shape=(), prior=PRIOR):
    return HierarchicalImplicitModel(prior, generate=generate, noise_shape=noise_shape)


def build(**options):
    defaults = {"model": model(), "posterior": MeanFieldNormal(), "ratio": NETWORK, "ratio_batch": 4}
    return lfvi(**{**defaults, "ratio_optimizer": SGD, "posterior_optimizer": SGD, **options})


def start(data=DATA, key=KEY, **options):
    return build(**options).init(key, data)


def drawing(simulate, data=DATA):
    return start(data, model=HierarchicalImplicitModel(PRIOR, simulate=simulate))


def simulating(result, data=DATA, **options):
    """Start with a simulator that makes this of one datum's noise and beta."""
    return start(data, model=model(lambda noise, beta, covariate: result(noise, beta)), **options)


def simulating_dict(result):
    made = HierarchicalImplicitModel(
        {"a": PRIOR}, generate=lambda noise, beta, covariate: result(noise, beta), noise_shape=()
    )
    return start(model=made)


class Table:
    """Stands for a table of pandas or polars."""

    def __init__(self, values):
        self.values = values

    def to_numpy(self):
        return self.values


class Own:
    """Of no class of ours: it has the methods that it is given, all of no use but those named."""

    def __init__(self, *names, **methods):
        vars(self).update(dict.fromkeys(names, lambda *arguments: None), **methods)


def family(**methods):
    """A family with the methods of the mean-field normal, but for those given."""
    names = ("init", "sample", "distribution", "moments", "reframe")
    return Own(**{name: getattr(MeanFieldNormal(), name) for name in names} | methods)


ALGORITHM = build()
PARAMS = MeanFieldNormal().init(1)


RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def state():
    return ALGORITHM.init(KEY, DATA)


CALLS = {
    # The model.
    "prior: a class": (
        lambda: model(prior=dist.Normal),
        TypeError,
        "prior: expected a numpyro distribution .* got the class Normal",
    ),
    "prior: a sampler": (
        lambda: model(prior=lambda key: 0.0),
        TypeError,
        "got function; LFVI evaluates p\\(beta\\)",
    ),
    "prior: a tree with a number": (
        lambda: model(prior={"a": PRIOR, "b": 1.0}),
        TypeError,
        "a pytree of them, got dict",
    ),
    "prior: empty": (lambda: model(prior={}), TypeError, "prior: expected a numpyro distribution"),
    "prior: discrete": (
        lambda: build(model=model(prior=dist.Poisson(2.0))),
        ValueError,
        "Poisson is discrete",
    ),
    "both simulators": (
        lambda: HierarchicalImplicitModel(PRIOR, len, len, ()),
        ValueError,
        "exactly one of simulate and generate",
    ),
    "no simulator": (
        lambda: HierarchicalImplicitModel(PRIOR),
        ValueError,
        "exactly one of simulate and generate",
    ),
    "simulator: no function": (
        lambda: HierarchicalImplicitModel(PRIOR, simulate=3),
        TypeError,
        "expected a function",
    ),
    "no noise_shape": (
        lambda: HierarchicalImplicitModel(PRIOR, generate=len),
        ValueError,
        "generate and noise_shape go together",
    ),
    "noise_shape alone": (
        lambda: HierarchicalImplicitModel(PRIOR, simulate=len, noise_shape=()),
        ValueError,
        "go together",
    ),
    "noise_shape: a number": (
        lambda: model(noise_shape=2),
        ValueError,
        "noise_shape: expected a tuple .* got 2",
    ),
    "noise_shape: negative": (
        lambda: model(noise_shape=(2, -1)),
        ValueError,
        "noise_shape: expected a tuple .* got \\(2, -1\\)",
    ),
    "beta: a number": (
        lambda: model().simulate_batch(KEY, 0.0),
        ValueError,
        "beta: expected a leading batch axis, got a number",
    ),
    "beta: no axis": (
        lambda: model().simulate_batch(KEY, jnp.zeros(())),
        ValueError,
        "beta: expected a leading batch axis",
    ),
    "covariate: another length": (
        lambda: model().simulate_batch(KEY, X, X[:3]),
        ValueError,
        "inconsistent sizes",
    ),
    # Arguments of lfvi.
    "model: none": (
        lambda: build(model=None),
        TypeError,
        "model: expected a HierarchicalImplicitModel, got NoneType",
    ),
    "posterior: implicit": (
        lambda: build(posterior=ImplicitConditional()),
        TypeError,
        "q\\(beta\\) needs a density",
    ),
    "posterior: a class": (
        lambda: build(posterior=FullRankNormal),
        TypeError,
        "an instance of .* got the class FullRankNormal; likely cause: missing \\(\\)",
    ),
    "posterior: a distribution": (
        lambda: build(posterior=PRIOR),
        TypeError,
        "posterior: expected .* got Normal",
    ),
    "posterior: one method alone": (
        lambda: build(posterior=Own("init", "sample", "distribution", "reframe")),
        TypeError,
        r"posterior: expected a family q\(beta\) with init, sample, distribution, moments and reframe, "
        r"got Own without moments; see himlib\.families\.Family",
    ),
    "posterior: half of it": (
        lambda: build(posterior=Own("init", "sample")),
        TypeError,
        "got Own without distribution, moments and reframe",
    ),
    "posterior: a number for a method": (
        lambda: build(posterior=family(moments=3)),
        TypeError,
        "got Own without moments;",
    ),
    "posterior: None for a method": (
        lambda: build(posterior=family(sample=None)),
        TypeError,
        "got Own without sample;",
    ),
    "posterior: no point of ours": (
        lambda: build(posterior=family(distribution=None), proposal="posterior"),
        ValueError,
        "a point mass has no width",
    ),
    "posterior: draws the other way round": (
        lambda: build(posterior=family(sample=lambda params, key, size: jnp.zeros((1, size)))),
        ValueError,
        r"(?s)expected 2 draws of 1 coordinates to have shape \(2, 1\), got \(1, 2\)\..*families\.Family",
    ),
    "posterior: a scalar mean": (
        lambda: build(posterior=family(moments=lambda params: (0.0, jnp.ones(1)))),
        ValueError,
        r"expected the mean of moments to have shape \(1,\), got \(\)",
    ),
    "posterior: a matrix of moments": (
        lambda: build(posterior=family(moments=lambda params: jnp.ones((3, 1)))),
        ValueError,
        "(?s)himlib.families.Family",
    ),
    "posterior: a density for each coordinate": (
        lambda: build(posterior=family(distribution=lambda params: dist.Normal(params["location"], 1.0))),
        ValueError,
        r"expected log_prob of 2 draws to have shape \(2,\), got \(2, 1\)",
    ),
    "posterior: other parameters in another frame": (
        lambda: build(posterior=family(reframe=lambda params, old, new: params["location"])),
        ValueError,
        "expected parameters from reframe like those from init",
    ),
    "ratio: not called": (
        lambda: build(ratio=ratio_network),
        TypeError,
        "ratio: expected a Network .* got function",
    ),
    "local: a class": (
        lambda: build(local=ImplicitConditional),
        TypeError,
        "local: expected an instance .* got the class",
    ),
    "local: a number": (lambda: build(local=3), TypeError, "local: expected .* got int"),
    "local: one method alone": (
        lambda: build(local=Own("sample")),
        TypeError,
        r"local: expected a family q\(z \| x, beta\) with init and sample, got Own without init; see "
        r"himlib\.families\.LocalFamily",
    ),
    "local: z with an axis too many": (
        lambda: start(
            model=WITH_Z, local=Own(init=lambda *batch: {}, sample=lambda params, key, x, *_: x[:, None])
        ),
        ValueError,
        r"local: expected z like the simulator's, of shape \(6,\), got \(6, 1\); see .*\.LocalFamily",
    ),
    "loss: a part is a number": (
        lambda: build(loss=LOSSES["log"]._replace(on_q=3)),
        TypeError,
        "loss: expected on_q to be a function, got int",
    ),
    "loss: reduced": (
        lambda: build(loss=LOSSES["log"]._replace(on_p=jnp.mean)),
        ValueError,
        r"loss: expected on_p to be element-wise, of shape \(3,\) for r of shape \(3,\), got \(\)",
    ),
    "loss: unknown": (lambda: build(loss="logistic"), ValueError, "loss: expected one of .* got 'logistic'"),
    "loss: a class": (lambda: get_loss(RatioLoss), ValueError, "loss: expected one of"),
    "loss: a list": (lambda: build(loss=["log"]), ValueError, "loss: expected one of .* got \\['log'\\]"),
    "reference: unknown": (
        lambda: build(reference="prior"),
        ValueError,
        "reference: expected .* or a function, got 'prior'",
    ),
    "proposal: unknown": (
        lambda: build(proposal="prior"),
        ValueError,
        "proposal: expected 'round' or 'posterior', got 'prior'",
    ),
    "proposal: from a point": (
        lambda: build(posterior=PointMass(), proposal="posterior"),
        ValueError,
        "a point mass has no width",
    ),
    "jitter: of real data": (
        lambda: build(reference="empirical", jitter=lambda key, c: c),
        ValueError,
        "jitter: the empirical",
    ),
    "sharding: explicit axes": (
        lambda: build(sharding=jax.NamedSharding(jax.make_mesh((1,), ("data",)), jax.P("data"))),
        ValueError,
        "sharding: expected a mesh of automatic axes",
    ),
    "optimizer: a learning rate": (
        lambda: build(ratio_optimizer=1e-3),
        TypeError,
        "ratio_optimizer: expected an optax .* got float",
    ),
    "optimizer: not called": (
        lambda: build(posterior_optimizer=optax.adam),
        TypeError,
        "posterior_optimizer: .* got function",
    ),
    "optimizers: a part is missing": (
        lambda: build(model=WITH_Z, local=ImplicitConditional(), posterior_optimizer={"beta": SGD}),
        ValueError,
        "posterior_optimizer: expected parts \\['beta', 'z'\\], got \\['beta'\\]",
    ),
    "optimizers: a part too many": (
        lambda: build(posterior_optimizer={"beta": SGD, "z": SGD}),
        ValueError,
        "expected parts \\['beta'\\], got \\['beta', 'z'\\]",
    ),
    "width: zero": (lambda: build(width=0), ValueError, "width: expected a positive number, got 0"),
    "width: not a number": (
        lambda: build(width=float("nan")),
        ValueError,
        "width: expected a positive number, got nan",
    ),
    "ratio_batch: odd": (
        lambda: build(ratio_batch=5),
        ValueError,
        "ratio_batch: expected an even positive integer, got 5",
    ),
    "ratio_batch: zero": (lambda: build(ratio_batch=0), ValueError, "ratio_batch: expected an even"),
    "ratio_batch: a fraction": (
        lambda: build(ratio_batch=4.0),
        ValueError,
        "ratio_batch: expected an even .* got 4.0",
    ),
    "ratio_steps: negative": (
        lambda: build(ratio_steps=-1),
        ValueError,
        "ratio_steps: expected a positive integer, got -1",
    ),
    "batch_size: zero": (
        lambda: build(batch_size=0),
        ValueError,
        "batch_size: expected a positive integer, got 0",
    ),
    "posterior_samples: zero": (
        lambda: build(posterior_samples=0),
        ValueError,
        "posterior_samples: expected a positive",
    ),
    # Data.
    "data: an array": (lambda: start(X), TypeError, "data: expected Data\\(x, covariate\\), got"),
    "data: a tuple": (
        lambda: start((X, None)),
        TypeError,
        "data: expected Data\\(x, covariate\\), got tuple",
    ),
    "data: a number": (lambda: start(Data(1.0)), ValueError, "data: expected arrays with a leading axis"),
    "data: a list": (
        lambda: start(Data([1.0, 2.0])),
        ValueError,
        "data: expected arrays with a leading axis .* got a list, see jnp.asarray",
    ),
    "data: nothing": (lambda: start(Data(None)), ValueError, "data: expected arrays with a leading axis"),
    "data: empty": (lambda: start(Data(jnp.zeros(0))), ValueError, "data: no observations"),
    "data: two lengths": (
        lambda: start(Data(X, X[:4])),
        ValueError,
        "x and covariate differ in their leading axes, \\[4, 6\\]",
    ),
    "data: fewer than a minibatch": (
        lambda: start(batch_size=7),
        ValueError,
        "6 observations are fewer than batch_size=7",
    ),
    "data: NaN": (lambda: start(Data(X.at[1].set(jnp.nan))), ValueError, "data: missing or infinite values"),
    "data: infinite covariate": (
        lambda: start(Data(X, X / 0)),
        ValueError,
        "data: missing or infinite values",
    ),
    "data: a Series": (
        lambda: start(Data(Table(np.zeros(3)))),
        TypeError,
        r"data: expected arrays, got Table; see \.to_numpy\(\)",
    ),
    "data: a list of arrays": (
        lambda: start(Data([X, X])),
        ValueError,
        r"data: got a list of 2 arrays; see jnp\.stack",
    ),
    "data: a list of rows": (
        lambda: start(Data([[1.0, 2.0], [3.0, 4.0]])),
        ValueError,
        "got a list, see jnp.asarray",
    ),
    "data: a tuple of numbers": (lambda: start(Data((0.1, 0.2))), ValueError, "got a tuple, see jnp.asarray"),
    "data: a ragged list": (
        lambda: start(Data([X, X[:3]])),
        ValueError,
        r"\[3, 6\]; got a list of arrays of different lengths, pad them and see jnp\.stack",
    ),
    "data: objects": (
        lambda: start(Data(np.array([X, X[:3]], dtype=object))),
        TypeError,
        "data: expected numbers, got an array of object",
    ),
    "data: names": (
        lambda: start(Data(np.array(["a", "b"]))),
        TypeError,
        "data: expected numbers, got an array of <U1",
    ),
    "data: a name": (lambda: start(Data("rain")), TypeError, "data: expected arrays, got str"),
    "data: dates": (
        lambda: start(Data(np.array(["2020-01-01", "2020-01-02"], "datetime64[D]"))),
        TypeError,
        r"data: expected numbers, got .* datetime64\[D\]; subtract a date, see \.astype\(float\)",
    ),
    "data: durations": (
        lambda: start(Data(X, np.arange(6).astype("timedelta64[s]"))),
        TypeError,
        "data: expected numbers, got .* timedelta64",
    ),
    "data: masked": (
        lambda: start(Data(np.ma.masked_less(np.float32(X), 0))),
        ValueError,
        "data: missing or infinite values, which a mask hides",
    ),
    "data: half precision": (
        lambda: start(Data(np.float16(X))),
        ValueError,
        r"data have \(\) and float16; likely cause: another precision, see data\.x\.astype\(float\)",
    ),
    "data: bytes": (
        lambda: start(Data(np.uint8([0, 1, 2]))),
        ValueError,
        r"data have \(\) and uint8; likely cause: whole numbers, see data\.x\.astype\(float\)",
    ),
    "data: small integers": (
        lambda: simulating(
            lambda noise, beta: (None, jnp.int32(9 * (noise + beta))), Data(np.int8([0, 1, 2]))
        ),
        ValueError,
        r"data have \(\) and int8; likely cause: another size, see data\.x\.astype\(int\)",
    ),
    "data: counts as floats": (
        lambda: simulating(lambda noise, beta: (None, jnp.int32(9 * (noise + beta)))),
        ValueError,
        r"float32; likely cause: whole numbers kept as floats, see data\.x\.astype\(int\)",
    ),
    "data: one without an axis": (
        lambda: start(Data(jnp.zeros(3)), model=model(noise_shape=(3,))),
        ValueError,
        r"gives x of shape \(3,\) .* the data have \(\) and float32; for one observation data\.x\[None\]",
    ),
    "data: time stamps": (
        lambda: start(Data(1.7e9 + np.arange(6) / 6)),
        ValueError,
        r"data: x is lost to single precision \(6 values become 1\): subtract an offset",
    ),
    "data: nanoseconds": (
        lambda: start(Data(X, {"time": 10**18 + np.arange(6)})),
        ValueError,
        "data: covariate.time is lost to single precision",
    ),
    "beta: an index into a dict": (
        lambda: simulating_dict(lambda noise, beta: (None, beta[0] + noise)),
        KeyError,
        r"(?s)Raised in generate.*beta is a dict with the keys \['a'\]",
    ),
    "z: integers": (
        lambda: simulating(
            lambda noise, beta: (jnp.int32(noise > 0), beta + noise), local=ImplicitConditional()
        ),
        ValueError,
        "z: q gives floating-point numbers, the simulator integers: .* marginalize, or make z continuous",
    ),
    # What the simulator gives.
    "simulator: x of another shape": (
        lambda: start(Data(jnp.zeros((6, 2)))),
        ValueError,
        "x of shape \\(\\) .* data have \\(2,\\)",
    ),
    "simulator: counts": (
        lambda: simulating(lambda noise, beta: (None, jnp.int32(noise))),
        ValueError,
        "int32, the data have \\(\\) and float32",
    ),
    "data: counts": (
        lambda: start(Data(jnp.arange(6))),
        ValueError,
        "float32, the data have \\(\\) and int32; likely cause: .* data.x.astype\\(float\\)",
    ),
    "simulator: x alone": (
        lambda: simulating(lambda noise, beta: beta),
        TypeError,
        "expected a pair \\(z, x\\), got an array; return \\(None, x\\)",
    ),
    "simulator: x alone, two data": (
        lambda: simulating(lambda noise, beta: beta, Data(X[:2])),
        TypeError,
        "expected a pair \\(z, x\\), got an array",
    ),
    "simulator: three values": (
        lambda: simulating(lambda noise, beta: (None, beta, beta)),
        TypeError,
        "expected a pair \\(z, x\\), got tuple",
    ),
    "simulator: drawn by NumPy": (
        lambda: drawing(lambda key, beta, covariate: (None, beta + np.float32(RNG.normal()))),
        ValueError,
        "x does not depend on key: draw from it \\(NumPy draws once",
    ),
    "simulator: without noise": (
        lambda: drawing(lambda key, beta, covariate: (None, beta)),
        ValueError,
        "x does not depend on key",
    ),
    "simulator: noise in z alone": (
        lambda: simulating(lambda noise, beta: (noise, jnp.sin(beta)), local=ImplicitConditional()),
        ValueError,
        "x does not depend on noise",
    ),
    "simulator: two arguments": (
        lambda: drawing(lambda key, beta: (None, beta)),
        TypeError,
        "(?s)positional arguments .*Raised in simulate\\(key, beta, covariate\\), called for ONE datum",
    ),
    "simulator: a covariate forgotten": (
        lambda: drawing(lambda key, beta, covariate: (None, beta * covariate)),
        TypeError,
        "(?s)NoneType.*Raised in simulate.* Data has no covariate",
    ),
    "simulator: float": (
        lambda: simulating(lambda noise, beta: (None, float(beta) + noise)),
        TypeError,
        "(?s)Raised in generate\\(noise, beta, covariate\\), called for ONE datum under jax.vmap",
    ),
    "simulator: for a batch": (
        lambda: drawing(lambda key, beta, c: (None, beta[:, None] * c), Data(X, X)),
        IndexError,
        "(?s)Raised in simulate.* ONE datum under jax.vmap; with its row of Data's covariate",
    ),
    "simulator: (x, None)": (
        lambda: simulating(lambda noise, beta: (beta, None)),
        ValueError,
        "is the order \\(z, x\\)?",
    ),
    "simulator: (x, z)": (
        lambda: simulating(
            lambda noise, beta: (beta, jnp.stack([beta, noise])), local=ImplicitConditional((2,))
        ),
        ValueError,
        "is the order \\(z, x\\)?",
    ),
    "simulator: NaN": (
        lambda: simulating(lambda noise, beta: (None, jnp.log(beta) + noise)),
        ValueError,
        r"simulator: \d+\.\d% of some output is not finite",
    ),
    "simulator: infinite z": (
        lambda: simulating(lambda noise, beta: (beta / 0, beta + noise), local=ImplicitConditional()),
        ValueError,
        "is not finite",
    ),
    "local: missing": (
        lambda: start(model=WITH_Z),
        ValueError,
        "local: the simulator gives a z; pass a family for it",
    ),
    "local: without z": (
        lambda: start(local=ImplicitConditional()),
        ValueError,
        "local: the simulator gives no z; pass local=None",
    ),
    "local: another shape": (
        lambda: start(model=WITH_Z, local=ImplicitConditional((2,))),
        ValueError,
        "expected z of shape \\(2,\\), the simulator gives \\(\\)",
    ),
    "local: z is a tree": (
        lambda: simulating(lambda noise, beta: ({"a": beta}, beta + noise), local=ImplicitConditional()),
        ValueError,
        "expected z of shape \\(\\)",
    ),
    "local: negative noise": (
        lambda: ImplicitConditional(noise_size=-1),
        ValueError,
        "noise_size: expected an integer of at least 1, .* got -1",
    ),
    "local: less noise than dimensions": (
        lambda: ImplicitConditional(shape=(3,), noise_size=1),
        ValueError,
        "at least 3, one for each dimension of z \\(with fewer q has no density\\), got 1",
    ),
    "local: a real number of normals": (
        lambda: ImplicitConditional(noise_size=2.0),
        ValueError,
        "noise_size: expected an integer .* got 2.0",
    ),
    # Networks.
    "features: a number": (
        lambda: start(ratio=ratio_network(lambda x, *rest: x)),
        ValueError,
        "features: expected a vector .* got shape \\(\\)",
    ),
    "features: a matrix": (
        lambda: start(ratio=ratio_network(lambda x, *rest: jnp.ones((2, 2)))),
        ValueError,
        "got shape \\(2, 2\\)",
    ),
    "features: three arguments": (
        lambda: start(ratio=ratio_network(lambda x, beta, covariate: x)),
        TypeError,
        "(?s)positional arguments.*one datum's \\(x, z, beta, covariate, center\\)",
    ),
    "summary: of an array": (
        lambda: rejection(
            KEY, model(), DATA, summary=lambda x: x.mean(), simulations=10, tolerance=1.0, progress=False
        ),
        AttributeError,
        "(?s)no attribute 'mean'.*Raised in summary\\(data\\), .* data.x.mean\\(\\)",
    ),
    "hidden: a number": (
        lambda: ratio_network(hidden=64),
        TypeError,
        "hidden: expected a sequence .* got 64",
    ),
    "ratio: a vector": (
        lambda: start(ratio=Network(NETWORK.init, lambda params, x, z, *rest: jnp.stack([x, x]))),
        ValueError,
        "ratio: expected one number for each datum, got shape \\(2,\\)",
    ),
    # Rounds and runs.
    "fit: not an algorithm": (
        lambda: fit(KEY, model(), DATA, 10),
        TypeError,
        "algorithm: expected .* got HierarchicalImplicitModel",
    ),
    "fit: key and algorithm swapped": (
        lambda: fit(ALGORITHM, KEY, DATA, 10),
        TypeError,
        "key: expected .* got Algorithm",
    ),
    "fit: no steps": (
        lambda: fit(KEY, ALGORITHM, DATA, 0),
        ValueError,
        "steps: expected a positive integer, got 0",
    ),
    "fit: a fraction of steps": (
        lambda: fit(KEY, ALGORITHM, DATA, 1e3),
        ValueError,
        "steps: expected .* got 1000.0",
    ),
    "fit: no rounds": (
        lambda: fit(KEY, ALGORITHM, DATA, 10, rounds=0),
        ValueError,
        "rounds: expected a positive integer, got 0",
    ),
    "fit: negative chunk": (
        lambda: fit(KEY, ALGORITHM, DATA, 10, chunk=-1),
        ValueError,
        "chunk: expected .* got -1",
    ),
    "fit: no such directory": (
        lambda: fit(KEY, ALGORITHM, DATA, 10, checkpoint="nowhere/run.npz"),
        ValueError,
        "checkpoint: the directory nowhere does not exist",
    ),
    "fit: rounds of a point mass": (
        lambda: fit(KEY, build(posterior=PointMass()), DATA, 10, rounds=2),
        ValueError,
        "a point mass has no width",
    ),
    # Old-style keys.
    "key: simulate": (
        lambda: HierarchicalImplicitModel(PRIOR, lambda key, beta, c: (None, beta)).simulate_batch(
            OLD_KEY, X
        ),
        TypeError,
        "key",
    ),
    "key: generate": (lambda: model().simulate_batch(OLD_KEY, X), TypeError, "key"),
    "key: prior": (lambda: model().sample_prior(OLD_KEY), TypeError, "key"),
    "key: mean field": (lambda: MeanFieldNormal().sample(PARAMS, OLD_KEY, 2), TypeError, "key"),
    "key: full rank": (
        lambda: FullRankNormal().sample(FullRankNormal().init(1), OLD_KEY, 2),
        TypeError,
        "key",
    ),
    "key: implicit family": (lambda: ImplicitConditional().init(OLD_KEY, X, X, X, None), TypeError, "key"),
    "key: implicit sample": (lambda: ImplicitConditional().sample({}, OLD_KEY, X, X, None), TypeError, "key"),
    "key: network": (lambda: ratio_network().init(OLD_KEY, X, X, X, None, X), TypeError, "key"),
    "key: normal": (lambda: normal(OLD_KEY, (2,)), TypeError, "key"),
    "key: init": (lambda: start(key=OLD_KEY), TypeError, "key"),
    "key: a seed": (lambda: start(key=0), TypeError, "expected jax.random.key\\(0\\), got int\\."),
    "key: fit": (lambda: fit(OLD_KEY, ALGORITHM, DATA, 10), TypeError, "key"),
}


@pytest.mark.parametrize("name", CALLS)
def test_wrong_call_is_refused(name):
    call, error, message = CALLS[name]
    with pytest.raises(error, match=message) as caught:
        call()
    if name.startswith("key:"):  # the likely cause is named where it is one
        assert ("old-style" in str(caught.value)) == (name != "key: a seed")


@pytest.mark.parametrize(
    "call",
    [
        lambda state: ALGORITHM.step(OLD_KEY, state, DATA),
        lambda state: ALGORITHM.refine(OLD_KEY, state, DATA),
        lambda state: ALGORITHM.sample(OLD_KEY, state, 3),
        lambda state: ALGORITHM.sample_local(OLD_KEY, state, jnp.zeros(()), DATA),
        lambda state: ALGORITHM.elbo(OLD_KEY, state, DATA),
    ],
    ids=["step", "refine", "sample", "sample_local", "elbo"],
)
def test_old_style_key_is_refused_by_the_algorithm(state, call):
    with pytest.raises(TypeError, match="old-style"):
        call(state)


@pytest.mark.parametrize(
    "call",
    [
        lambda result: ALGORITHM.moments(result),
        lambda result: ALGORITHM.sample(KEY, result, 3),
        lambda result: ALGORITHM.sample_local(KEY, result, jnp.zeros(()), DATA),
        lambda result: ALGORITHM.elbo(KEY, result, DATA),
        lambda result: ALGORITHM.log_ratio(result, 0.0, None, 0.0),
    ],
    ids=["moments", "sample", "sample_local", "elbo", "log_ratio"],
)
def test_a_result_is_no_state(state, call):
    with pytest.raises(TypeError, match=r"state: expected a State, such as result\.state, got Result"):
        call(Result(state, None, None))


def test_negative_sample_size_is_refused(state):
    with pytest.raises((TypeError, ValueError), match="negative"):
        ALGORITHM.sample(KEY, state, -1)


def test_right_calls_are_not_refused(state):
    # Arrays of NumPy in double precision are data too: JAX takes them as float32.
    assert start(Data(np.linspace(-1.0, 1.0, 6)), model=model()).step == 0
    assert start(batch_size=np.int64(6), ratio_batch=np.int64(4)).step == 0
    assert fit(KEY, ALGORITHM, DATA, np.int64(3), progress=False).state.step == 3
    # A switch, or a count that is zero at most rates: x depends on the noise, and no draw has to show it.
    assert simulating(lambda noise, beta: (None, beta + jnp.where(noise > 50, 1.0, 0.0))).step == 0
    # One part of x without noise is a matter for the ratio, not for the call.
    pair = Data({"a": X, "b": X})
    assert simulating(lambda noise, beta: (None, {"a": beta, "b": noise}), pair).step == 0
    assert ALGORITHM.sample(KEY, state, 0).shape == (0,)
    assert Space(dist.Normal(0, 1)).frame.location.dtype == jnp.float32


def test_pandas():
    pandas = pytest.importorskip("pandas")
    for table in (pandas.Series([0.1, 0.5]), pandas.DataFrame({"a": [0.1, 0.5]})):
        name = type(table).__name__
        for data in (Data(table), Data(X[:2], table)):
            with pytest.raises(TypeError, match=rf"data: expected arrays, got {name}; see \.to_numpy\(\)"):
                start(data)
        with pytest.raises(TypeError, match=rf"p: expected arrays, got {name}; see \.to_numpy\(\)"):
            fit_ratio(KEY, table, table)


@pytest.mark.parametrize(
    ("array", "lost"),
    [
        (1e4 + np.linspace(0.0, 1.0, 50), False),
        (2_450_000.5 + np.linspace(0.0, 1.0, 50), True),
        (np.full(50, 0.1) + 1e-17 * np.arange(50), False),  # constant up to rounding
        (1e9 + np.zeros(50), False),
        (np.linspace(0.0, 1.0, 50) * 1e-30, False),
        (np.linspace(0.0, 1.0, 50) * 1e-50, True),
        (np.linspace(0.0, 1.0, 50) * 1e39, True),
        (np.array([1e300]), True),
        (np.zeros(0), False),
        (np.stack([np.linspace(0.0, 1.0, 50), 1.7e9 + np.linspace(0.0, 1.0, 50)], 1), True),
        (np.arange(5), False),
        (2**40 + np.arange(5), True),
        (np.array([0.0, np.nan, np.inf]), False),  # for others to refuse
        (np.float32(1.7e9 + np.linspace(0.0, 1.0, 50)), False),  # was lost before
    ],
)
def test_what_single_precision_loses(array, lost):
    if not lost:
        check_precision("x", array)
        return
    with pytest.raises(ValueError, match="x is lost to single precision"):
        check_precision("x", array)
    with enable_x64(True):
        check_precision("x", array)


def test_samples_that_single_precision_loses():
    stamps = 1.7e9 + np.random.default_rng(0).normal(size=(60, 2))
    for function in (fit_ratio, c2st):
        with pytest.raises(ValueError, match=r"is lost to single precision \(120 values become \d\)"):
            function(KEY, stamps, stamps + 1)
    with pytest.raises(ValueError, match="beta is lost to single precision"):
        posterior_predictive(KEY, model(), stamps[:, 0], DATA)


def test_single_precision_under_x64_has_a_remedy():
    wide = HierarchicalImplicitModel(
        dist.Normal(0.0, 1.0), simulate=lambda key, beta, covariate: (None, beta + jax.random.normal(key))
    )
    message = r"float64, .* float32; likely cause: jax_enable_x64, see data\.x\.astype\(float\)"
    with enable_x64(True), pytest.raises(ValueError, match=message):
        check_problem(wide, Data(np.float32(X)))


def test_checks_stand_back_under_a_transformation():
    states = jax.vmap(lambda x: ALGORITHM.init(KEY, Data(x)))(jnp.stack([X, X]))
    assert states.step.shape == (2,)


def test_a_known_number_has_no_posterior_but_a_point():
    known = model(prior=dist.Delta(1.0))
    with pytest.raises(ValueError, match="has no width"):
        lfvi(known, MeanFieldNormal(), NETWORK, ratio_optimizer=SGD, posterior_optimizer=SGD)


def test_types_that_nothing_explains_get_no_hint():
    yes_or_no = model(lambda noise, beta, covariate: (None, beta + noise > 0))
    with pytest.raises(ValueError, match=r"float32\.$"):
        check_problem(yes_or_no, DATA)
