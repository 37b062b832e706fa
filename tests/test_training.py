"""fit: verdicts that data alone provoke, histories, checkpoints that survive a kill, and interruptions."""

import io
import os
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from toys import FLAT, known_everything, known_ratio

from himlib import (
    Data,
    HierarchicalImplicitModel,
    Info,
    MeanFieldNormal,
    Network,
    Outcome,
    PointMass,
    Result,
    _checkpoints,
    cosine_adam,
    fit,
    fit_seeds,
    lfvi,
    ratio_network,
    training,
)
from himlib.adversarial import joint_matching
from himlib.classification import Generator, bayesian_classifier
from himlib.many_data import train_ratio
from himlib.models import Frame
from himlib.ratio import fit_ratio

KEY = jax.random.key(23)
STEPS, CHUNK, ROUNDS = 100, 7, 2  # the chunk divides neither a round nor its last tenth


def observed(x=0.0, noise=1.0, offset=0.0):
    """Twenty data at one place: what they are and how noisy they are decides how a run ends."""
    values = {"noise": noise, "offset": offset}
    covariate = {name: jnp.full(20, value, jnp.float32) for name, value in values.items()}
    return Data(jnp.full(20, x, jnp.float32), covariate)


@pytest.fixture(scope="module")
def algorithm():
    return known_everything()


@pytest.fixture(scope="module")
def run(algorithm):
    def run(data=None, key=KEY, rounds=ROUNDS, steps=STEPS, **options):
        data = observed() if data is None else data
        options = {"progress": False, "chunk": CHUNK, "wait": 0.0, **options}
        return fit(key, algorithm, data, steps, rounds=rounds, **options)

    return run


@pytest.fixture(scope="module")
def uninterrupted(run):
    return run()


def assert_identical(first, second):
    for a, b in zip(
        *map(jax.tree.leaves, ((first.state, first.history), (second.state, second.history))), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert first.outcome is second.outcome


@pytest.mark.parametrize(
    ("outcome", "data"),
    [
        (Outcome.AT_REST, {}),
        (Outcome.OUTSIDE, {"x": 1e3, "noise": 1e-4}),  # each step goes a thousandth of the way
        (Outcome.COLLAPSED, {"noise": 1e-5}),  # a posterior 450,000 times narrower than the proposal
        (Outcome.NOT_FINITE, {"x": 3e38}),  # its square overflows
    ],
    ids=lambda value: value.name if isinstance(value, Outcome) else "",
)
def test_verdicts(run, outcome, data):
    result = run(observed(**data), rounds=1)
    assert result.outcome is outcome and len(outcome.value) > 15
    finite = np.isfinite(result.history.elbo).all()
    assert finite == (outcome is not Outcome.NOT_FINITE)
    assert len(result.history.elbo) == result.state.step + (not finite)  # the step that broke is shown
    assert (result.state.step == STEPS) == finite  # a run without numbers stops at once
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.state))
    assert result.advice == outcome.value + ("" if finite else " It was step 1.")


@pytest.mark.parametrize(
    ("accuracy", "sd", "outcome"),
    [
        (0.995, 1.0, Outcome.SATURATED),
        (0.997, 0.05, Outcome.AT_REST),  # a datum that says much, and a q that has heard it
        (0.979, 1.0, Outcome.SATURATED),  # r must know 3.7 nats at least, and q has learned none of them
        (0.979, 0.5, Outcome.SATURATED),  # two coordinates, each of log 2 nats: 1.4
        (0.979, 0.1, Outcome.AT_REST),  # 4.6 nats
        (0.92, 0.571, Outcome.AT_REST),  # 1.12: between half of 0.84 log(0.92 / 0.08) and of the log alone
        (0.92, 0.62, Outcome.SATURATED),  # 0.96
        (0.85, 1.0, Outcome.AT_REST),  # chance may do this with one datum: not said
        (0.979, 0.0, Outcome.AT_REST),  # a point mass
        (0.995, 0.0, Outcome.SATURATED),
    ],
)
def test_saturation_by_what_q_has_learned(accuracy, sd, outcome):
    steps, chunk = 100, 10
    history = Info(*(np.full(steps, value, np.float32) for value in (0, 0, accuracy, 0, 0, sd)))
    looks = [np.array([[0.0, 0.0], [sd, sd], [0.0, 0.0], [1.0, 1.0]])] * 10
    prior = Frame(np.zeros(2), np.ones(2))
    assert training._judge(history, looks, prior, steps, chunk) is outcome


