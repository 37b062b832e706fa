"""A closed box for the code of strangers, made by bubblewrap, and the limits within.

Inside there are Python, its packages and the files of one hand-in, all of which can only be read, and an
empty folder in memory. There is no network, no other process, no home, and nothing of the teacher's.
"""

import contextlib
import functools
import json
import os
import select
import shutil
import site
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib
import psutil

import himlib

LIMITS = {"cell": 60, "notebook": 180, "memory": 2000, "output": 500, "files": 200, "processes": 250}
RUNNER = Path(__file__).with_name("runner.py")
SYSTEM = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"]
SYSTEM += [f"/etc/{name}" for name in ("alternatives", "fonts", "ld.so.cache", "localtime")]
VARIABLES = ("PATH", "LANG", "LC_", "TZ", "LD_", "JAX_ENABLE", "XLA_", "OMP_")
PATIENCE = 5  # by how much the time on the clock may exceed that of the processor
UNCONFINED = """There is no sandbox here: {why}
Install bubblewrap (Debian, Ubuntu: apt install bubblewrap; Fedora: dnf install bubblewrap), or grade in a
Linux virtual machine. With --unconfined, submissions run as you do: they can read and write all your files,
hidden tests and everybody's marks among them, start programs and go online. Do that with code of people you
trust, or in a container or machine in which there is nothing else."""


class Stop(Exception):
    """The process that ran a notebook is no more; says why."""


@functools.cache
def missing() -> str:
    """Say why there is no sandbox on this machine; nothing, if there is one."""
    if not shutil.which("bwrap"):
        return "bubblewrap (bwrap) is not installed."
    ran = subprocess.run([*walls(), "true"], capture_output=True, text=True)
    return ran.stderr.strip() and f"bubblewrap does not work: {ran.stderr.strip()}" if ran.returncode else ""


def walls() -> list[str]:
    """Bubblewrap's arguments, less those of one hand-in."""
    python = [sys.prefix, sys.base_prefix, *site.getsitepackages(), Path(sys.executable).resolve().parent]
    arguments = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    for path in [*SYSTEM, *dict.fromkeys(map(str, python))]:
        arguments += ["--ro-bind-try", path, path]
    arguments += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev", "--hostname", "sandbox"]
    return arguments


