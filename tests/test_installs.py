"""Installations from a package index, tried on request: HIMLIB_INSTALLS=1 pytest -s tests/test_installs.py.

They download JAX several times, and run every chapter twice: two hours in all.
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
UV = Path(sys.prefix, "bin", "uv")
VERSIONS = """import json
from importlib.metadata import distributions
print(json.dumps({package.name.lower(): package.version for package in distributions()}))"""
USE = """import himlib, jax
from himlib.book.results import load
from himlib.simulators.conjugate import ConjugateGaussian
scale = ConjugateGaussian().posterior(jax.numpy.zeros(3)).scale
print(scale, bool(load("09_lotka_volterra")), himlib.__file__)"""


def call(*command, **options) -> str:
    options = {"env": os.environ, **options}
    options["env"] = {**options["env"], "TERM": "dumb"}  # or IPython sets the window's title
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment(folder: Path, *packages: str, python: str = sys.executable) -> Path:
    """Make a virtual environment with these packages, and return its Python."""
    call(python, "-m", "venv", folder)
    made = folder / "bin" / "python"
    call(made, "-m", "pip", "install", "--quiet", "--upgrade", "pip", *packages, cwd=ROOT)
    return made


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


@pytest.mark.parametrize(("jax", "installs"), [("99.0", True), ("0.1", False)])
def test_install_cell_leaves_jax_alone(install_cell, bare, tmp_path, jax, installs):
    """The environment of the test above, without himlib, and with a JAX that says it is of another time."""
    call(bare, "-m", "pip", "uninstall", "--yes", "--quiet", "himlib")
    place = next(Path(bare).parents[1].glob("lib/python3*/site-packages/jax-*.dist-info"))
    metadata = place / "METADATA"
    metadata.write_text(re.sub(r"^Version: .+$", f"Version: {jax}", metadata.read_text(), flags=re.M))
    place.rename(place.with_name(f"jax-{jax}.dist-info"))
    before = versions(bare)
    assert before["jax"] == jax and "himlib" not in before
    call(bare.with_name("ipython"), install_cell, cwd=tmp_path)
    after = versions(bare)
    assert after.pop("himlib", None) == (version("himlib") if installs else None)
    assert after == before  # not JAX, and nothing else


def test_install_cell_finds_what_goes_with_an_older_jax(install_cell, tmp_path):
    """Without Flax: the newest asks for a newer JAX, which would leave the plugin for a GPU behind."""
    python = environment(tmp_path / "venv", "jax==0.7.2", "ipython")
    before = versions(python)
    call(python.with_name("ipython"), install_cell, cwd=tmp_path)
    after = versions(python)
    assert "himlib" in after and {name: after[name] for name in before} == before


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """An environment with Colab's versions."""
    found = subprocess.run([UV, "python", "find", "3.13"], capture_output=True, text=True)
    if found.returncode:
        pytest.skip("Colab's Python 3.13 is not installed")
    folder = tmp_path_factory.mktemp("colab")
    return environment(folder, "-r", "tests/colab.txt", python=found.stdout.strip())


@pytest.fixture(scope="module")
def installed(colab, install_cell, tmp_path_factory):
    """What that environment held before and after the install cell, and what a notebook printed meanwhile."""
    folder = tmp_path_factory.mktemp("session")
    session = folder / "session.ipy"
    in_memory = "import matplotlib.pyplot, numpy, pandas, PIL"  # as on Colab before a notebook begins
    session.write_text(f"{in_memory}\n{install_cell.read_text()}\nfrom scipy import stats\n{USE}\n")
    before = versions(colab)
    output = call(colab.with_name("ipython"), session, cwd=folder)
    return before, versions(colab), output


def test_install_cell_adds_two_packages_on_colab(installed, install_cell, colab, tmp_path):
    before, after, output = installed
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"himlib", "numpyro"}
    assert "CpuDevice(id=0)" in output and re.search(r"^0\.63\d+ True", output, re.M)
    again = call(colab.with_name("ipython"), install_cell, cwd=tmp_path)
    assert again == ""  # as is stored in the chapters