def test_history_has_one_entry_per_step(uninterrupted):
    assert isinstance(uninterrupted, Result) and isinstance(uninterrupted.history, Info)
    assert uninterrupted.state.step == STEPS * ROUNDS and uninterrupted.outcome is Outcome.AT_REST
    for values in uninterrupted.history:
        assert isinstance(values, np.ndarray) and values.shape == (STEPS * ROUNDS,)
        assert np.isfinite(values).all()
    assert len(np.unique(uninterrupted.history.elbo)) > STEPS


def test_rounds_refine_the_proposal(uninterrupted):
    # The spread is in units of the proposal's scale: it falls in the first round, and starts again at 1/3.
    spread = uninterrupted.history.spread
    assert spread[STEPS - 1] < 0.31 and 0.24 < spread[STEPS] < 0.46  # one step from 1/3


def test_same_key_same_run(run, uninterrupted):
    assert_identical(run(), uninterrupted)
    other = run(key=jax.random.key(24), rounds=1)
    assert not np.array_equal(other.history.elbo, uninterrupted.history.elbo[:STEPS])


def test_a_second_fit_compiles_nothing(run, uninterrupted, caplog):
    with jax.log_compiles():
        run(observed(x=1.0), key=jax.random.key(5))
        found = [record.message for record in caplog.records if "Finished XLA compilation" in record.message]
        assert not found, found
        jax.jit(lambda x: x + 1)(0)  # and the log would have told
    assert "Finished XLA compilation" in caplog.text


