"""The project's own rules: versions, addresses, pages, references, documentation."""

import importlib
import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
from enum import Enum

import notebooks
import pytest
import yaml
from notebooks import BOOK, ROOT

import himlib

TRACKED = {str(path.relative_to(ROOT)): path.read_text() for path in notebooks.tracked()}
PROJECT = tomllib.loads(TRACKED["pyproject.toml"])
MODULES = {
    name: importlib.import_module(name) for _, name, _ in pkgutil.walk_packages(himlib.__path__, "himlib.")
}
# Each module of these has its own place on the API page; of other rooms the door has it, with their names.
SHELVES = ("himlib.simulators", "himlib.book")
PUBLIC = {
    name: module
    for name, module in MODULES.items()
    if name not in SHELVES and name.startswith(SHELVES) + 1 == name.count(".") and hasattr(module, "__all__")
}
ROOMS = [name for name in MODULES if hasattr(MODULES[name], "__path__") and name.count(".") == 1]
# Repositories of others that the book may point to.
OTHERS = ("github.com/jax-ml/jax", "github.com/google/flax")
BRITISH = (
    "behaviour|colour|neighbour|favour|labelled(?!by)|modell(?:ed|ing)|centred|(?:normal|optim|parametr|parameter|initial|"
    "standard|vector|general|summar|minim|maxim|real|random|factor|marginal|amort|discret|organ|regular)is(?:e|ing|ation)"
)


def found(pattern: str, texts: dict[str, str]) -> list[str]:
    return [f"{name}: {match[0]}" for name, text in texts.items() for match in re.finditer(pattern, text)]


def stray_addresses(texts: dict[str, str]) -> list[str]:
    """List the addresses of repositories that the one setting does not explain."""
    known = {*notebooks.addresses(notebooks.repository_url()), *OTHERS}
    places = r"(?:github\.com|(?<=\.com/)github|(?<=/v2)/gh)/[\w-]+/[\w.-]+|[\w-]+\.github\.io/[\w.-]+"
    matches = (match[0] for text in texts.values() for match in re.finditer(places, text))
    return [place for place in matches if place.rstrip(".").removesuffix(".git") not in known]


def test_versions():
    assert "://" not in TRACKED["constraints.txt"]
    pins = TRACKED["constraints.txt"].splitlines()
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+( ; .+)?", pin)] == []
    project = PROJECT["project"]
    bounds = project["dependencies"] + project["optional-dependencies"]["book"]
    assert [bound for bound in bounds if not re.fullmatch(r"[\w-]+>=[\d.]+", bound)] == []


def test_environment():
    environment = yaml.safe_load(TRACKED["environment.yml"])
    assert set(environment) == {"name", "channels", "dependencies"}
    python, pip, lines = environment["dependencies"]
    steps = yaml.safe_load(TRACKED[".github/workflows/book.yml"])["jobs"]["test"]["steps"]
    tested = next(step["with"]["python-version"] for step in steps if "setup-python" in step.get("uses", ""))
    assert python.removeprefix("python=") == tested
    assert pip == "pip"
    for line in lines["pip"]:
        option, path = line.split()
        assert option in ("-c", "-e")
        assert (ROOT / path.removesuffix("[book]")).exists()
        assert path.endswith("[book]") == (option == "-e")  # Binder runs chapters


