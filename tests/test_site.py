"""The built site, looked at in headless Chromium: `make book` first."""

import io
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import axe_playwright_python
import notebooks
import numpy as np
import pdf
import pytest
import yaml
from PIL import Image
from playwright.sync_api import TimeoutError, sync_playwright
from serving import serving

ROOT = Path(__file__).parent.parent
SITE = ROOT / "_build" / "html"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SCREENSHOTS = os.environ.get("HIMLIB_SCREENSHOTS")
HOME = yaml.safe_load((ROOT / "_config.yml").read_text())["html"]["baseurl"]
PAGES = re.findall(r"(?:file|root): ([\w/]+)", (ROOT / "book" / "_toc.yml").read_text())
WRITTEN = [name for name in PAGES if name != "genindex"]  # which is made from the others
# The theme raises these two itself; neither changes what a reader sees.
KNOWN_ERRORS = ("THEBE_JS_URL' has already been declared", "reading 'classList'")
AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text()
PHONE = 390
WIDTHS = (320, PHONE, 768, 1024, 1400, 1920)  # 320: a laptop at 400 %
WEIGHT = 2_000_000  # bytes of a page with all that it loads, text compressed as GitHub Pages does

pytestmark = pytest.mark.skipif(BROWSER is None, reason="NOTICE: no Chromium, the site was not looked at")


@pytest.fixture(scope="module")
def serve():
    with serving() as start:
        yield start


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


@contextmanager
def visit(browser):
    """A new page with the checks of page.js, for a reader who comes for the first time."""
    with browser.new_context(viewport={"width": 1400, "height": 1000}, reduced_motion="reduce") as context:
        context.set_default_timeout(120_000)  # a busy machine is no fault of the page
        context.add_init_script(path=Path(__file__).with_name("page.js"))
        yield context.new_page()


def set_scheme(page, scheme: str) -> list[str]:
    page.emulate_media(media="screen", color_scheme=scheme)
    try:
        page.wait_for_function(
            "theme => document.documentElement.dataset.theme == theme", arg=scheme, timeout=3_000
        )
    except TimeoutError:
        return [f"not {scheme} for a reader who prefers {scheme}"]
    return []


def look(browser, address: str, pictures: str | None = None) -> list[str]:
    """What is wrong with a page: content, weight and headings, on paper, in every width, light and dark."""
    found, weights = [], []
    origin = re.match(r"\w+://[^/]*", address)[0]

    def leaves(route):
        found.append(f"request leaves the site: {route.request.url}")
        route.abort()

    def error(text):
        if not any(known in text for known in KNOWN_ERRORS):
            found.append(f"console error: {text}")

    with visit(browser) as page:
        page.route(re.compile(f"^(?!{re.escape(origin)}|data:|blob:)"), leaves)
        page.on(
            "response",
            lambda answer: found.append(f"missing: {answer.url}") if answer.status == 404 else None,
        )
        page.on("console", lambda message: error(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda exception: error(exception.message))
        network = page.context.new_cdp_session(page)
        network.send("Network.enable")
        network.on("Network.loadingFinished", lambda event: weights.append(event["encodedDataLength"]))
        page.goto(address)
        page.evaluate("check.settle()")
        found += page.evaluate("[...check.content(), ...check.headings()]")
        if origin.startswith("http") and sum(weights) > WEIGHT:  # a folder does not compress
            found.append(f"too heavy: {sum(weights):,} bytes")
        page.emulate_media(media="print")
        page.set_viewport_size({"width": 700, "height": 1000})
        found += page.evaluate("check.print()")
        page.emulate_media(media="screen")
        page.evaluate("check.open()")
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 1000})
            if (needed := page.evaluate("document.documentElement.scrollWidth")) > width:
                found.append(f"overflows {width} pixels: {needed}")
            if width == PHONE:
                found += page.evaluate("check.phone()")
        for scheme in ("light", "dark"):
            found += set_scheme(page, scheme)
            found += [f"{scheme}: {what}" for what in page.evaluate("check.contrast()")]
            for width in (1400, PHONE) if pictures else ():
                page.set_viewport_size({"width": width, "height": 1000})
                name = f"{Path(address).stem}-{scheme}-{width}.png"
                page.screenshot(path=Path(pictures) / name, full_page=True, animations="disabled")
        page.set_viewport_size({"width": WIDTHS[-1], "height": 1000})
        page.evaluate(AXE)
        found += page.evaluate("check.accessibility()")
    return found