def test_overhead_of_fit(algorithm, run, uninterrupted, capsys):
    step, state, data = training._compiled(algorithm, CHUNK), uninterrupted.state, observed()
    chunks = ROUNDS * -(-STEPS // CHUNK)
    start = time.perf_counter()
    for _ in range(chunks):
        state, *_ = step(KEY, state, data, CHUNK)
    jax.block_until_ready(state)
    bare = time.perf_counter() - start
    start = time.perf_counter()
    run()
    overhead = (time.perf_counter() - start - bare) / chunks
    with capsys.disabled():
        print(f"\nfit adds {1e3 * overhead:.1f} ms to a chunk")


def test_progress_bar_can_be_off(run, capsys):
    run(rounds=1)
    assert capsys.readouterr() == ("", "")
    run(rounds=1, progress=True)
    bar = capsys.readouterr().err
    assert "LFVI: 100%" in bar and f"{STEPS}/{STEPS}" in bar and "elbo=" in bar and "accuracy=" in bar


def interrupt(monkeypatch, after, error=KeyboardInterrupt):
    """Make fit's compiled chunk raise after so many calls."""
    compiled, calls = training._compiled, []

    def patched(algorithm, chunk):
        run = compiled(algorithm, chunk)

        def chunk_or_interrupt(*args):
            calls.append(1)
            if len(calls) > after:
                raise error
            return run(*args)

        return chunk_or_interrupt

    monkeypatch.setattr(training, "_compiled", patched)


def test_interrupt_returns_what_was_reached(run, uninterrupted, monkeypatch):
    interrupt(monkeypatch, after=3)
    result = run()
    assert result.outcome is Outcome.INTERRUPTED and result.state.step == 3 * CHUNK
    for values, all_values in zip(result.history, uninterrupted.history, strict=True):
        np.testing.assert_array_equal(values, all_values[: 3 * CHUNK])


def test_interrupt_before_anything_was_reached(run, monkeypatch):
    interrupt(monkeypatch, after=0)
    with pytest.raises(KeyboardInterrupt):
        run()


# Checkpoints.


@pytest.mark.parametrize("after", [4, 15, 20], ids=["within a round", "between rounds", "within the second"])
def test_resumed_run_is_identical(run, uninterrupted, monkeypatch, tmp_path, after):
    path = tmp_path / "run.npz"
    with monkeypatch.context() as patch:
        interrupt(patch, after, RuntimeError)
        with pytest.raises(RuntimeError):
            run(checkpoint=path)
    assert_identical(run(checkpoint=path), uninterrupted)
    assert_identical(run(checkpoint=str(path)), uninterrupted)  # all done: nothing is left to run
    assert sorted(os.listdir(tmp_path)) == ["run.npz", "run.npz.history"]


CHILD = """
import os, signal, sys, threading, time
from test_training import *

signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background may inherit it ignored
directory, algorithm = Path(sys.argv[1]), known_everything()
options = {"wait": 0.0, "progress": False, "chunk": CHUNK}

def interrupt_when(path):
    while not path.exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt_when, args=[directory / "long.npz"]).start()
result = fit(KEY, algorithm, observed(), 10**6, checkpoint=directory / "long.npz", **options)
steps = len(result.history.elbo)
print(result.outcome.name, steps == result.state.step, steps < 10**6, flush=True)

replace, calls = os.replace, []

def replace_or_die(*args):
    calls.append(1)
    if len(calls) > 15:  # after the first round's last chunk: the next one is written, and not yet in place
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*args)

os.replace = replace_or_die
fit(KEY, algorithm, observed(), STEPS, rounds=ROUNDS, checkpoint=directory / "killed.npz", **options)
"""


def test_interrupted_and_killed_from_outside(run, uninterrupted, tmp_path):
    here = Path(__file__).parent
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{here.parent}:{here}"},
        timeout=300,
    )
    assert child.stdout.split() == ["INTERRUPTED", "True", "True"], child.stderr
    assert child.returncode == -signal.SIGKILL
    with np.load(tmp_path / "killed.npz") as arrays:
        assert int(arrays["pieces"]) == 15
    assert_identical(run(checkpoint=tmp_path / "killed.npz"), uninterrupted)


NAMES = ("run.npz", "run.npz.history")


@pytest.fixture(scope="module")
def checkpoint(run, tmp_path_factory):
    """The two files of a run of one round, before its last chunk and after it, and its result."""
    folder, (before, after) = tmp_path_factory.mktemp("checkpoint"), ({}, {})
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 14)
        run(rounds=1, checkpoint=folder / NAMES[0])
    for contents in (before, after):
        contents |= {name: (folder / name).read_bytes() for name in NAMES}
        result = run(rounds=1, checkpoint=folder / NAMES[0])
    return before, after, result


def write(folder, contents):
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder / NAMES[0]


def test_killed_between_two_writes(run, checkpoint, tmp_path):
    before, after, result = checkpoint
    old, new = before[NAMES[1]], after[NAMES[1]]
    assert new.startswith(old) and len(new) > len(old)  # appended
    garbage = {"run.npz.part": b"half of it"}
    stages = [{NAMES[1]: new[:size]} for size in (*range(len(old), len(new), 97), len(new))]
    stages += [{NAMES[1]: new, **garbage}, {NAMES[1]: old + b"?" * 5000}, {**after, **garbage}]
    for stage in stages:
        path = write(tmp_path, {**before, **stage})
        assert_identical(run(rounds=1, checkpoint=path), result)
        assert {name: (tmp_path / name).read_bytes() for name in NAMES} == after


def test_history_without_a_state_is_written_anew(run, checkpoint, tmp_path):
    _, after, result = checkpoint
    (tmp_path / NAMES[1]).write_bytes(after[NAMES[1]] * 2)
    assert_identical(run(rounds=1, checkpoint=tmp_path / NAMES[0]), result)
    assert (tmp_path / NAMES[1]).read_bytes() == after[NAMES[1]]


