"""Execute the chapters, check them, begin a new one, and say where the repository lives.

python book/notebooks.py run [--all] [FILE ...]  execute what changed, or everything, in place
python book/notebooks.py full                    execute at the paper's scale into _build/full
python book/notebooks.py new NN_topic            begin a chapter from the template
python book/notebooks.py repository URL          write the repository's address everywhere

A chapter's header is data, the key ``himlib`` of the notebook's metadata; its first cell is
drawn from it.
"""

import argparse
import hashlib
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import yaml
from nbclient import NotebookClient

BOOK = Path(__file__).resolve().parent
ROOT = BOOK.parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"file_extension": ".py", "name": "python", "pygments_lexer": "ipython3"}
NUMBER = int | float
OF_THIS_MACHINE = re.compile(
    r"/(?:root|work|home|tmp|Users)/[A-Za-z.]|ipykernel_\d|\bat 0x[0-9a-f]{6,}"
)
PEAK_MEMORY = """import pathlib, re, resource
status = pathlib.Path("/proc/self/status")  # getrusage counts the process before this one
if status.exists():
    print(int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]) >> 10)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 20)"""
INSTALL = """import importlib.util
from importlib.metadata import distributions

if importlib.util.find_spec("himlib") is None:  # as on Colab, whose JAX stays as it is
    kept = " ".join(f"jax=={{at.version}}" for at in distributions() if at.name == "jax")
    %pip install --quiet "himlib @ git+{url}@main" {{kept}}
    import jax

    print(jax.devices())"""


def repository_url() -> str:
    return yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]


def notebooks() -> list[Path]:
    return sorted(BOOK.glob("*.ipynb"))