def walk(page, stops: int) -> list[str]:
    """Go through a page with the tabulator key, and say where the reader would lose the way."""
    found = []
    for _ in range(stops):
        page.keyboard.press("Tab")
        complaints = page.evaluate("check.focus()")
        if complaints is None:
            break
        found += complaints
    return found


@pytest.mark.parametrize("page", PAGES)
def test_page(browser, site, page):
    assert look(browser, f"{site}/{page}.html", SCREENSHOTS) == []


@pytest.fixture
def reader(browser):
    with visit(browser) as page:
        yield page


def press_until(page, selector: str, stops: int = 300):
    """Press the tabulator key until the keyboard is where the selector says."""
    for _ in range(stops):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"the keyboard does not reach {selector}")


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("name", ["intro", "how_to_use", "01_implicit_models"])
def test_keyboard_goes_through_a_page(reader, site, name, width):
    reader.set_viewport_size({"width": width, "height": 1000})
    reader.goto(f"{site}/{name}.html")
    reader.evaluate("check.settle()")
    assert walk(reader, 200) == []


@pytest.mark.parametrize(
    ("html", "complaint"),
    [
        ("<a href='#'>one</a> <a href='#'>two</a>", None),
        ("<a href='#' style='outline: none'>one</a>", "focus not visible"),
        ("<a href='#' style='position: absolute; left: -99px'>one</a>", "focus off the screen"),
        ("<a href='#'>one</a> <a href='#' tabindex=1>two</a>", "focus jumps back"),
    ],
)
def test_walk_notices(reader, serve, tmp_path, html, complaint):
    style = "<style>:focus-visible { outline: 3px solid blue }</style>"
    (tmp_path / "page.html").write_text(f"<!doctype html>{style}<p>{html}")
    reader.goto(f"{serve(tmp_path)}/page.html")
    found = walk(reader, 10)
    assert (not found) if complaint is None else any(complaint in what for what in found), found


def test_keyboard_operates_the_page(reader, site):
    reader.goto(f"{site}/01_implicit_models.html")
    reader.keyboard.press("Tab")
    assert reader.evaluate("document.activeElement.textContent") == "Skip to main content"
    reader.keyboard.press("Enter")
    press_until(reader, "main *")  # the text, and not the list of chapters before it
    press_until(reader, ".theme-switch-button")
    schemes = set()
    for _ in range(3):
        reader.keyboard.press("Enter")
        schemes.add(reader.evaluate("document.documentElement.dataset.mode"))
    assert schemes == {"auto", "light", "dark"}
    answer = reader.locator(".solution p:not(.admonition-title)").first
    assert answer.evaluate("node => getComputedStyle(node).visibility") == "hidden"
    press_until(reader, ".solution .toggle-button")
    reader.keyboard.press("Enter")
    assert answer.evaluate("node => getComputedStyle(node).visibility") == "visible"


def search(page, query: str):
    """Search as a reader without a mouse does."""
    press_until(page, ".search-button__button")
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.type == 'search'")
    page.keyboard.type(query)
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=*")
    page.locator("#search-results li").first.wait_for()


@pytest.mark.parametrize("served", [True, False], ids=["served", "from a folder"])
def test_search(reader, site, served):
    reader.goto(f"{site if served else SITE.as_uri()}/intro.html")
    search(reader, "hinge loss")
    result = reader.locator("#search-results li a[href*='04_density_ratios']").first
    result.click()
    reader.wait_for_load_state()
    assert "Density-ratio" in reader.title()
    assert "hinge loss" in reader.locator("main").inner_text()
    with pytest.raises(AssertionError):
        press_until(reader, "#no-such-button", stops=5)