def test_chunks_cost_the_same(run, checkpoint, tmp_path):
    # All chunks but a round's last are of the same length.
    sizes, replace = [], os.replace

    def measure(*args):
        replace(*args)
        sizes.append([(tmp_path / name).stat().st_size for name in NAMES])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", measure)
        run(rounds=1, checkpoint=tmp_path / NAMES[0])
    states, histories = np.array(sizes[:14]).T
    assert len(set(states)) == 1 and len(set(np.diff(histories))) == 1


def test_more_rounds_go_on(run, uninterrupted, checkpoint, tmp_path):
    path = write(tmp_path, checkpoint[1])
    assert_identical(run(checkpoint=path), uninterrupted)
    with pytest.raises(ValueError, match=r"run.npz is of another run \(its rounds are more\)"):
        run(rounds=1, checkpoint=path)


def test_checkpoint_of_another_run_is_refused(run, checkpoint, tmp_path):
    path = write(tmp_path, checkpoint[1])
    with pytest.raises(ValueError, match=r"checkpoint: run.npz is of another run \(its key differs\)"):
        run(key=jax.random.key(0), checkpoint=path)
    other = known_everything(local=None)._replace(
        init=lambda key, data: known_everything().init(key, data)._replace(ratio={"only": jnp.zeros(3)})
    )
    with pytest.raises(ValueError, match=r"another run \(.*parameters differ\); name a new file"):
        fit(KEY, other, observed(), STEPS, chunk=CHUNK, checkpoint=path, progress=False)
    for change, name in [
        ({"data": observed(x=1.0)}, "data differ"),
        ({"data": jax.tree.map(lambda leaf: leaf[:3], observed())}, "data differ"),
        ({"steps": STEPS + 1}, "steps differ"),
        ({"steps": STEPS // 2, "rounds": 4}, "steps differ"),
        ({"chunk": CHUNK - 1}, "chunk differs"),
        ({"state": run(steps=10, rounds=1).state}, "model or settings differ"),
    ]:
        with pytest.raises(ValueError, match=rf"run.npz is of another run \(its {name}\); name a new file"):
            run(checkpoint=path, **change)
    assert {name: (tmp_path / name).read_bytes() for name in NAMES} == checkpoint[1]


RESIDUAL = known_ratio(lambda x, z, beta, c: -((x - beta) ** 2) / 2)
STANDARDIZING = ratio_network(hidden=(2,))


def problem(prior=(0.0, 1.0), shift=0.0, rate=1e-2, outside=None, network=RESIDUAL, **options):
    """A fit of a number, of which each part can be changed; outside of JAX, by a function of NumPy."""

    def generate(noise, beta, covariate):
        x = shift + beta + noise
        if outside is not None:
            x = jax.pure_callback(outside, jax.ShapeDtypeStruct((), "float32"), x, vmap_method="expand_dims")
        return None, x

    return lfvi(
        HierarchicalImplicitModel(dist.Normal(*prior), generate=generate, noise_shape=()),
        MeanFieldNormal(),
        network,
        ratio_optimizer=optax.adam(rate),
        posterior_optimizer=optax.adam(1e-2),
        ratio_batch=64,
        **options,
    )


CHANGES = {
    "nothing": {},
    "prior": {"prior": (0.0, 1.1)},
    "simulator": {"shift": 5.0},
    "learning rate": {"rate": 1.1e-2},
    "loss": {"loss": "kl"},
    "posterior samples": {"posterior_samples": 7},
    "ratio steps": {"ratio_steps": 2},
    "centered score": {"center_score": True},
    "width": {"width": 2.9},
}


@pytest.mark.usefixtures("quick_compilation")
def test_checkpoint_of_another_algorithm_is_refused(tmp_path):
    path, data = tmp_path / "run.npz", Data(jnp.linspace(-1, 1, 5))

    def go_on(**change):
        return fit(KEY, problem(**change), data, 4, checkpoint=path, progress=False)

    whole = go_on()
    assert_identical(go_on(**CHANGES.pop("nothing")), whole)  # built again, from the same source
    for change in CHANGES.values():
        with pytest.raises(ValueError, match=r"another run \(its model or settings differ\)"):
            go_on(**change)
    path.unlink()  # what is outside of JAX shows in the first parameters
    go_on(outside=lambda x: x, network=STANDARDIZING)
    with pytest.raises(ValueError, match=r"another run \(its model or settings differ\)"):
        go_on(outside=lambda x: np.float32(1.01) * x, network=STANDARDIZING)


def test_fingerprint_of_sets():
    one, same, other = ({"a", "b"}, frozenset("ba"), {"a", "c"})
    assert _checkpoints.fingerprint(one) == _checkpoints.fingerprint(same) != _checkpoints.fingerprint(other)


def test_fingerprint_of_programs():
    table = np.arange(6.0, dtype="float32")

    def program(scale=2.0, table=table, power=2, name="f", order=1):
        def f(x):
            y = jnp.where(x > 0, x**power, scale * x)[::order] + table
            return jax.jit(lambda y: jnp.sum(y * table))(y)

        f.__name__ = name
        return _checkpoints.fingerprint(jax.make_jaxpr(jax.value_and_grad(f))(table))

    assert program() == program() == program(name="g") == program(table=table.copy())
    changed = table.copy()
    changed[-1] += 1e-6
    others = {program(scale=2.1), program(table=changed), program(power=3), program(order=-1), program()}
    assert len(others) == 5


def without(name):
    def damage(contents):
        with np.load(io.BytesIO(contents[NAMES[0]])) as arrays:
            kept = {other: arrays[other] for other in arrays if other != name}
        file = io.BytesIO()
        np.savez(file, **kept)
        return {NAMES[0]: file.getvalue()}

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda contents: {NAMES[0]: contents[NAMES[0]][:-100]},
        lambda contents: {NAMES[0]: b""},
        lambda contents: {NAMES[0]: b"text"},
        without("state_3"),
        without("data"),
        without("length"),
        lambda contents: {NAMES[1]: contents[NAMES[1]][:-1]},
        lambda contents: {NAMES[1]: contents[NAMES[1]][:-1] + bytes([contents[NAMES[1]][-1] ^ 1])},
        lambda contents: {NAMES[1]: None},
    ],
    ids=["truncated", "empty", "no archive", "a part is missing", "an older file", "no length",
         "short history", "a bit of history", "no history"],
)  # fmt: skip
def test_damaged_checkpoint_is_refused(run, checkpoint, tmp_path, damage):
    contents = {**checkpoint[1], **damage(checkpoint[1])}
    path = write(tmp_path, {name: content for name, content in contents.items() if content is not None})
    with pytest.raises(ValueError, match=r"checkpoint: run.npz cannot be read.*delete it"):
        run(rounds=1, checkpoint=path)


