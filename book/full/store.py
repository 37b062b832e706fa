"""Where the scripts of this folder leave their results, for himlib.book.results to load.

There is nothing to run here.
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

from himlib.book.results import FOLDER, load

BEGAN = time.monotonic()


def begun(name: str) -> dict[str, Any]:
    """Load what a run stored of its pieces, and how they were made; or nothing, to begin with."""
    try:
        return load(name)
    except ValueError:
        return {"pieces": {}, "made": None}


def store(
    name: str, values: dict[str, Any], folder: Path = FOLDER, *, earlier: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write results, and how they came about, as ``name.json``.

    To the values is added ``made``: the command, the date, the versions, the device, the minutes on the clock
    (since this module was imported) and of processor time, and the peak of memory in MB.

    Parameters
    ----------
    name
        Name of the result, after its chapter: ``11_lotka_volterra_at_scale``.
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
