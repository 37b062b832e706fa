"""Run the cells of notebooks, one request and one answer at a time: the process within the sandbox.

What can be imported beforehand is imported once; each notebook then runs in a fork. Tests are compiled and
run past IPython, and before each of them what was changed in the libraries is changed back, and reported.
"""

import ast
import base64
import contextlib
import importlib
import io
import json
import os
import resource
import shutil
import signal
import sys

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets import Type
from traitlets.config import Config

LIBRARIES = ["builtins", "numpy", "numpy.linalg", "numpy.random", "scipy.stats", "scipy.optimize", "jax"]
LIBRARIES += ["jax.numpy", "jax.numpy.linalg", "jax.random", "jax.nn", "jax.tree", "jax.lax", "optax"]
OWN_RULES = {"__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__array__", "__array_ufunc__"}
OWN_RULES |= {"__array_function__", "__jax_array__", "__bool__", "__abs__", "__sub__", "__rsub__"}


class Stopped(BaseException):
    """Ends a cell, and is not caught by `except Exception`."""


class Unusual(Exception):
    """An answer that decides by itself what it is equal to."""


class Hook(DisplayHook):
    def __call__(self, result=None):
        if result is not None:
            self.update_user_ns(result)
            self.shell.record("display", data=self.shell.display_formatter.format(result)[0])


class Publisher(DisplayPublisher):
    def publish(self, data, *args, **kwargs):
        self.shell.record("display", data=data)


class Stream(io.TextIOBase):
    def __init__(self, shell):
        self.shell = shell

    def write(self, text):
        self.shell.record("stream", text=text)
        return len(text)


class Shell(InteractiveShell):
    displayhook_class, display_pub_class = Type(Hook), Type(Publisher)
    outputs: list
    size = longest = 0

    def record(self, kind, **content):
        self.size += len(content.get("text", "")) + sum(
            len(part) for part in content.get("data", {}).values()
        )
        if self.size > self.longest > 0:
            raise Stopped(f"more than {self.longest // 1000} kB of output.")
        if kind == "stream" and self.outputs and self.outputs[-1]["kind"] == "stream":
            content["text"] = self.outputs.pop()["text"] + content["text"]
        self.outputs.append({"kind": kind} | content)

    def enable_gui(self, gui=None):
        """Open no windows."""

    def _showtraceback(self, etype, evalue, stb):
        self.fail(etype, evalue, "\n".join(stb))

    def fail(self, etype, evalue, text=""):
        with contextlib.suppress(Exception):
            evalue = str(evalue)[:2000]
        self.outputs.append(
            {"kind": "error", "name": etype.__name__, "value": str(evalue), "text": text[-9000:]}
        )


def trusted(value):
    """Return a value, unless its class was made by the submission and has its own idea of equality."""
    for part in value if type(value) in (tuple, list) else (value,):
        for kind in type(part).__mro__:
            home = sys.modules.get(kind.__module__)
            if (home is None or kind.__module__ == "__main__") and OWN_RULES & set(vars(kind)):
                raise Unusual(f"an answer of class {kind.__name__} compares by rules of its own.")
    return value


class Wary(ast.NodeTransformer):
    """Look at what is called and compared in a test."""

    def look(self, node):
        return ast.copy_location(ast.Call(ast.Name("__trusted", ast.Load()), [node], []), node)

    def visit_Call(self, node):
        self.generic_visit(node)
        node.args = [self.look(one) if isinstance(one, ast.Name) else one for one in node.args]
        return self.look(node)

    def visit_Compare(self, node):
        self.generic_visit(node)
        node.left, node.comparators = self.look(node.left), [self.look(one) for one in node.comparators]
        return node


