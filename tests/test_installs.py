"""Installations from a package index, tried on request: HIMLIB_INSTALLS=1 pytest -s tests/test_installs.py.

They download JAX several times, and run every chapter: an hour in all.
"""

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from importlib.metadata import version
from pathlib import Path
from zipfile import ZipFile

import notebooks
import pytest
import yaml
from notebooks import ROOT
from trees import copy_repository

pytestmark = pytest.mark.skipif("HIMLIB_INSTALLS" not in os.environ, reason="set HIMLIB_INSTALLS=1")
CHAPTERS = [path.stem for path in notebooks.notebooks()]
MEMORY = 2_000  # MB: what Binder gives
VERSIONS = """import json
from importlib.metadata import distributions
print(json.dumps({package.name.lower(): package.version for package in distributions()}))"""
USE = """import himlib.lfvi, jax
from himlib.results import load
from himlib.simulators.conjugate import ConjugateGaussian
scale = ConjugateGaussian().posterior(jax.numpy.zeros(3)).scale
print(scale, bool(load("07_lotka_volterra")), himlib.__file__)"""


def call(*command, **options) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment(folder: Path, *packages: str) -> Path:
    """Make a virtual environment with these packages, and return its Python."""
    call(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    call(python, "-m", "pip", "install", "--quiet", "--upgrade", "pip", *packages)
    return python


def versions(python: Path) -> dict[str, str]:
    return json.loads(call(python, "-c", VERSIONS))


@pytest.fixture(scope="module")
def install_cell(tmp_path_factory):
    """The install cell, with a local repository in the place of the published one."""
    local = copy_repository(tmp_path_factory.mktemp("published"))
    file = tmp_path_factory.mktemp("cell") / "cell.ipy"  # not beside himlib, which would be found there
    file.write_text(notebooks.INSTALL.format(url=f"file://{local}") + "\n")
    return file


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    return environment(tmp_path_factory.mktemp("bare"), "numpy", "matplotlib", "ipython")


def test_install_cell_in_a_bare_environment(install_cell, bare, tmp_path):
    assert "jax" not in versions(bare)
    output = call(bare.with_name("ipython"), install_cell, cwd=tmp_path)
    assert "himlib" in versions(bare), output
    scale, stored, place = call(bare, "-c", USE, cwd=tmp_path).split()
    assert (f"{float(scale):.3f}", stored) == ("0.632", "True")
    assert str(ROOT) not in place
    assert "pytest" not in versions(bare) and "scikit-learn" not in versions(bare)


def test_install_cell_leaves_a_newer_jax_alone(install_cell, bare, tmp_path):
    """The environment of the test above, without himlib, and with a JAX that says it is from the future."""
    call(bare, "-m", "pip", "uninstall", "--yes", "--quiet", "himlib")
    place = next(Path(bare).parents[1].glob("lib/python3*/site-packages/jax-*.dist-info"))
    metadata = place / "METADATA"
    metadata.write_text(re.sub(r"^Version: .+$", "Version: 99.0", metadata.read_text(), flags=re.M))
    place.rename(place.with_name("jax-99.0.dist-info"))
    before = versions(bare)
    assert before["jax"] == "99.0" and "himlib" not in before
    call(bare.with_name("ipython"), install_cell, cwd=tmp_path)
    after = versions(bare)
    assert after.pop("himlib") == version("himlib")
    assert after == before  # not JAX, and nothing else


@pytest.fixture(scope="module")
def binder(tmp_path_factory):
    """What environment.yml's pip section makes, and a kernel, which Binder adds by itself."""
    pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"][-1]["pip"]
    folder = tmp_path_factory.mktemp("binder")
    call(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    lines = [word for line in [*pip, "ipykernel"] for word in line.split()]
    call(python, "-m", "pip", "install", "--quiet", *lines, cwd=ROOT)
    kernel = folder / "share" / "jupyter" / "kernels" / "python3"
    specification = json.loads((kernel / "kernel.json").read_text())
    specification["argv"][0] = str(python)
    (kernel / "kernel.json").write_text(json.dumps(specification))
    return folder


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_in_a_fresh_environment(binder, name):
    """On one core, within the memory that Binder gives, in the environment that Binder makes."""
    code = f"""import notebooks, sys
chapter = notebooks.read(notebooks.BOOK / "{name}.ipynb")
measured = notebooks.execute(chapter, "{name}")
outputs = [what for cell in notebooks.code_cells(chapter) for what in notebooks.cell_problems(cell)]
print(*outputs, sep=chr(10))
print(measured["minutes"], measured["memory_mb"])"""
    settings = os.environ | {
        "JUPYTER_PATH": str(binder / "share" / "jupyter"),
        "PYTHONPATH": str(ROOT / "book"),
    }
    settings.pop("PJRT_NPROC", None)
    output = call("taskset", "-c", "0", sys.executable, "-c", code, env=settings)
    minutes, memory = output.splitlines()[-1].split()
    print(f"{name}: {minutes} min on one core, {memory} MB")
    assert int(memory) < MEMORY
    assert "ends in an error" not in output


def test_packages(tmp_path):
    """The wheel and the source archive hold the library and its stored results, and no tests."""
    call(Path(sys.prefix, "bin", "uv"), "build", "--quiet", "--out-dir", tmp_path, cwd=ROOT)
    (wheel,), (archive,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as source:
        in_archive = {name.partition("/")[2] for name in source.getnames()}
    in_wheel = set(ZipFile(wheel).namelist())
    library = {
        str(path.relative_to(ROOT))
        for path in notebooks.tracked()
        if path.is_relative_to(ROOT / "himlib") and path.suffix in (".py", ".json")
    }
    assert len([name for name in library if name.endswith(".json")]) >= 3
    for names in (in_wheel, in_archive):
        assert library <= names
        assert not [name for name in names if name.startswith(("tests", "book"))]
    python = environment(tmp_path / "venv", wheel)
    assert "True" in call(python, "-c", USE, cwd=tmp_path)


def test_oldest_versions(tmp_path):
    """The library's examples run with the lower bounds of pyproject.toml, and not only with the newest."""
    python = environment(tmp_path / "venv", "pytest", "ipython")
    lowest = ("--resolution", "lowest-direct", "--python", python)
    call(Path(sys.prefix, "bin", "uv"), "pip", "install", "--quiet", *lowest, ROOT)
    bounds = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    installed = versions(python)
    assert all(installed[name].startswith(bound) for name, bound in (line.split(">=") for line in bounds))
    examples = ("--doctest-modules", "--pyargs", "himlib", "-k", "not datasets")  # which need the data
    call(python, "-m", "pytest", "--quiet", *examples, cwd=tmp_path)