def test_site_works_from_a_folder(browser, reader, site):
    # Search reads the pages for its excerpts, which Chromium refuses there; the results are the same.
    assert look(browser, (SITE / "01_implicit_models.html").as_uri()) == []
    reader.goto((SITE / "index.html").as_uri())
    reader.locator(".bd-sidebar-primary a[href='01_implicit_models.html']").click()
    reader.wait_for_url("**/01_implicit_models.html")


def previews(html: str, address: str) -> list[str]:
    """What is missing of the lines that search engines and link previews show of a page."""
    tags = dict(re.findall(r'<meta (?:property|name)="([\w:]+)" content="([^"]*)"', html))
    image = tags.get("og:image", "").removeprefix(HOME)
    wanted = {
        "title": bool(tags.get("og:title")),
        "address": tags.get("og:url") == f"{HOME}{address}",
        "description": 20 <= len(tags.get("og:description", "")) <= 300
        and "\\" not in tags["og:description"]
        and tags.get("description") == tags["og:description"],
        "image": image.startswith("_images/") and (SITE / image).exists() and bool(tags.get("og:image:alt")),
    }
    return [what for what, good in wanted.items() if not good]


def test_previews(site):
    for name in WRITTEN:
        assert previews((SITE / f"{name}.html").read_text(), f"{name}.html") == []
    assert (SITE / "index.html").read_text() == (SITE / "intro.html").read_text()
    assert previews("<meta>", "intro.html") == ["title", "address", "description", "image"]
    good = (SITE / "intro.html").read_text()
    assert previews(good, "other.html") == ["address"]
    assert previews(good.replace("_images/", "_missing/"), "intro.html") == ["image"]
    assert previews(good.replace('og:description" content="', "\\g<0>\\beta "), "intro.html") == [
        "description"
    ]


def test_sitemap_lists_the_pages(site):
    listed = re.findall("<loc>(.*?)</loc>", (SITE / "sitemap.xml").read_text())
    assert sorted(listed) == sorted(f"{HOME}{name}.html" for name in WRITTEN)


def test_lost_reader_is_led_home(browser, reader, site, serve, tmp_path):
    """GitHub Pages shows 404.html at the address that was asked for, however deep."""
    home = urlsplit(HOME).path.strip("/")
    (tmp_path / home).symlink_to(SITE)
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    for name in ("404", "intro"):
        shutil.copy(SITE / f"{name}.html", tmp_path / "elsewhere" / "deep")
    origin = serve(tmp_path)
    assert look(browser, f"{origin}/elsewhere/deep/404.html") == []
    missing = []
    reader.on("response", lambda answer: answer.status == 404 and missing.append(answer.url))
    reader.goto(f"{origin}/elsewhere/deep/intro.html")
    assert missing
    reader.goto(f"{origin}/elsewhere/deep/404.html")
    reader.locator("main a", has_text="front page").click()
    reader.wait_for_url(f"**/{home}/intro.html")


def test_pictures_move_for_those_who_like_it(reader, site):
    reader.goto(f"{site}/01_implicit_models.html")  # `visit` asks for reduced motion
    picture = reader.locator("figure:has(.moving)").first
    slider = picture.locator("input")
    slider.wait_for()
    assert picture.get_by_role("button").inner_text() == "Play"
    assert picture.locator("img").is_hidden()  # which moves by itself
    frame = slider.input_value()
    reader.emulate_media(reduced_motion="no-preference")
    reader.wait_for_function(
        "([slider, frame]) => slider.value != frame", arg=[slider.element_handle(), frame]
    )