class Session:
    """One notebook."""

    def __init__(self, limits: dict):
        self.cpu = limits["cell"]
        quiet = Config(HistoryManager={"enabled": False}, InteractiveShell={"colors": "NoColor"})
        self.shell = Shell.instance(config=quiet)
        self.shell.longest, self.names = limits["output"] * 1000, self.shell.user_ns
        sys.stdout = sys.stderr = Stream(self.shell)
        sys.modules["__main__"] = self.shell.user_module
        if "matplotlib" in sys.modules:
            self.shell.run_line_magic("matplotlib", "inline")
        homes = [sys.modules[name] for name in LIBRARIES if name in sys.modules]
        if "jax" in sys.modules:
            homes.append(importlib.import_module("jax._src.array").ArrayImpl)
        self.known = [(home, dict(vars(home))) for home in homes]
        self.given: dict = {}
        signal.signal(signal.SIGPROF, self.late)
        # Own references: what a submission does to the names of builtins does not reach these.
        self.exec, self.compile, self.wary, self.parse = exec, compile, Wary, ast.parse

    def late(self, *_):
        raise Stopped(f"this cell took longer than {self.cpu} seconds of the processor.")

    def restore(self, modules: dict[str, str]) -> list[str]:
        """Change libraries, and what was given, back to what they were; name what had been changed."""
        sys.settrace(None)
        sys.setprofile(None)
        changed = []
        for home, members in self.known:
            now = vars(home)
            for name, value in members.items():
                if now.get(name) is not value and name != "_" and (callable(value) or name not in now):
                    changed.append(f"{home.__name__}.{name}")
                    setattr(home, name, value)
        expected = {alias: sys.modules[name] for alias, name in modules.items() if name in sys.modules}
        for name, value in (expected | self.given).items():
            if self.names.get(name) is not value:
                changed.append(name)
                self.names[name] = value
        return changed

    def remember(self, source: str):
        with contextlib.suppress(SyntaxError):
            for node in self.parse(source).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in self.names:
                    self.given[node.name] = self.names[node.name]

    def run(self, source: str, kind: str, modules: dict[str, str]) -> dict:
        """Run a cell: an answer, what was given, or a test."""
        self.shell.outputs, self.shell.size, changed = [], 0, []
        signal.setitimer(signal.ITIMER_PROF, self.cpu)
        try:
            if kind == "test":
                changed = self.restore(modules)
                tree = ast.fix_missing_locations(self.wary().visit(self.parse(source)))
                self.names["__trusted"] = trusted
                self.exec(self.compile(tree, "<test>", "exec", dont_inherit=True), self.names)
            else:
                result = self.shell.run_cell(source, store_history=False)
                error = result.error_before_exec or result.error_in_exec
                if error and not any(output["kind"] == "error" for output in self.shell.outputs):
                    self.shell.fail(type(error), error)
        except BaseException as error:
            self.shell.fail(type(error), error)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        if kind != "answer":
            self.remember(source)
        return {"outputs": self.shell.outputs, "changed": changed}


def limit(limits: dict) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (2 * limits["memory"] * 2**20,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits["files"] * 2**20,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (limits["notebook"] + 60,) * 2)
    if limits["confined"]:  # elsewhere the processes of the whole account would count
        resource.setrlimit(resource.RLIMIT_NPROC, (limits["processes"],) * 2)


def encode(value):
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def main():
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)

    def answer(content):
        answers.write(json.dumps(content, default=encode).encode() + b"\n")
        answers.flush()

    def read():
        return json.loads(requests.readline() or "null")

    if fonts := os.environ.get("FONTS"):
        shutil.copytree(fonts, os.environ["MPLCONFIGDIR"])
    first = read()
    for name in first["imports"]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    while job := read():
        if not os.fork():
            if job["given"] != job["folder"]:
                shutil.copytree(job["given"], job["folder"])
            os.chdir(job["folder"])
            sys.path.insert(0, job["folder"])
            os.environ["TMPDIR"] = job["folder"]
            limit(job["limits"])
            session = Session(job["limits"])
            answer({"ready": True})
            while request := read():
                answer(session.run(**request))
            os._exit(0)
        os.wait()
        answer({"ended": True})


if __name__ == "__main__":
    main()