def read(path: Path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def digest(notebook) -> str:
    """Identify the code, less the install cell, which has the repository's address in it."""
    code = "\0".join(cell.source for cell in code_cells(notebook)[1:])
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def chapter_file(name: str) -> Path | None:
    return next(
        (path for path in (BOOK / f"{name}.ipynb", BOOK / f"{name}.md") if path.exists()),
        None,
    )


def link(prerequisite: str) -> str:
    """Link to a prerequisite: the name of a chapter, as 04_density_ratios, or any text."""
    path = chapter_file(prerequisite)
    if path is None:
        return prerequisite
    text = read(path).cells[0].source if path.suffix == ".ipynb" else path.read_text()
    return f"[{re.search('^# (.+)$', text, re.M)[1]}]({path.name})"


def first_cell(header: dict) -> str:
    goals = "\n".join(f"- {goal}" for goal in header["goals"])
    cpu, gpu = header["minutes_to_run"]["cpu"], header["minutes_to_run"]["gpu"]
    gpu = "not measured on a GPU" if gpu is None else f"{gpu:g} min on a GPU"
    return (
        f"# {header['title']}\n\n"
        f":::{{admonition}} In this chapter you learn to\n:class: tip\n{goals}\n\n"
        f"**Before you start:** {'; '.join(map(link, header['prerequisites']))}\n\n"
        f"**Time:** {header['minutes_to_read']} min to read; "
        f"{cpu:g} min to run on two CPU cores, {gpu}; "
        f"{header['memory_mb']} MB of memory\n:::"
    )


def header_problems(header: dict) -> list[str]:
    """Say what keeps a header from being one."""
    kinds = {"title": str, "goals": list, "prerequisites": list, "minutes_to_run": dict}
    kinds |= {"minutes_to_read": NUMBER, "memory_mb": NUMBER}
    if wrong := [
        f"header: {key}"
        for key, kind in kinds.items()
        if not isinstance(header.get(key), kind)
    ]:
        return wrong
    minutes, measured = header["minutes_to_run"], header.get("measured", {})
    if set(minutes) != {"cpu", "gpu"} or not isinstance(minutes["cpu"], NUMBER):
        return ["header: minutes_to_run is {cpu: number, gpu: number or null}"]
    checks = {
        "header: unknown key": set(header) - set(kinds) - {"executed", "measured"},
        "header: a key without content": not all(header[key] for key in kinds),
        "header: a prerequisite that is no chapter": any(
            re.match(r"\d\d_", name) and not chapter_file(name)
            for name in header["prerequisites"]
        ),
        f"header: promises less than was measured, {measured}": (
            minutes["cpu"] < measured.get("minutes", 0)
            or header["memory_mb"] < measured.get("memory_mb", 0)
        ),
    }
    return [what for what, wrong in checks.items() if wrong]


def cell_problems(cell) -> list[str]:
    """Say what is wrong with the outputs of a code cell."""
    data = set().union(*(output.get("data", {}) for output in cell.outputs))
    figure = cell.metadata.get("mystnb", {}).get("figure", {})
    checks = {
        "ends in an error": "raises-exception" not in tags(cell)
        and any(output.output_type == "error" for output in cell.outputs),
        "prints to stderr, a warning perhaps": any(
            output.get("name") == "stderr" for output in cell.outputs
        ),
        "shows a widget, which is nothing without a kernel": any(
            "widget" in kind for kind in data
        ),
        "a figure that is not PNG": data & {"image/svg+xml", "image/jpeg"},
        "a figure without a name or caption": "image/png" in data
        and not (figure.get("name") and figure.get("caption")),
        "a figure without alt text": "image/png" in data
        and not cell.metadata.get("mystnb", {}).get("image", {}).get("alt"),
    }
    return [what for what, wrong in checks.items() if wrong]


def problems(notebook, url: str) -> list[str]:
    """Say everything that keeps a notebook from being a chapter of the book."""
    header, code = notebook.metadata.get("himlib", {}), code_cells(notebook)
    if wrong := header_problems(header):
        return wrong
    text = nbformat.writes(notebook)
    machine = OF_THIS_MACHINE.search(text)
    install = code[0] if code else None
    checks = {
        "the first cell differs from the header": notebook.cells[0].source
        != first_cell(header),
        "the first code cell is not the install cell": not install
        or (install.source, tags(install), install.outputs)
        != (INSTALL.format(url=url), ["remove-cell"], []),
        "the code changed since it was executed": header.get("executed") != digest(notebook),
        "not executed once, from top to bottom": [cell.execution_count for cell in code]
        != [number + 1 for number in range(len(code))],
        "no output is tagged nbval-check-output": not any(
            "nbval-check-output" in tags(cell) and cell.outputs for cell in code
        ),
        "nothing is asserted": not any(
            re.search(r"^\s*assert\b", cell.source, re.M) for cell in code
        ),
        f"something of this machine: {machine and machine[0]}": machine,
        "more than 1 MB": len(text) > 1_000_000,
    }
    return [what for what, wrong in checks.items() if wrong] + [
        f"cell {number}: {what}"
        for number, cell in enumerate(code, 1)
        for what in cell_problems(cell)
    ]


def normalize(notebook) -> None:
    """Leave nothing that differs from one execution, or one editor, to the next."""
    header = notebook.metadata["himlib"]
    notebook.metadata = nbformat.from_dict(
        {"himlib": header, "kernelspec": KERNEL, "language_info": LANGUAGE}
    )
    notebook.cells[0].source = first_cell(header)
    for cell in notebook.cells:
        kept = {
            key: value for key, value in cell.metadata.items() if key in ("mystnb", "tags")
        }
        cell.metadata = nbformat.from_dict(kept)
    for cell in code_cells(notebook):
        outputs = []
        for output in cell.outputs:  # a stream arrives in pieces that depend on timing
            if (
                outputs
                and output.output_type == "stream"
                and output.name == outputs[-1].get("name")
            ):
                outputs[-1].text += output.text
            else:
                outputs.append(output)
        for output in outputs:
            if output.get("name") == "stderr":
                # A progress bar rewrites its line; a warning stays.
                lines = [line for line in output.text.split("\n") if "\r" not in line]
                output.text = "\n".join(lines).strip()
        cell.outputs = [output for output in outputs if output.get("text") != ""]


def execute(notebook, name: str) -> dict:
    """Execute in a fresh kernel, and say what that took."""

    def progress(cell, cell_index):
        print(
            f"\r{name}: cell {cell_index} of {len(notebook.cells) - 1}", end=" ", flush=True
        )

    notebook.cells.append(nbformat.v4.new_code_cell(PEAK_MEMORY))
    here = {"metadata": {"path": str(BOOK)}}
    began = time.perf_counter()
    client = NotebookClient(
        notebook, kernel_name="python3", record_timing=False, resources=here
    )
    client.on_cell_start = progress
    # numpyro imports a progress bar that asks every kernel for widgets; the pages have none.
    client.execute(env=os.environ | {"PYTHONWARNINGS": "ignore:IProgress not found"})
    minutes = math.ceil((time.perf_counter() - began) / 6) / 10
    measured = {"minutes": minutes, "memory_mb": int(notebook.cells.pop().outputs[0].text)}
    print(f"\r{name}: {minutes} min, {measured['memory_mb']} MB" + " " * 20)
    return measured


def run(paths: list[Path], everything: bool) -> None:
    wrong = []
    for path in paths or notebooks():
        notebook = read(path)
        header = notebook.metadata["himlib"]
        changed = header.get("executed") != digest(notebook)
        if changed or everything:
            measured = execute(notebook, path.stem)
            # Same code, same file: the stored measurement changes only where it misleads.
            if changed or header_problems({**header, "measured": measured}):
                header |= {"executed": digest(notebook), "measured": measured}
        normalize(notebook)
        nbformat.write(notebook, path)
        wrong += [f"{path.name}: {what}" for what in problems(notebook, repository_url())]
    if wrong:
        sys.exit("\n".join(wrong))
    print("The chapters and their outputs are up to date.")


def full() -> None:
    target = ROOT / "_build" / "full"
    target.mkdir(parents=True, exist_ok=True)
    for path in notebooks():
        notebook = read(path)
        for cell in [
            cell for cell in code_cells(notebook) if 'size = "quick"' in cell.source
        ]:
            cell.source = cell.source.replace('size = "quick"', 'size = "full"')
            execute(notebook, path.stem)
            nbformat.write(notebook, target / path.name)
    print(f"Executed at full size: {target.relative_to(ROOT)}")


def new(name: str) -> None:
    path = BOOK / f"{name}.ipynb"
    if not re.fullmatch(r"\d\d_[a-z0-9_]+", name) or path.exists():
        sys.exit(f"{name}: expected an unused name such as 19_some_topic")
    text = (BOOK / "template.ipynb").read_text().replace("-00-", f"-{name[:2]}-")
    notebook = nbformat.reads(text, as_version=4)
    notebook.metadata["himlib"]["title"] = name[3:].replace("_", " ").capitalize()
    normalize(notebook)
    nbformat.write(notebook, path)
    path.with_suffix(".md").unlink(missing_ok=True)  # the page that announced it
    print(f"book/{path.name} is ready; book/_toc.yml must list {name}.")


def addresses(url: str) -> list[str]:
    """List the forms in which the repository's address occurs."""
    found = re.fullmatch(r"https://github\.com/([\w-]+)/([\w.-]+)", url)
    if not found:
        sys.exit("expected an address of the form https://github.com/<owner>/<name>")
    owner, name = found.groups()
    return [f"{host}/{owner}/{name}" for host in ("github.com", "github", "/gh")] + [
        f"{owner}.github.io/{name}"
    ]


def tracked() -> list[Path]:
    """List the text files of the repository, new ones among them."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    names = listed.stdout.splitlines()
    paths = [ROOT / name for name in names if "_extra/" not in name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()]


def repository(url: str) -> None:
    pairs = list(zip(addresses(repository_url()), addresses(url), strict=True))
    for path in tracked():
        text = before = path.read_text()
        for old, replacement in pairs:
            text = text.replace(old, replacement)
        if text != before:
            path.write_text(text)
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("run")
    command.add_argument("paths", nargs="*", type=Path)
    command.add_argument("--all", dest="everything", action="store_true")
    command.set_defaults(function=run)
    commands.add_parser("full").set_defaults(function=full)
    for function, argument in ((new, "name"), (repository, "url")):
        command = commands.add_parser(function.__name__)
        command.add_argument(argument)
        command.set_defaults(function=function)
    arguments = vars(parser.parse_args())
    arguments.pop("function")(**arguments)
