"""Copies of the repository, for tests that change it."""

import shutil
import subprocess
from pathlib import Path

import notebooks


def copy_repository(folder: Path) -> Path:
    """Copy the text files of the repository, as one commit of a repository of its own."""
    for path in notebooks.tracked():
        target = folder / path.relative_to(notebooks.ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    author = "-c user.name=a -c user.email=a@b.c"
    for command in ("init --quiet --initial-branch=main", "add .", f"{author} commit --quiet -m copy"):
        subprocess.run(["git", *command.split()], cwd=folder, check=True)
    return folder