@pytest.mark.skipif(not shutil.which("jupyter-repo2docker"), reason="repo2docker is not installed")
def test_binder_recognizes_the_environment():
    command = ["jupyter-repo2docker", "--no-build", "--debug", "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "conda environment" in done.stdout + done.stderr


def test_citation():
    citation = yaml.safe_load(TRACKED["CITATION.cff"])
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["repository-code"] == notebooks.repository_url()


def test_addresses():
    assert stray_addresses(TRACKED) == []
    own = notebooks.repository_url()
    assert stray_addresses({"a": f"{own} git+{own}@main {own}.git, {own}."}) == []
    strays = [
        own + "-2",
        own.replace("github.com/", "github.com/not-"),
        "https://someone.github" + ".io/book",
    ]
    strays += [
        "https://mybinder.org/v2/gh/" + "some/one",
        "https://colab.research.google.com/github/" + "some/one",
    ]
    assert len(stray_addresses({"a": " ".join(strays)})) == len(strays)


def test_nothing_of_this_machine():
    # The notebooks' check looks for temporary folders as well; a library may name them.
    pattern = r"/(?:root|work|home|Users)/[a-z.]|ipykernel_\d"
    assert found(pattern, TRACKED) == []
    assert found(pattern, {"a": "/" + "home/me"}) != []


def test_spelling():
    texts = {
        name: text
        for name, text in TRACKED.items()
        if name not in ("book/references.bib", "tests/test_project.py")
    }
    assert found(rf"(?i)\b(?:\w*(?:{BRITISH})\w*)\b", texts) == []
    assert found(BRITISH, {"a": "colour and normalise; optimistic colors"}) == ["a: colour", "a: normalise"]


def test_no_array_becomes_a_number():
    """np.float64 of an array of one number is that number, without axes, in NumPy 2.0."""
    found = [name for name, text in TRACKED.items() if name.startswith("himlib/") and "np.float64(" in text]
    assert not found


def test_files_are_where_links_say():
    for name in ("README.md", "CONTRIBUTING.md"):
        targets = re.findall(r"\]\((?!http)([^)#]+)", TRACKED[name])
        assert [target for target in targets if not (ROOT / target).exists()] == []


def test_readme_elsewhere():
    """On PyPI no link is relative, since nothing lies beside the text there."""
    text, own = TRACKED["README.md"], notebooks.repository_url()
    for rule in PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    relative = r"\]\((?!https://)"
    assert re.findall(relative, TRACKED["README.md"]) and not re.findall(relative, text)
    assert f"]({own}/raw/main/book/figures/front.png)" in text, "a picture, and not the page about it"
    assert re.sub(f"{own}/(raw|blob)/main/", "", text) == TRACKED["README.md"], "nothing else changes"


def test_every_page_is_listed():
    listed = re.findall(r"(?:file|root): ([\w/]+)", TRACKED["book/_toc.yml"])
    pages = [
        str(path.relative_to(BOOK).with_suffix(""))
        for pattern in ("*.md", "*.ipynb", "course/*.md")
        for path in BOOK.glob(pattern)
        if path.stem != "template"
    ]
    assert sorted(listed) == sorted(pages)


def test_every_reference_is_used():
    keys = set(re.findall(r"@\w+\{(\w+),", TRACKED["book/references.bib"]))
    texts = [
        text
        for name, text in TRACKED.items()
        if name.startswith("book/") and name.endswith((".md", ".ipynb"))
    ]
    roles = re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", "".join(texts))
    assert {key.strip() for role in roles for key in role.split(",")} == keys


def test_every_module_is_on_the_api_page():
    shown = re.findall(r"automodule:: ([\w.]+)\n   :members:\n", TRACKED["book/api.md"])
    assert sorted(shown) == sorted(PUBLIC) and TRACKED["book/api.md"].count("automodule") == len(PUBLIC)


def test_every_public_name_has_one_place():
    places = [name for module in PUBLIC.values() for name in module.__all__ if name != "load"]
    assert len(set(places)) == len(places) > 100
    objects = [id(getattr(module, name)) for module in PUBLIC.values() for name in module.__all__]
    assert len(set(objects)) == len(objects)
    files = {
        name: module for name, module in MODULES.items() if hasattr(module, "__all__") and name not in SHELVES
    }
    assert not [name for name in files if re.search(r"\._", name)], "private, but with public names"
    assert {name for module in files.values() for name in module.__all__} == set(places) | {"load"}


@pytest.mark.parametrize("room", ROOMS)
def test_doors_show_what_is_public_in_their_rooms(room):
    if room == "himlib.book":
        assert not hasattr(MODULES[room], "__all__"), "nobody needs matplotlib who does not ask for it"
        return
    files = {name.rpartition(".")[2]: MODULES[name] for name in MODULES if name.startswith(f"{room}.")}
    files = {name: module for name, module in files.items() if name[0] != "_"}
    if room == "himlib.simulators":
        assert MODULES[room].__all__ == sorted(files)
        return
    assert sorted(MODULES[room].__all__) == sorted(name for file in files.values() for name in file.__all__)
    assert not set(files) & set(MODULES[room].__all__), "the name would hide the file"


def test_everyday_names():
    shown = re.findall(r"`hl\.(\w+) <([\w.]+)>`", TRACKED["book/api.md"])
    assert sorted(name for name, _ in shown) == sorted(himlib.__all__)
    for name, place in shown:
        module, _, last = place.rpartition(".")
        if last != "simulators":
            assert getattr(himlib, name) is getattr(sys.modules[module], last), name
    modules = {name.partition(".")[2] for name in MODULES}
    rooms = {name.partition(".")[2] for name in ROOMS}
    assert set(himlib.__all__) & modules == rooms - {"book"}, (
        "no function hides a file, and no room is missing"
    )


def shown_or_told(value) -> bool:
    """Whether there is an example; of what is returned, and made by nobody, a list of its parts will do."""
    text = inspect.getdoc(value) or ""
    if inspect.isclass(value) and issubclass(value, Enum):
        return bool(text)
    return ">>>" in text or (hasattr(value, "_fields") and "Attributes\n---" in text)


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_documented(module):
    named = {name: getattr(MODULES[module], name) for name in MODULES[module].__all__}
    bare = [
        name
        for name, value in named.items()
        if (inspect.isclass(value) or inspect.isroutine(value)) and not shown_or_told(value)
    ]
    assert bare == [], "without an example"
    values = [name for name, value in named.items() if name.isupper() and not inspect.isclass(value)]
    sources = "\n".join(text for name, text in TRACKED.items() if name.startswith("himlib/"))
    unsaid = [name for name in values if not re.search(rf"(?m)^#: .+\n{name}\b.* = ", sources)]
    assert unsaid == [], "not on the API page, which shows what begins with #:"
    assert MODULES[module].__doc__


def test_benchmarks_leave_the_process_as_it_was():
    """They are imported for their doctests: what one of them sets holds for all tests that come after."""
    scripts = {name: text for name, text in TRACKED.items() if name.startswith("tests/benchmarks/bench_")}
    assert len(scripts) > 5
    for name, text in scripts.items():
        assert not re.search(r"os\.environ|setaffinity|jax\.config", text), name