class Sandbox:
    """A process in which notebooks run, one after another; in a real sandbox, there is one for each."""

    def __init__(self, limits: dict, imports: list[str], cache: Path, unconfined=False, fills_cache=False):
        self.limits, self.imports, self.cache = LIMITS | limits, imports, cache
        self.unconfined, self.fills_cache, self.process = unconfined, fills_cache, None

    def start(self, given: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if name.startswith(VARIABLES)}
        kept |= {"JAX_PLATFORMS": "cpu", "MPLBACKEND": "agg", "PJRT_NPROC": "1", "OMP_NUM_THREADS": "1"}
        kept |= {
            "JAX_COMPILATION_CACHE_DIR": str(self.cache),
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        kept["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0" if self.fills_cache else "1e9"
        self.cache.mkdir(exist_ok=True)
        package = Path(himlib.__file__).parent
        if self.unconfined:
            kept |= {"PYTHONPATH": str(package.parent), "MPLCONFIGDIR": matplotlib.get_cachedir()}
            kept["HOME"] = os.environ.get("HOME", "/")
            command = [sys.executable, "-P", str(RUNNER)]
        else:
            kept |= {"PYTHONPATH": "/packages", "HOME": "/box", "MPLCONFIGDIR": "/box/matplotlib"}
            kept |= {"FONTS": "/fonts", "IPYTHONDIR": "/box/ipython"}
            size = str(self.limits["files"] * 2**20)
            command = [*walls(), "--size", size, "--tmpfs", "/box", "--ro-bind", str(RUNNER), "/runner.py"]
            command += ["--ro-bind", str(package), "/packages/himlib", "--ro-bind", str(given), "/given"]
            command += ["--ro-bind", matplotlib.get_cachedir(), "/fonts"]
            command += ["--bind" if self.fills_cache else "--ro-bind", str(self.cache), "/cache"]
            kept["JAX_COMPILATION_CACHE_DIR"] = "/cache"
            command += ["--remount-ro", "/", "--chdir", "/box", sys.executable, "-P", "/runner.py"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, env=kept, cwd="/", start_new_session=True, **pipes)
        self.watched = psutil.Process(self.process.pid)
        self.send({"imports": self.imports})

    @contextlib.contextmanager
    def notebook(self, given: Path):
        """Run a notebook, beside the files in a folder; the code in this context may ask for its cells."""
        with tempfile.TemporaryDirectory() as folder:
            if self.process is None:
                self.start(given)
            where = {"given": str(given), "folder": f"{folder}/work"}
            if not self.unconfined:
                where = {"given": "/given", "folder": "/box/work"}
            job = {"limits": self.limits | {"confined": not self.unconfined}} | where
            self.verdict = self.spent = None
            self.reply(job)
            self.spent = None if self.verdict else self.used()[0]
            try:
                yield self
            finally:
                if self.verdict is None:
                    self.reply(None)
                if self.verdict or not self.unconfined:
                    self.close()

    def reply(self, request) -> dict | None:
        """Send a request and return its answer; None if the process is no more."""
        try:
            return self.receive(request)
        except Stop as stop:
            self.verdict = str(stop)
            self.close()
            return None

    def ask(self, **request) -> dict:
        """Run a cell. After the end of the process there is nothing more to ask."""
        if self.verdict:
            return {
                "outputs": [problem(f"not run, because of an earlier cell: {self.verdict}")],
                "changed": [],
            }
        return self.reply(request) or {"outputs": [problem(self.verdict)], "changed": []}

    def send(self, content) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(content).encode() + b"\n")
            self.process.stdin.flush()

    def receive(self, request) -> dict:
        """Send a request and wait for its answer, within the limits."""
        self.send(request)
        line, began, start = bytearray(), time.monotonic(), None
        output = self.process.stdout.fileno()
        while not line.endswith(b"\n"):
            if select.select([output], [], [], 0.1)[0]:
                piece = os.read(output, 2**20)
                line += piece
                if not piece or len(line) > 20 * self.limits["output"] * 1000:
                    raise Stop("the process died in this cell.")
            elif self.spent is not None:
                seconds, size, count = self.used()
                start = seconds if start is None else start
                self.check(seconds - self.spent, seconds - start, time.monotonic() - began, size, count)
        try:
            reply = json.loads(line)
        except ValueError:
            raise Stop("the process died in this cell.") from None
        if "ended" in reply and request is not None:
            raise Stop("the process died in this cell.")
        return reply

    def check(self, notebook: float, cell: float, clock: float, size: float, count: int) -> None:
        limits = self.limits
        if size > limits["memory"] * 2**20:
            raise Stop(f"more than {limits['memory']} MB of memory.")
        if count > limits["processes"]:
            raise Stop(f"more than {limits['processes']} processes and threads.")
        if notebook > limits["notebook"]:
            raise Stop(f"the notebook took longer than {limits['notebook']} seconds of the processor.")
        if cell > 1.5 * limits["cell"]:
            raise Stop(
                f"this cell took longer than {limits['cell']} seconds, and ignored that it was stopped."
            )
        if clock > PATIENCE * limits["cell"]:
            raise Stop(
                f"this cell waited, and took longer than {PATIENCE * limits['cell']} seconds by the clock."
            )

    def used(self) -> tuple[float, float, int]:
        """Seconds of the processor, bytes of memory, and threads of all processes in the sandbox."""
        seconds = size = count = 0
        processes = [self.watched]
        with contextlib.suppress(psutil.Error):
            processes += self.watched.children(recursive=True)
        for process in processes:
            with contextlib.suppress(psutil.Error), process.oneshot():
                seconds += sum(process.cpu_times()[:4])
                size += process.memory_info().rss
                count += process.num_threads()
        return seconds, size, count

    def close(self) -> None:
        """End all that runs in the sandbox; where there is none, all that can still be found."""
        if self.process is None:
            return
        with contextlib.suppress(psutil.Error):
            for process in [*self.watched.children(recursive=True), self.watched]:
                with contextlib.suppress(psutil.Error):
                    process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.process = None


def problem(message: str) -> dict:
    return {"kind": "error", "name": "Stopped", "value": message, "text": f"Stopped: {message}"}