@pytest.mark.parametrize(
    ("figure", "ground", "dark"),
    [
        ("fig-01-one-thing", "page", "screen"),
        ("fig-01-folds", "its own", "normal"),  # bright and dark mean something in it
        ("fig-01-cubic", "page", "screen"),
    ],
)
def test_figures_belong_to_a_dark_page(reader, site, figure, ground, dark):
    reader.goto(f"{site}/01_implicit_models.html")
    reader.evaluate("check.settle()")
    assert set_scheme(reader, "dark") == []
    picture = reader.locator(f"#{figure} img")
    style = "node => [getComputedStyle(node).mixBlendMode, getComputedStyle(node).filter]"
    assert picture.evaluate(style)[0] == dark
    shown = np.asarray(Image.open(io.BytesIO(picture.screenshot())).convert("RGB"))
    colors, counts = np.unique(shown.reshape(-1, 3), axis=0, return_counts=True)
    most = colors[counts.argmax()].tolist()  # its ground
    page = reader.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (most == page) is (ground == "page")
    assert page == [0x12] * 3  # as tests/test_plotting.py has it
    reader.emulate_media(media="print")
    assert picture.evaluate(style) == ["normal", "none"]


def test_moving_pictures_belong_to_a_dark_page(reader, site):
    reader.goto(f"{site}/03_approximate_bayesian_computation.html")
    canvas = reader.locator("#fig-03-slab canvas")
    canvas.wait_for()
    assert set_scheme(reader, "dark") == []
    assert canvas.evaluate("node => getComputedStyle(node).mixBlendMode") == "screen"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_can_be_read_on_a_phone(reader, site, scheme):
    """Text of 10.5 points in figures 8 inches wide has 10 pixels, and the keyboard reaches all of it."""
    reader.set_viewport_size({"width": PHONE, "height": 844})
    reader.goto(f"{site}/01_implicit_models.html")
    reader.evaluate("check.settle()")
    assert set_scheme(reader, scheme) == []
    frame = reader.locator("#fig-01-one-thing > a")
    width = frame.locator("img").evaluate("node => node.getBoundingClientRect().width")
    assert width / (8 * 72) * 10.5 >= 10
    assert frame.evaluate("node => node.getBoundingClientRect().width") == PHONE
    frame.focus()
    reader.keyboard.press("ArrowRight")
    frame.evaluate_handle("node => new Promise(done => { node.onscroll = done; node.scrollLeft += 1; })")
    assert frame.evaluate("node => node.scrollLeft") > 1
    frame.evaluate("node => { node.blur(); node.scrollLeft = 0; }")
    shown = np.asarray(Image.open(io.BytesIO(frame.screenshot())).convert("RGB"))
    ground = shown[shown.shape[0] // 2, 2].tolist()  # left of the axes' labels
    assert ground == reader.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    )
    reader.emulate_media(media="print")
    assert frame.locator("img").evaluate("node => node.getBoundingClientRect().width") <= PHONE


def test_a_picture_opens_by_itself(reader, site):
    reader.goto(f"{site}/01_implicit_models.html")
    picture = reader.locator("figure > a > img").first
    address = picture.get_attribute("src")
    picture.click()
    reader.wait_for_url(f"**/{address}")


@pytest.mark.parametrize("day", pdf.SLIDES)
def test_slides_are_shown_one_at_a_time(reader, site, day):
    reader.goto((SITE / f"{day}.html").as_uri())
    shown = (
        "[...document.querySelectorAll('.slide')].filter(node => node.checkVisibility()).map(node => node.id)"
    )
    every = reader.evaluate(shown)
    reader.get_by_role("button", name="Show one at a time").click()
    assert reader.evaluate(shown) == every[:1]
    reader.keyboard.press("ArrowRight")
    assert reader.evaluate(shown) == every[1:2]
    for key, number in (("ArrowLeft", 0), ("ArrowLeft", 0), ("End", -1), ("ArrowRight", -1), ("Home", 0)):
        reader.keyboard.press(key)
        assert reader.evaluate(shown) == [every[number]]
    for name, width, height in (("laptop", 1280, 720), ("projector", 1024, 768)):
        reader.set_viewport_size({"width": width, "height": height})
        for number, slide in enumerate(every):
            high = reader.evaluate(
                "id => { const at = document.getElementById(id); return at.scrollHeight - at.clientHeight }",
                slide,
            )
            assert high <= 1, f"{slide} is cut on a {name}"
            reader.keyboard.press("ArrowRight" if number < len(every) - 1 else "Home")
    reader.get_by_role("button", name="End").click()
    assert reader.evaluate(shown) == every


