"""A server for the tests of the site."""

import gzip
import threading
from contextlib import contextmanager
from functools import lru_cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@lru_cache
def compressed(path: str) -> bytes:
    return gzip.compress(Path(path).read_bytes())


class Handler(SimpleHTTPRequestHandler):
    """A server that, like GitHub Pages, sends text compressed."""

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        path = self.translate_path(self.path)
        if not path.endswith((".html", ".css", ".js", ".svg")) or not Path(path).exists():
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(path))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(compressed(path))))
        self.end_headers()
        self.wfile.write(compressed(path))


@contextmanager
def serving():
    """Give a function that serves a folder on this machine and returns its address."""
    servers = []

    def start(folder):
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)))
        threading.Thread(
            target=servers[-1].serve_forever, args=[0.02], daemon=True
        ).start()  # seconds to notice the end
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
