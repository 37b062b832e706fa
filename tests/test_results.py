"""Stored results: what is written comes back, with its provenance; what cannot be written leaves nothing."""

import json
import math
import re
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from store import store

from himlib.book import results

ROOT = Path(__file__).parents[1]
STORED = sorted(results.FOLDER.glob("*.json"))
MADE = {
    "command", "date", "python", "himlib", "jax", "numpy", "device", "minutes", "processor_minutes",
    "memory_mb",
}  # fmt: skip


def test_round_trip(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", [str(ROOT / "book/full/example.py"), "--seed", "3"])
    monkeypatch.chdir(ROOT)
    values = {"seed": 3, "error": [0.1, -0.25], "name": "β"}
    made = store("example", values, tmp_path)
    assert results.load("example", tmp_path) == {**values, "made": made}
    assert set(made) == MADE
    assert made["command"] == "python book/full/example.py --seed 3"
    assert date.fromisoformat(made["date"]) <= date.today().fromordinal(date.today().toordinal() + 1)
    assert made["minutes"] >= 0 and 10 < made["memory_mb"] < 1e6
    assert [path.name for path in tmp_path.iterdir()] == ["example.json"]


def test_a_run_that_goes_on_adds_its_minutes(tmp_path):
    first = store("example", {}, tmp_path)
    earlier = {**first, "minutes": first["minutes"] + 60, "processor_minutes": 30.0, "memory_mb": 10**6}
    second = store("example", {}, tmp_path, earlier=earlier)
    assert second["minutes"] >= 60 and second["processor_minutes"] >= 30 and second["memory_mb"] == 10**6
    assert store("example", {}, tmp_path)["memory_mb"] < 10**6


def test_storing_again_replaces(tmp_path):
    store("example", {"error": 1, "old": True}, tmp_path)
    store("example", {"error": 2}, tmp_path)
    assert results.load("example", tmp_path)["error"] == 2 and "old" not in results.load("example", tmp_path)


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, np.zeros(2), np.float32(1), {1, 2}],
    ids=["nan", "inf", "array", "scalar", "set"],
)
def test_what_json_cannot_hold_leaves_the_old_file(tmp_path, value):
    store("example", {"error": 1}, tmp_path)
    with pytest.raises((TypeError, ValueError)):
        store("example", {"error": value}, tmp_path)
    assert results.load("example", tmp_path)["error"] == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_an_unknown_name_lists_the_known(tmp_path):
    store("example", {}, tmp_path)
    with pytest.raises(ValueError, match=re.escape("expected one of ['example'], got 'other'")):
        results.load("other", tmp_path)


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_stored_results_say_how_they_came_about(path):
    """A run of a few lines over a file in the repository; a path of one machine has no place in it."""
    text = path.read_text()
    made = json.loads(text)["made"]
    assert set(made) == MADE
    script = ROOT / "book" / "full" / f"{path.stem}.py"
    assert made["command"].startswith(f"python {script.relative_to(ROOT)}") and script.exists()
    assert date.fromisoformat(made["date"]) and len(text) < 200_000
    assert not re.search(r"/(?:root|work|home|tmp|Users)/", text)
