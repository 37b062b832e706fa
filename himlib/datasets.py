r"""Data sets that are small enough to be part of the library, each with its source."""

from typing import Any, NamedTuple

import numpy as np

__all__ = ["HareLynx", "hare_lynx", "load"]

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

    Examples
    --------
    >>> HareLynx._fields
    ('years', 'pelts')
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


LOADERS = {"hare_lynx": hare_lynx}


def load(name: str, **options: Any) -> NamedTuple:
    """Load a data set by its name.

    Parameters
    ----------
    name
        "hare_lynx".
    options
        What the function of that name in this module takes.

    Raises
    ------
    ValueError
        If there is no data set of that name.

    Examples
    --------
    >>> load("hare_lynx").pelts.shape
    (21, 2)
    """
    if name not in LOADERS:
        raise ValueError(f"name: expected one of {', '.join(sorted(LOADERS))}, got {name!r}.")
    return LOADERS[name](**options)
