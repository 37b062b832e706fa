"""fit: verdicts that data alone provoke, histories, checkpoints that survive a kill, and interruptions."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import known_everything

from himlib import training
from himlib.algorithm import Data, Info
from himlib.training import Outcome, Result, cosine_adam, fit, fit_seeds

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
        options = {"progress": False, "chunk": CHUNK, **options}
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
        (Outcome.CONVERGED, {}),
        (
            Outcome.DRIFTING,
            {"x": 1e3, "noise": 1e-4},
        ),  # each step goes a thousandth of the way
        (Outcome.SATURATED, {"noise": 1e-3, "offset": 8.0}),  # a ratio that knows every sample's class
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
    assert len(result.history.elbo) == result.state.step
    assert (result.state.step == STEPS) == finite  # a run without numbers stops at once


@pytest.mark.parametrize(
    ("accuracy", "sd", "outcome"),
    [
        (0.995, 0.01, Outcome.SATURATED),  # r is certain
        (0.979, 1.0, Outcome.SATURATED),  # r must know 3.7 nats at least, and q has learned none of them
        (0.979, 0.5, Outcome.SATURATED),  # two coordinates, each of log 2 nats: 1.4
        (0.979, 0.1, Outcome.CONVERGED),  # 4.6 nats
        (0.92, 0.2, Outcome.CONVERGED),  # 3.2, where 2.1 are needed
        (0.85, 1.0, Outcome.CONVERGED),  # chance may do this with one datum: not said
        (0.979, 0.0, Outcome.CONVERGED),  # a point mass
    ],
)
def test_saturation_by_what_q_has_learned(accuracy, sd, outcome):
    steps, chunk = 100, 10
    history = Info(*(np.full(steps, value, np.float32) for value in (0, 0, accuracy, 0, 0, sd)))
    moments = [np.array([[0.0, 0.0], [sd, sd]])] * 10
    assert training._judge(history, moments, steps, chunk) is outcome


def test_history_has_one_entry_per_step(uninterrupted):
    assert isinstance(uninterrupted, Result) and isinstance(uninterrupted.history, Info)
    assert uninterrupted.state.step == STEPS * ROUNDS and uninterrupted.outcome is Outcome.CONVERGED
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
    assert os.listdir(tmp_path) == ["run.npz"]


CHILD = """
import os, signal, sys, threading, time
from test_training import *

signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background may inherit it ignored
directory, algorithm = Path(sys.argv[1]), known_everything()
options = {"progress": False, "chunk": CHUNK}

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


@pytest.fixture(scope="module")
def checkpoint(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "run.npz"
    run(rounds=1, checkpoint=path)
    return path.read_bytes()


def test_checkpoint_of_another_run_is_refused(run, checkpoint, tmp_path):
    path = tmp_path / "run.npz"
    path.write_bytes(checkpoint)
    with pytest.raises(ValueError, match=r"checkpoint: run.npz is of another run"):
        run(key=jax.random.key(0), checkpoint=path)
    other = known_everything(local=None)._replace(init=lambda key, data: {"only": jnp.zeros(3)})
    with pytest.raises(ValueError, match=r"another run \(.*parameters differ\); name a new file"):
        fit(KEY, other, observed(), STEPS, checkpoint=path, progress=False)
    assert path.read_bytes() == checkpoint


def with_missing_array(content):
    with np.load(io.BytesIO(content)) as arrays:
        kept = {name: arrays[name] for name in arrays if name != "piece_3_elbo"}
    file = io.BytesIO()
    np.savez(file, **kept)
    return file.getvalue()


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[:-100], lambda content: b"", lambda content: b"text", with_missing_array],
    ids=["truncated", "empty", "no archive", "a part is missing"],
)
def test_damaged_checkpoint_is_refused(run, checkpoint, tmp_path, damage):
    path = tmp_path / "run.npz"
    path.write_bytes(damage(checkpoint))
    with pytest.raises(ValueError, match=r"checkpoint: run.npz cannot be read.*delete it"):
        run(checkpoint=path)


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
    return fit_seeds(SEEDS, algorithm, observed(), STEPS, chunk=CHUNK, progress=False)


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
    swapped = fit_seeds(SEEDS[::-1], algorithm, observed(), STEPS, chunk=CHUNK, progress=False)
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
    [(Outcome.SATURATED, {"noise": 1e-3, "offset": 8.0}), (Outcome.NOT_FINITE, {"x": 3e38})],
    ids=lambda value: value.name if isinstance(value, Outcome) else "",
)
def test_verdicts_of_many_seeds(algorithm, outcome, data):
    result = fit_seeds(SEEDS, algorithm, observed(**data), STEPS, chunk=CHUNK, progress=False)
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