# More steps.


def test_more_steps_are_those_of_the_longer_run(run):
    whole = run(rounds=1, chunk=5)
    half = run(steps=STEPS // 2, rounds=1, chunk=5)
    rest = run(steps=STEPS // 2, rounds=1, chunk=5, state=half.state)
    jax.tree.map(np.testing.assert_array_equal, rest.state, whole.state)
    both = [np.concatenate(values) for values in zip(half.history, rest.history, strict=True)]
    for a, b in zip(both, whole.history, strict=True):
        np.testing.assert_array_equal(a, b)


def test_more_steps_count_their_own_rounds(run, uninterrupted, tmp_path, capsys):
    first = run(steps=10, rounds=1, data=observed(x=1e3, noise=1e-4))
    assert first.outcome is Outcome.OUTSIDE and "state=result.state" in Outcome.DRIFTING.value
    options = {"state": first.state, "checkpoint": tmp_path / "run.npz"}
    more = run(progress=True, **options)
    assert f"{ROUNDS * STEPS}/{ROUNDS * STEPS}" in capsys.readouterr().err
    assert more.state.step == 10 + ROUNDS * STEPS and len(more.history.elbo) == ROUNDS * STEPS
    spread = more.history.spread
    assert spread[STEPS - 1] < 0.31 and 0.24 < spread[STEPS] < 0.46  # refined once, after a whole round
    assert_identical(run(**options), more)


def test_state_of_another_algorithm_is_refused(run, side_by_side):
    with pytest.raises(ValueError, match=r"state: expected one of this algorithm.*leaf\[0\]"):
        run(state=side_by_side.state)
    with pytest.raises(TypeError, match="state: expected a State"):
        run(state=side_by_side)
    own = jax.tree.map(lambda leaf: leaf[0], side_by_side.state)
    assert run(state=own, steps=10, rounds=1).state.step == STEPS + 10


# Numbers that are not finite.


@pytest.fixture(scope="module")
def failing():
    """LFVI whose simulator fails at one beta of the prior in 75,000."""

    def generate(noise, beta, covariate):
        return None, {"x": jnp.where(beta > 4.2, jnp.nan, beta + noise)}

    return lfvi(
        HierarchicalImplicitModel(dist.Normal(0.0, 1.0), generate=generate, noise_shape=()),
        MeanFieldNormal(),
        known_ratio(lambda x, z, beta, c: -((x["x"] - beta) ** 2) / 2),
        ratio_optimizer=optax.adam(1e-2),
        posterior_optimizer=optax.adam(1e-2),
    )


ROWS = Data({"x": jnp.linspace(-1, 1, 5)})


def test_the_last_finite_state_is_kept(failing, tmp_path):
    checkpoint = tmp_path / "run.npz"
    run = partial(fit, KEY, failing, ROWS, wait=0.0, progress=False)
    result = run(300, checkpoint=checkpoint)
    # x depends on the step's key alone within a round.
    k_init, k_step, _ = jax.random.split(KEY, 3)
    state = failing.init(k_init, ROWS)
    contrast, good = jax.jit(failing.contrast), 0
    while jnp.isfinite((shown := contrast(jax.random.fold_in(k_step, good), state, ROWS))[0]["x"]).all():
        good += 1
    x, _, beta, *_ = shown
    bad = np.isnan(x["x"][:1024])
    assert good % 30 and 0 < good < 270  # within a chunk
    assert result.outcome is Outcome.SIMULATOR_NOT_FINITE and '"failed": ~ok' in result.outcome.value
    share, first = 100 * bad.mean(), float(f"{float(beta[bad.argmax()]):.8g}")
    assert first > 4.2
    words = f" It was step {good + 1}: {share:.3g} % of the simulated x, the first at beta = {first}."
    assert result.advice == result.outcome.value + words
    assert result.state.step == good and len(result.history.elbo) == good + 1
    assert np.isnan(result.history.ratio_loss[-1]) and np.isfinite(result.history.ratio_loss[:-1]).all()
    jax.tree.map(np.testing.assert_array_equal, result.state, run(good).state)
    again = run(300, checkpoint=checkpoint)
    jax.tree.map(np.testing.assert_array_equal, again[:2], result[:2])
    assert again.advice == result.advice


@pytest.mark.parametrize("batch_size", [None, 40])
@pytest.mark.parametrize("way", ["generate", "simulate"])
def test_a_simulation_for_the_centering_that_fails_is_named(way, batch_size):
    def generate(noise, beta, covariate):
        return None, jnp.where(noise > 3.5, jnp.nan, beta + noise)

    def simulate(key, beta, covariate):
        return generate(jax.random.normal(key), beta, covariate)

    how = {"generate": generate, "noise_shape": ()} if way == "generate" else {"simulate": simulate}
    algorithm = lfvi(
        HierarchicalImplicitModel(dist.Normal(0.0, 1.0), **how),
        MeanFieldNormal(),
        known_ratio(lambda x, z, beta, c: -((x - beta) ** 2) / 2),
        ratio_optimizer=optax.adam(1e-2),
        posterior_optimizer=optax.adam(1e-2),
        ratio_batch=2,  # so that it hardly ever happens there
        batch_size=batch_size,
        posterior_samples=2,
        center_score=True,
    )
    data = Data(jnp.linspace(-1, 1, 80))
    result = fit(KEY, algorithm, data, 200, wait=0.0, progress=False)
    assert result.outcome is Outcome.SIMULATOR_NOT_FINITE
    # Which noise is too large depends on the step's key alone.
    _, k_step, _ = jax.random.split(KEY, 3)
    simulated, step, rows = (
        jax.jit(algorithm.simulated),
        0,
        2 * (batch_size or 80) * (1 + (way == "generate")),
    )
    while np.isfinite((made := simulated(jax.random.fold_in(k_step, step), result.state, data))[0]).all():
        step += 1
    x, beta = made
    assert x.shape == beta.shape == (2 + rows,) and np.isnan(x[2:]).any()  # two rows for r, two draws of beta
    assert 0 < step == result.state.step
    assert f"step {step + 1}: {100 * np.isnan(x).mean():.3g} % of the simulated x" in result.advice


def test_seeds_keep_their_last_finite_state(failing):
    keys = jax.random.split(KEY, 6)
    result = fit_seeds(keys, failing, ROWS, 60, wait=0.0, progress=False)
    assert {Outcome.SIMULATOR_NOT_FINITE} < set(result.outcome)  # and one that went well
    for seed, key in enumerate(keys):
        alone = fit(key, failing, ROWS, 60, wait=0.0, progress=False)
        assert (result.outcome[seed], result.advice[seed]) == (alone.outcome, alone.advice)
        jax.tree.map(
            lambda one, all_seeds, seed=seed: np.testing.assert_allclose(
                one, all_seeds[seed], rtol=1e-3, atol=1e-4
            ),
            alone.state,
            result.state,
        )
        steps = len(alone.history.elbo)
        loss = result.history.ratio_loss[seed]
        np.testing.assert_allclose(loss[:steps], alone.history.ratio_loss, rtol=1e-3)
        assert np.isnan(loss[steps:]).all() and len(loss) == 60


def test_what_is_said_of_simulated_x():
    x = {"a": jnp.zeros((4, 2)).at[2, 1].set(jnp.inf), "count": jnp.arange(4)}
    beta = {"b": jnp.arange(8.0).reshape(4, 2), "c": jnp.arange(4)}
    words = "25 % of the simulated x, the first at beta = {'b': [4.0, 5.0], 'c': 2.0}"
    assert training.describe_simulated(x, beta) == words
    assert training.describe_simulated({"count": jnp.arange(4)}, beta) == ""


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("name", ["lfvi", "classification", "joint_matching", "train_ratio", "fit_ratio"])
def test_no_warnings(name):
    optimizers = {"ratio_optimizer": optax.adam(1e-2), "posterior_optimizer": optax.adam(1e-2)}
    labeled, rows = Data(jnp.array([0, 1, 1]), jnp.ones((3, 1))), Data(jnp.linspace(-1, 1, 5))
    wide, network = Frame(jnp.zeros(1), jnp.ones(1)), ratio_network(hidden=(2,))
    run = partial(fit, KEY, steps=2, progress=False)
    linear = Network(lambda key, draws: jnp.zeros(draws.shape[1]), lambda params, draw: params @ draw)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        {
            "lfvi": lambda: run(problem(), rows),
            "classification": lambda: run(
                bayesian_classifier(Generator(features=1, classes=2), PointMass(), **optimizers), labeled
            ),
            "joint_matching": lambda: run(
                joint_matching(FLAT, network, batch_size=4, start=FLAT.prior.sample, **optimizers), rows
            ),
            "train_ratio": lambda: train_ratio(KEY, FLAT, network, rows, wide, optax.adam(1e-2), steps=2),
            "fit_ratio": lambda: fit_ratio(
                KEY, *jax.random.normal(KEY, (2, 50, 2)), linear, steps=80, batch_size=8
            ),
        }[name]()


def test_cosine_adam_decays_to_its_final_share():
    optimizer, steps = cosine_adam(0.1, 50, final=0.2), []
    params = {"a": jnp.zeros(2), "b": jnp.zeros(())}
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for _ in range(60):  # under a constant gradient Adam's step is its learning rate
        updates, state = update(jax.tree.map(jnp.ones_like, params), state)
        steps.append(-float(updates["b"]))
    assert steps[0] == pytest.approx(0.1, rel=1e-3) and steps[25] == pytest.approx(0.06, rel=0.05)
    np.testing.assert_allclose(steps[50:], 0.02, rtol=1e-3)
    assert updates["a"].shape == (2,)


# Many seeds side by side.

SEEDS = jax.random.split(KEY, 3)


@pytest.fixture(scope="module")
def side_by_side(algorithm):
    return fit_seeds(SEEDS, algorithm, observed(), STEPS, chunk=CHUNK, wait=0.0, progress=False)


def test_seeds_side_by_side_are_single_runs(run, side_by_side):
    for number, key in enumerate(SEEDS):
        single = run(key=key, rounds=1)
        own = jax.tree.map(lambda leaf, number=number: leaf[number], side_by_side.state.posterior)
        for a, b in zip(jax.tree.leaves(single.state.posterior), jax.tree.leaves(own), strict=True):
            np.testing.assert_allclose(a, b, atol=0.01)  # roundings have grown
        first = side_by_side.history.elbo[number, :20]
        np.testing.assert_allclose(single.history.elbo[:20], first, rtol=1e-4)
        assert side_by_side.outcome[number] is single.outcome


def test_seeds_do_not_know_of_each_other(algorithm, side_by_side):
    swapped = fit_seeds(SEEDS[::-1], algorithm, observed(), STEPS, chunk=CHUNK, wait=0.0, progress=False)
    np.testing.assert_allclose(
        swapped.state.posterior["beta"]["location"][::-1],
        side_by_side.state.posterior["beta"]["location"],
        rtol=1e-5,
    )
    assert swapped.outcome == side_by_side.outcome[::-1]


def test_progress_of_many_seeds(algorithm, capsys):
    fit_seeds(SEEDS, algorithm, observed(), 10, chunk=CHUNK)
    shown = capsys.readouterr().err
    assert "3 seeds" in shown and "10/10" in shown


def test_shapes_of_many_seeds(side_by_side):
    assert {values.shape for values in side_by_side.history} == {(len(SEEDS), STEPS)}
    assert np.all(side_by_side.state.step == STEPS) and len(side_by_side.outcome) == len(SEEDS)
    assert len({float(first) for first in side_by_side.history.ratio_loss[:, 0]}) == len(SEEDS)


@pytest.mark.parametrize(
    ("outcome", "data"),
    [(Outcome.COLLAPSED, {"noise": 1e-5}), (Outcome.NOT_FINITE, {"x": 3e38})],
    ids=lambda value: value.name if isinstance(value, Outcome) else "",
)
def test_verdicts_of_many_seeds(algorithm, outcome, data):
    result = fit_seeds(SEEDS, algorithm, observed(**data), STEPS, chunk=CHUNK, wait=0.0, progress=False)
    assert result.outcome == (outcome,) * len(SEEDS)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"keys": KEY}, ValueError, "keys: expected a vector of keys, .* got one"),
        ({"keys": np.zeros((3, 2), np.uint32)}, TypeError, "key"),
        ({"steps": 0}, ValueError, "steps"),
        ({"chunk": 2.5}, (TypeError, ValueError), "chunk"),
    ],
)
def test_wrong_calls_of_many_seeds(algorithm, change, error, message):
    options = {"keys": SEEDS, "algorithm": algorithm, "data": observed(), "steps": 10, **change}
    with pytest.raises(error, match=message):
        fit_seeds(**options)
