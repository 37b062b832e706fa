"""Results of long runs, which chapters show beside what they run themselves.

Each is a JSON file in this folder. The script of the same name in ``book/full`` makes it again.
"""

import json
from pathlib import Path
from typing import Any

__all__ = ["load"]

FOLDER = Path(__file__).parent


def load(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """Read stored results by name.

    Parameters
    ----------
    name
        Name of the result, after its chapter.
    folder
        Where it lies.

    Raises
    ------
    ValueError
        If there is no result of that name.

    Examples
    --------
    >>> load("11_lotka_volterra", Path("nowhere"))
    Traceback (most recent call last):
        ...
    ValueError: name: expected one of [], got '11_lotka_volterra'.
    """
    names = sorted(path.stem for path in folder.glob("*.json"))
    if name not in names:
        raise ValueError(f"name: expected one of {names}, got {name!r}.")
    return json.loads((folder / f"{name}.json").read_text())
