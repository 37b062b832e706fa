"""What is kept from one run to the next: downloads, and what JAX compiles."""

import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

__all__ = ["cache_compilation"]


def cache_folder() -> Path:
    """Where things are kept: ``$HIMLIB_DATA``, or ``.cache/himlib`` in the user's home."""
    return Path(os.environ.get("HIMLIB_DATA") or Path.home() / ".cache" / "himlib")


def cache_compilation(folder: Any = None) -> Path:
    """Keep compiled programs in a folder, for this process and all later ones that call this.

    JAX's persistent compilation cache, for programs that take more than a tenth of a second to compile. What
    is computed stays the same. A program is kept for the version of JAX and its settings, and here for the
    kind of processor too, so that machines may share a home folder. It grows by megabytes for each model,
    and may be deleted at any time.

    Parameters
    ----------
    folder
        Where; by default ``compiled`` beside the data sets, in ``$HIMLIB_DATA``, or else ``~/.cache/himlib``.

    Returns
    -------
    pathlib.Path
        The folder of this kind of processor.

    Examples
    --------
    >>> import tempfile
    >>> before = jax.config.jax_compilation_cache_dir
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache_compilation(folder).parent == Path(folder)
    True
    >>> jax.config.update("jax_compilation_cache_dir", before)  # as it was
    """
    place = Path(folder or cache_folder() / "compiled") / _processor()
    place.mkdir(parents=True, exist_ok=True)
    compilation_cache.reset_cache()  # what was compiled before would have settled that there is none
    jax.config.update("jax_compilation_cache_dir", str(place))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return place


def _processor() -> str:
    """A name for this kind of processor: its family, and what instructions it knows, if that can be read."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else [platform.processor()]
    known = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    return f"{platform.machine()}-{hashlib.sha256(' '.join(known).encode()).hexdigest()[:8]}"
