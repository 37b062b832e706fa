"""What runs on GitHub: the site is published by one job alone, and other versions are tried each week."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from functools import cache

import pytest
import yaml
from notebooks import ROOT

from himlib import __name__ as library

FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in FOLDER.glob("*.yml")}
JOBS = {(flow, name): job for flow, content in WORKFLOWS.items() for name, job in content["jobs"].items()}
# The first versions of these that run on Node 24, which is what GitHub's machines have.
ACTIONS = {"checkout": 5, "setup-python": 6, "upload-pages-artifact": 5, "deploy-pages": 5}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NAMES = {
    "scikit-learn": "sklearn",
    "pytest-xdist": "xdist",
    "markdown-it-py": "markdown_it",
}  # of distributions that a module has another name for


def triggers(flow: str) -> dict:
    return WORKFLOWS[flow][True]  # to YAML, "on" is a truth value


def make(*arguments, folder=ROOT) -> subprocess.CompletedProcess:
    command = ["make", "--no-print-directory", "-f", ROOT / "Makefile", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("job", JOBS.values(), ids=" ".join)
def test_jobs(job):
    assert job["timeout-minutes"] <= 90
    for step in job["steps"]:
        if "uses" in step:
            name, number = re.fullmatch(r"actions/([\w-]+)@v(\d+)", step["uses"]).groups()
            assert int(number) >= ACTIONS[name]
    for content in WORKFLOWS.values():
        assert content["permissions"] == {"contents": "read"}


def test_site_is_published_by_one_job_alone():
    jobs = WORKFLOWS["book"]["jobs"]
    publishes = jobs["publish"]
    assert publishes["needs"] == "test" and "strategy" not in jobs["test"]
    assert publishes["if"] == "github.ref == 'refs/heads/main' && github.event_name == 'push'"
    uploads = {name for name, job in jobs.items() if "upload-pages-artifact" in str(job)}
    assert uploads == {"test"}
    steps = [step.get("uses", step.get("run")) for step in publishes["steps"]]
    assert steps.index("make address") < next(i for i, step in enumerate(steps) if "deploy-pages" in step)


@pytest.mark.parametrize("url", ["OWNER/" + "REPOSITORY", "some-one/a.book"])
def test_placeholder_stops_the_publication(tmp_path, url):
    (tmp_path / "_config.yml").write_text(f"repository: {{url: 'https://github.com/{url}'}}")
    done = make("address", folder=tmp_path)
    assert bool(done.returncode) == ("OWNER" in url) == ("make repository URL=" in done.stdout)


def test_book_says_so_too(tmp_path):
    assert make("-n", "-o", ".venv/ready", "book").stdout.count("OWNER/" + "REPOSITORY") == 2


def test_versions_are_tried_each_week_and_on_request():
    (entry,) = triggers("versions")["schedule"]
    *_, day_of_month, month, weekday = entry["cron"].split()
    assert (day_of_month, month) == ("*", "*") and weekday.isdigit()
    assert "workflow_dispatch" in triggers("versions")
    job = JOBS["versions", "library"]
    pythons = {leg["versions"]: leg["python"] for leg in job["strategy"]["matrix"]["include"]}
    assert not job["strategy"]["fail-fast"] and set(pythons) == {"newest", "oldest", "colab"}
    assert PROJECT["project"]["requires-python"] == f">={pythons['oldest']}"
    assert f"(Python {pythons['colab']}." in (ROOT / "tests" / "colab.txt").read_text()
    assert job["steps"][-1]["run"] == "make library VERSIONS=${{ matrix.versions }}"


@pytest.mark.parametrize(
    ("versions", "asked"),
    [("newest", ""), ("oldest", "--resolution lowest-direct "), ("colab", "-r tests/colab.txt ")],
)
def test_versions_that_are_asked_for(versions, asked):
    commands = re.sub(" +", " ", make("-n", "library", f"VERSIONS={versions}").stdout)
    assert f'--python _build/versions/{versions} {asked}-e ".[book]"\n' in commands


def test_wrong_versions():
    assert "expected newest, oldest or colab, got 'latest'" in make("library", "VERSIONS=latest").stdout


@cache
def chosen() -> list:
    """The files of tests that `make library` runs."""
    command = re.search(r"\$\((grep .+)\)", make("-n", "library", "VERSIONS=newest").stdout)[1]
    listed = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True).stdout
    return [ROOT / name for name in listed.split()]


def imported(source: str) -> set[str]:
    """The packages that a text imports, wherever it does."""
    nodes = list(ast.walk(ast.parse(source)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.partition(".")[0] for name in names}


def test_library_is_tested_with_what_its_group_installs():
    project = PROJECT["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["book"]
    lines += PROJECT["dependency-groups"]["test"]
    packages = [re.match(r"[\w-]+", line)[0] for line in lines]
    known = {NAMES.get(package, package) for package in packages} | {library, "toys", "store", "pandas"}
    assert len(chosen()) > 30
    missing = {path.name: imported(path.read_text()) - known - sys.stdlib_module_names for path in chosen()}
    assert {name: names for name, names in missing.items() if names - {name.removesuffix(".py")}} == {}
    assert imported("def f():\n    import a.b\n    from c import d") == {"a", "c"}


GH = """#!/usr/bin/env bash
echo "$@" >> "$CALLS"
[ "$2" = list ] && echo "$OPEN" || true"""


@pytest.mark.parametrize(
    ("open_issue", "asked"), [("", "issue create --title"), ("7", "issue comment 7 --body")]
)
def test_a_failure_is_told_once(tmp_path, open_issue, asked):
    """An issue is opened, or the one that is open gets a comment, and no other job may write to issues."""
    job = JOBS["versions", "report"]
    assert (job["if"], job["needs"], job["permissions"]) == ("failure()", "library", {"issues": "write"})
    assert [name for name, other in JOBS.items() if "issues" in other.get("permissions", {})] == [
        ("versions", "report")
    ]
    assert "GH_TOKEN" in job["env"] and "GH_REPO" in job["env"]
    program, calls = tmp_path / "gh", tmp_path / "calls"
    program.write_text(GH)
    program.chmod(0o755)
    settings = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "CALLS": str(calls),
        "OPEN": open_issue,
        "RUN": "run/5",
    }
    (step,) = job["steps"]
    subprocess.run(["bash", "-e", "-c", step["run"]], env=settings, check=True)
    _, told = calls.read_text().splitlines()
    assert told.startswith(asked) and "run/5" in told
