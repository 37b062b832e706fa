"""Results of long runs, which chapters show beside what they run themselves.

Each is a JSON file in this folder. The script of the same name in ``book/full`` makes it again.
"""

import json
import os
import platform
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

__all__ = ["load", "store"]

FOLDER = Path(__file__).parent
BEGAN = time.monotonic()


def store(
    name: str, values: dict[str, Any], folder: Path = FOLDER, *, earlier: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write results, and how they came about, as ``name.json``.

    To the values is added ``made``: the command, the date, the versions, the device, the minutes on the clock
    (since this module was imported) and of processor time, and the peak of memory in MB.

    Parameters
    ----------
    name
        Name of the result, after its chapter: ``08_lotka_volterra_at_scale``.
    values
        What JSON can hold; arrays are to be lists.
    folder
        Where the file is written: aside first, then renamed, so that a killed run leaves no half of it.
    earlier
        The ``made`` of a run that this one goes on from: its minutes are added.

    Raises
    ------
    TypeError, ValueError
        If the values hold what JSON cannot, such as an array, NaN or infinity.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = store("example", {"seed": 0, "error": [0.1, 0.2]}, pathlib.Path(folder))
    ...     load("example", pathlib.Path(folder))["error"]
    [0.1, 0.2]
    """
    import resource  # not on Windows, where results can be read, but not made

    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    made = {
        "command": " ".join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("himlib", "jax", "numpy")},
        "device": f"{jax.device_count()} {jax.devices()[0].device_kind}",
        "minutes": round((time.monotonic() - BEGAN) / 60, 1),
        "processor_minutes": round(time.process_time() / 60, 1),
        "memory_mb": memory >> (20 if sys.platform == "darwin" else 10),  # Linux counts kilobytes
    }
    if earlier is not None:
        for field in ("minutes", "processor_minutes"):
            made[field] = round(made[field] + earlier[field], 1)
        made["memory_mb"] = max(made["memory_mb"], earlier["memory_mb"])
    text = json.dumps({**values, "made": made}, indent=1, allow_nan=False)
    aside = folder / f"{name}.json.part"
    aside.write_text(text + "\n")
    aside.replace(folder / f"{name}.json")
    return made


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
    >>> load("08_lotka_volterra", Path("nowhere"))
    Traceback (most recent call last):
        ...
    ValueError: name: expected one of [], got '08_lotka_volterra'.
    """
    names = sorted(path.stem for path in folder.glob("*.json"))
    if name not in names:
        raise ValueError(f"name: expected one of {names}, got {name!r}.")
    return json.loads((folder / f"{name}.json").read_text())
