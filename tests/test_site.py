"""The built site, looked at in headless Chromium: `make book` first."""

import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import notebooks
import pytest
import yaml
from playwright.sync_api import TimeoutError, sync_playwright

ROOT = Path(__file__).parent.parent
SITE = ROOT / "_build" / "html"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SCREENSHOTS = os.environ.get("HIMLIB_SCREENSHOTS")
PAGES = re.findall(r"(?:file|root): ([\w/]+)", (ROOT / "book" / "_toc.yml").read_text())
# The theme raises these two itself; neither changes what a reader sees.
KNOWN_ERRORS = ("THEBE_JS_URL' has already been declared", "reading 'classList'")
INSPECT = """async () => {
  await window.MathJax?.startup?.promise;
  for (const image of document.images) image.loading = "eager";
  await Promise.allSettled([...document.images].map(image => image.decode()));
  const found = [], main = document.querySelector("main") ?? document.body;
  for (const math of main.querySelectorAll(".math"))
    if (!math.querySelector("mjx-container") || math.querySelector("mjx-merror"))
      found.push(`math not rendered: ${math.textContent}`);
  for (const image of main.querySelectorAll("img")) {
    if (!image.naturalWidth) found.push(`image not loaded: ${image.src}`);
    if (!image.alt || image.src.includes(image.alt)) found.push(`image without alt text: ${image.src}`);
  }
  const text = main.cloneNode(true);
  text.querySelectorAll("pre, code, script, .math").forEach(node => node.remove());
  const raw = text.textContent.match(/:::|```|\\{[\\w:-]+\\}`|\\$\\S/);
  if (raw) found.push(`markup shown to the reader: ${raw[0]}`);
  return found;
}"""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="NOTICE: no Chromium, the site was not looked at")


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def serve():
    """A function that serves a folder on this machine and returns its address."""
    servers = []

    def start(folder):
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def site(serve):
    if not SITE.exists():
        pytest.skip("NOTICE: the site is not built, run `make book`")
    return serve(SITE)


@pytest.fixture(scope="module")
def browser():
    quiet = ["background-networking", "component-update", "quic", "sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=BROWSER, args=[f"--disable-{name}" for name in quiet]
        )
        yield browser
        browser.close()


def look(browser, address: str) -> list[str]:
    """What is wrong with a page, light and dark, on a desktop and on a phone."""
    found = []
    origin = re.match(r"\w+://[^/]*", address)[0]

    def request(route):
        local = route.request.url.startswith((origin, "data:", "blob:"))
        if not local:
            found.append(f"request leaves the site: {route.request.url}")
        route.continue_() if local else route.abort()

    def error(text):
        if not any(known in text for known in KNOWN_ERRORS):
            found.append(f"console error: {text}")

    with browser.new_context(viewport={"width": 1400, "height": 1000}, reduced_motion="reduce") as context:
        page = context.new_page()
        page.route("**", request)
        page.on("console", lambda message: error(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda exception: error(exception.message))
        page.goto(address)
        found += page.evaluate(INSPECT)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            try:
                page.wait_for_function(
                    "theme => document.documentElement.dataset.theme == theme", arg=scheme, timeout=2000
                )
            except TimeoutError:
                found.append(f"not {scheme} for a reader who prefers {scheme}")
            for width in (1400, 390):
                page.set_viewport_size({"width": width, "height": 1000})
                if (needed := page.evaluate("document.documentElement.scrollWidth")) > width:
                    found.append(f"overflows {width} pixels: {needed}")
                if SCREENSHOTS:
                    name = f"{Path(address).stem}-{scheme}-{width}.png"
                    page.screenshot(path=Path(SCREENSHOTS) / name, full_page=True, animations="disabled")
    return found


@pytest.mark.parametrize("page", PAGES)
def test_page(browser, site, page):
    assert look(browser, f"{site}/{page}.html") == []


def test_site_works_from_a_folder(browser, site):
    # Chromium refuses icon fonts there; the theme's drawn icons stand in.
    found = look(browser, (SITE / "notation.html").as_uri())
    assert [what for what in found if "console error" not in what] == []


def test_search_finds_a_chapter(browser, site):
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{site}/search.html?q=volterra")
        page.locator("#search-results li a[href*='07_lotka_volterra']").first.wait_for(timeout=10_000)


def launches(page: str, name: str) -> bool:
    """Tell whether the buttons of a page open its notebook in Colab and Binder."""
    url = notebooks.repository_url().removeprefix("https://github.com/")
    colab = f"https://colab.research.google.com/github/{url}/blob/main/book/{name}.ipynb"
    binder = f"https://mybinder.org/v2/gh/{url}/main?urlpath=lab/tree/book/{name}.ipynb"
    return f'href="{colab}"' in page and f'href="{binder}"' in page


def test_launch_buttons_open_the_chapter(site):
    for name in PAGES:
        assert launches((SITE / f"{name}.html").read_text(), name) == (ROOT / f"book/{name}.ipynb").exists()


def test_template_makes_a_good_page(browser, serve, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "book", tmp_path / "book", ignore=shutil.ignore_patterns("[0-9]*.ipynb"))
    shutil.copy(ROOT / "_config.yml", tmp_path)
    (tmp_path / "book" / "04_density_ratios.md").write_text("# A chapter that the template links to\n")
    monkeypatch.setattr(notebooks, "BOOK", tmp_path / "book")
    notebooks.new("99_trial")
    toc = {
        "format": "jb-book",
        "root": "bibliography",
        "chapters": [{"file": "99_trial"}, {"file": "04_density_ratios"}],
    }
    (tmp_path / "book" / "_toc.yml").write_text(yaml.safe_dump(toc))
    build = [Path(sys.executable).with_name("jupyter-book"), "build", "book", "-W", "-n", "--keep-going"]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    html = tmp_path / "_build" / "html"
    assert look(browser, f"{serve(html)}/99_trial.html") == []
    assert launches((html / "99_trial.html").read_text(), "99_trial")


@pytest.mark.parametrize(
    ("html", "complaint"),
    [
        ("<p>nothing wrong</p>", None),
        ("<div style='width: 600px'>wide</div>", "overflows 390"),
        ("<img alt='a plot' src='http://192.0.2.1/plot.png'>", "request leaves"),
        ("<script>console.error('broken')</script>", "console error: broken"),
        ("<script>nonsense()</script>", "console error: nonsense"),
        ("<img src='dot.svg'>", "without alt text"),
        ("<img alt='a plot' src='missing.png'>", "image not loaded"),
        ("<span class='math'>\\(x\\)</span>", "math not rendered"),
        ("<p>See {cite}`tran2017`.</p>", "markup shown"),
        ("<script>document.documentElement.dataset.theme = 'light'</script>", "not dark"),
    ],
)
def test_look_notices(browser, serve, tmp_path, html, complaint):
    theme = """<script>
      const media = matchMedia("(prefers-color-scheme: dark)");
      const show = () => { document.documentElement.dataset.theme = media.matches ? "dark" : "light"; };
      show(); media.onchange = show;
    </script>"""
    if complaint == "not dark":
        theme = ""
    (tmp_path / "dot.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>")
    (tmp_path / "page.html").write_text(
        f"<!doctype html><link rel='icon' href='dot.svg'>{theme}<main>{html}</main>"
    )
    found = look(browser, f"{serve(tmp_path)}/page.html")
    assert (not found) if complaint is None else any(complaint in what for what in found), found
