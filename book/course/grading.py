"""What nbgrader needs to run the code of strangers: limits, and a kernel that finds only its own files.

A submission that goes over a limit is stopped, its feedback says why, and the next one is graded.
This stops accidents and curiosity. It is no prison: code that is out to break in needs a container.
"""

import contextlib
import inspect
import os
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import matplotlib
import psutil
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat.v4 import new_output
from nbgrader.preprocessors import ClearHiddenTests, Execute
from nbgrader.utils import is_grade
from traitlets import Integer, List, Unicode

import himlib

# A kernel is told these variables, and so no token of the server that it runs on.
VARIABLES = ("PATH", "HOME", "USER", "LANG", "LC_", "TZ", "LD_", "PYTHON", "VIRTUAL_ENV", "CONDA_PREFIX")
VARIABLES += ("JAX_", "XLA_", "PJRT_", "OMP_", "MPL")


def confine(rules: dict[str, bool]) -> None:
    """Keep a kernel from folders, programs and networks; it runs this function before all cells.

    The deepest folder in ``rules`` that holds a file says whether the file may be opened.
    """
    import os
    import sys

    files = {"open", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.rmdir", "os.truncate"}
    files |= {"os.link", "os.symlink", "os.chmod", "os.chown", "sqlite3.connect"}
    programs = {"subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn"}
    outside = programs | {"os.kill", "os.killpg", "socket.connect", "socket.getaddrinfo"}
    realpath, fspath, listed = os.path.realpath, os.fspath, frozenset(sys.path)

    def watch(event, arguments):
        if event in outside:
            raise PermissionError(f"{event}: an assignment starts no programs and does not go online.")
        if event not in files:
            return
        for path in arguments[:2]:
            if not isinstance(path, (str, bytes, os.PathLike)):
                continue
            path = os.fsdecode(fspath(path)).removeprefix("file:").partition("?")[0]
            if event == "os.listdir" and path in listed:  # an import looks through these
                continue
            full = realpath(path)
            deciding = [folder for folder in rules if f"{full}/".startswith(f"{folder}/")]
            if deciding and not rules[max(deciding, key=len)]:
                raise PermissionError(f"closed to submissions, and not a file of this assignment: {path}")

    sys.addaudithook(watch)  # which nothing can remove


def stopped(message: str):
    return new_output("error", ename="Stopped", evalue=message, traceback=[f"Stopped: {message}"])


class ConfinedExecute(Execute):
    """Execute a submission within limits. A cell that was not run counts as failed."""

    timeout = Integer(60, help="Seconds for a cell").tag(config=True)
    notebook_timeout = Integer(180, help="Seconds for a notebook").tag(config=True)
    memory = Integer(2000, help="Megabytes for the kernel").tag(config=True)
    longest_output = Integer(500, help="Kilobytes of output for a cell").tag(config=True)
    closed = List(Unicode(), help="Folders that submissions may not read").tag(config=True)

    def preprocess(self, nb, resources, km=None):
        self.verdict = None
        self.finished = threading.Event()
        text = f"this cell took longer than {self.timeout} seconds."
        self.error_on_timeout = {"ename": "Stopped", "evalue": text, "traceback": [f"Stopped: {text}"]}
        handed_in = resources["metadata"]["path"]
        with tempfile.TemporaryDirectory() as folder:  # the notebook itself has the hidden tests in it
            shutil.copytree(
                handed_in, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.ipynb", ".*")
            )
            resources["metadata"]["path"] = folder
            try:
                return super().preprocess(nb, resources, km)
            finally:
                self.finished.set()
                resources["metadata"]["path"] = handed_in

    def rules(self, own: str) -> dict[str, bool]:
        package = Path(himlib.__file__).parent
        python = [sys.prefix, sys.base_prefix, *site.getsitepackages(), site.getusersitepackages()]
        rules = dict.fromkeys([Path.home(), package.parent, *self.closed], False)
        rules |= dict.fromkeys([*python, package, matplotlib.get_cachedir(), own], True)
        rules = {os.path.realpath(folder): allowed for folder, allowed in rules.items()}
        rules.pop("/", None)
        return rules

    def start_new_kernel(self, **kwargs):
        own = self.resources["metadata"]["path"]
        kept = {name: value for name, value in os.environ.items() if name.startswith(VARIABLES)}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        super().start_new_kernel(env=kept | {"TMPDIR": own}, **quiet, **kwargs)

    def start_new_kernel_client(self, **kwargs):
        client = super().start_new_kernel_client(**kwargs)
        rules = self.rules(self.resources["metadata"]["path"])
        code = f"{inspect.getsource(confine)}\nconfine({rules!r})\ndel confine"
        reply = self.wait_for_reply(client.execute(code, silent=True, store_history=False))
        if reply["content"]["status"] != "ok":
            raise RuntimeError(f"The kernel cannot be confined: {reply['content']}")
        self.process = psutil.Process(self.km.provisioner.pid)
        threading.Thread(target=self.watch, args=(self.process, self.finished), daemon=True).start()
        return client

    def watch(self, process, finished):
        """Kill a kernel that grows too large or runs too long."""
        began = time.monotonic()
        while not finished.wait(0.05):
            try:
                if process.memory_info().rss > self.memory * 2**20:
                    self.verdict = f"more than {self.memory} MB of memory."
                elif time.monotonic() - began > self.notebook_timeout:
                    self.verdict = f"the notebook took longer than {self.notebook_timeout} seconds."
                if self.verdict:
                    process.kill()
            except psutil.NoSuchProcess:
                return

    def preprocess_cell(self, cell, resources, index):
        cell.metadata.pop("tags", None)  # one of them would skip the cell
        if cell.cell_type != "code":
            return cell, resources
        if self.finished.is_set():
            cell.outputs = [stopped(f"not run, because of an earlier cell: {self.verdict}")]
            return cell, resources
        self.size = 0
        try:
            cell, resources = super().preprocess_cell(cell, resources, index)
        except (CellTimeoutError, DeadKernelError) as error:
            late = f"this cell took longer than {self.timeout} seconds, and ignored that it was interrupted."
            died = "the kernel died in this cell."
            self.verdict = self.verdict or (late if isinstance(error, CellTimeoutError) else died)
            self.finished.set()
            with contextlib.suppress(psutil.NoSuchProcess):
                self.process.kill()
            cell.outputs.append(stopped(self.verdict))
        if self.size > self.longest_output * 1000:
            cell.outputs.append(stopped(f"more than {self.longest_output} kB of output."))
        for output in cell.outputs:
            if output.get("name") == "stderr":  # nbgrader would take a warning for a failure
                output.name = "stdout"
        return cell, resources

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] in ("status", "execute_input"):
            return super().process_message(msg, cell, cell_index)
        before, limit = self.size, self.longest_output * 1000
        self.size += len(str(msg["content"]))
        if self.size <= limit:
            return super().process_message(msg, cell, cell_index)
        if before <= limit:
            self.process.send_signal(signal.SIGINT)
        return None


class HideHiddenTests(ClearHiddenTests):
    """Leave of a failed hidden test what it says, and not how it is done: feedback gets around."""

    def preprocess_cell(self, cell, resources, cell_index):
        if not is_grade(cell) or cell.cell_type != "code":
            return cell, resources
        for output in cell.outputs:
            if output.output_type == "error":
                output.traceback = [f"{output.ename}: {output.evalue}"]
        return super().preprocess_cell(cell, resources, cell_index)