@pytest.mark.parametrize("day", pdf.SLIDES)
def test_slides_are_read_and_printed(reader, site, day):
    reader.set_viewport_size({"width": PHONE, "height": 800})
    reader.goto((SITE / f"{day}.html").as_uri())
    reader.evaluate("check.settle()")
    every = reader.locator(".slide").count()
    reader.get_by_role("button", name="notes").click()
    assert reader.locator(".notes[open]").count() == every
    sizes = """[...document.querySelectorAll(".slide :not(mjx-container *)")].filter(
      node => [...node.childNodes].some(part => part.nodeType == 3 && part.data.trim())
    ).map(node => parseFloat(getComputedStyle(node).fontSize))"""
    assert min(reader.evaluate(sizes)) >= 11
    reader.get_by_role("button", name="notes").click()
    printed = reader.pdf(prefer_css_page_size=True)
    assert printed.count(b"/Type /Page\n") == every + 1, "a title, and each slide on a page"
    boxes = {tuple(map(float, box.split())) for box in re.findall(rb"/MediaBox \[([^]]*)\]", printed)}
    assert all(width > height for _, _, width, height in boxes)


def test_both_days_are_printed_together(site):
    done = subprocess.run([sys.executable, "book/pdf.py", "slides"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    every = sum((SITE / f"{day}.html").read_text().count('<section class="slide"') for day in pdf.SLIDES)
    printed = (ROOT / "_build" / "slides.pdf").read_bytes()
    assert every > 30 and printed.count(b"/Type /Page\n") == every + 2


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
        ("<h1>nothing</h1><h2>wrong</h2>", None),
        ("<div style='width: 600px'>wide</div>", "overflows 390"),
        ("<img alt='a plot' src='http://192.0.2.1/plot.png'>", "request leaves"),
        ("<script>console.error('broken')</script>", "console error: broken"),
        ("<script>nonsense()</script>", "console error: nonsense"),
        ("<img src='dot.svg'>", "without alt text"),
        ("<img alt='a plot' src='missing.png'>", "image not loaded"),
        ("<span class='math'>\\(x\\)</span>", "math not rendered"),
        ("<p>See {cite}`tran2017`.</p>", "markup shown"),
        ("<script>document.documentElement.dataset.theme = 'light'</script>", "not dark"),
        ("<h3>below nothing</h3>", "headings out of order"),
        ("<h1>one</h1><h1>two</h1>", "headings out of order"),
        ("<p style='color: #888'>pale</p>", "contrast 3.54"),
        ("<p style='color: #00000088'>pale</p>", "contrast 4.48"),
        ("<div style='background: #222'><p style='opacity: 0.9'>black</p></div>", "contrast 1."),
        ("<link rel='stylesheet' href='heavy.css'>", "too heavy"),
        ("<nav>everywhere</nav>", "printed"),
        ("<div class='toggle-hidden'><p style='visibility: hidden'>42</p></div>", "solution closed"),
        ("<figure>two halves</figure>", "figure split"),
        (f"<pre style='overflow: auto; width: 300px'>{'code ' * 99}</pre>", "cut on paper"),
        (f"<pre style='overflow: hidden; width: 300px'>{'code ' * 99}</pre>", "cut on a phone"),
        (f"<article class='bd-article'><table><tr><td>{'wide' * 99}</table></article>", "wider than paper"),
        ("<div class='sd-tab-content' style='display: none'>code</div>", "tab closed on paper"),
        ("<button style='height: 20px; width: 40px; padding: 0'>Play</button>", "small to touch, 40 by 20"),
        ("<button></button>", "button-name"),
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
    (tmp_path / "heavy.css").write_text(f"/* {os.urandom(WEIGHT).hex()} */")
    title = "" if "<h" in html else "<h1>title</h1>"
    (tmp_path / "page.html").write_text(
        f"<!doctype html><html lang=en><title>page</title><link rel='icon' href='dot.svg'>{theme}"
        f"<main>{title}{html}</main>"
    )
    found = look(browser, f"{serve(tmp_path)}/page.html")
    assert (not found) if complaint is None else any(complaint in what for what in found), found