def add_kernel(python: Path) -> Path:
    """Let the environment's kernel be found, in the folder that is returned."""
    share = python.parents[1] / "share" / "jupyter"
    file = share / "kernels" / "python3" / "kernel.json"
    specification = json.loads(file.read_text())
    specification["argv"][0] = str(python)
    file.write_text(json.dumps(specification))
    return share


def execute(name: str, kernels: Path, *prefix: str) -> int:
    """Execute a chapter by the kernel there, and return its memory in MB."""
    code = f"""import notebooks, sys
book, chapter = (notebooks.read(notebooks.BOOK / "{name}.ipynb") for _ in range(2))
measured = notebooks.execute(chapter, "{name}")
notebooks.normalize(chapter)
cells = list(zip(*map(notebooks.code_cells, (chapter, book))))
print(*[what for cell, _ in cells for what in notebooks.cell_problems(cell)], sep=chr(10))
text = lambda cell: [output.get("text") for output in cell.outputs]
print("cells that print something else than in the book:", *[
    cell.execution_count for cell, stored in cells if text(cell) != text(stored)])
print(measured["minutes"], measured["memory_mb"])"""
    settings = os.environ | {"JUPYTER_PATH": str(kernels), "PYTHONPATH": str(ROOT / "book")}
    settings.pop("PJRT_NPROC", None)
    output = call(*prefix, sys.executable, "-c", code, env=settings)
    *_, differing, measured = output.splitlines()
    minutes, memory = measured.split()
    print(f"{name}: {minutes} min, {memory} MB; {differing}")
    assert "ends in an error" not in output
    return int(memory)


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_on_colab(installed, colab, name):
    """With Colab's versions; long trainings round differently there, but what is asserted holds."""
    execute(name, add_kernel(colab))


@pytest.fixture(scope="module")
def binder(tmp_path_factory):
    """What environment.yml's pip section makes, and a kernel, which Binder adds by itself."""
    pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"][-1]["pip"]
    words = [word for line in [*pip, "ipykernel"] for word in line.split()]
    return add_kernel(environment(tmp_path_factory.mktemp("binder"), *words))


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_in_a_fresh_environment(binder, name):
    """On one core, within the memory that Binder gives, in the environment that Binder makes."""
    assert execute(name, binder, "taskset", "-c", "0") < MEMORY


def test_packages(tmp_path):
    """The wheel and the source archive hold the library and its stored results, and no tests."""
    call(UV, "build", "--quiet", "--out-dir", tmp_path, cwd=ROOT)
    (wheel,), (archive,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as source:
        in_archive = {name.partition("/")[2] for name in source.getnames()}
    in_wheel = set(ZipFile(wheel).namelist())
    library = {
        str(path.relative_to(ROOT))
        for path in notebooks.tracked()
        if path.is_relative_to(ROOT / "himlib") and path.suffix in (".py", ".json", ".typed")
    }
    assert len([name for name in library if name.endswith(".json")]) >= 3 and "himlib/py.typed" in library
    for names in (in_wheel, in_archive):
        assert library <= names
        assert not [name for name in names if name.startswith(("tests", "book"))]
    (metadata,) = (name for name in in_wheel if name.endswith("METADATA"))
    links = re.findall(r"\]\(([^)]+)\)", ZipFile(wheel).read(metadata).decode())
    assert len(links) > 10 and all(link.startswith("https://") for link in links)
    python = environment(tmp_path / "venv", wheel)
    assert "True" in call(python, "-c", USE, cwd=tmp_path)


def test_oldest_versions(tmp_path):
    """The library's examples run with the lower bounds of pyproject.toml, and not only with the newest."""
    python = environment(tmp_path / "venv", "pytest", "ipython")
    lowest = ("--resolution", "lowest-direct", "--python", python)
    call(UV, "pip", "install", "--quiet", *lowest, f"{ROOT}[book]")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = project["dependencies"] + project["optional-dependencies"]["book"]
    installed = versions(python)
    assert all(installed[name].startswith(bound) for name, bound in (line.split(">=") for line in bounds))
    examples = ("--doctest-modules", "--pyargs", "himlib", "-k", "not datasets and not arviz")  # not there
    call(python, "-m", "pytest", "--quiet", *examples, cwd=tmp_path)
