"""Live figures: each is operated in a browser, and its numbers held to NumPy's, SciPy's and himlib's."""

import re
from contextlib import contextmanager

import notebooks
import numpy as np
import pytest
from notebooks import BOOK
from playwright.sync_api import sync_playwright
from scipy import stats

from .test_site import BROWSER

SCRIPTS = sorted(path.stem for path in (BOOK / "live").glob("*.js"))
SOURCES = {path.stem: path.read_text() for path in BOOK.glob("*.md")} | {
    path.stem: "\n\n".join(cell.source for cell in notebooks.read(path).cells if cell.cell_type == "markdown")
    for path in notebooks.notebooks()
}
DIRECTIVE = re.compile(r"^(:{3,})\{live\} (\w+)\n((?::\w+: [^\n]+\n)+)\n(.*?)\n\1$", re.M | re.S)
PHONE = {"width": 390, "height": 800}


def figures() -> dict[str, tuple[str, int, list[str]]]:
    """Of every live figure in the book: page, number of the answer, choices."""
    return {
        name: (page, int(re.search(":answer: (\\d)", options)[1]), re.findall("^- (.+)", text, re.M))
        for page, source in SOURCES.items()
        for _, name, options, text in DIRECTIVE.findall(source)
    }


@pytest.fixture(scope="module")
def browser():
    if BROWSER is None:
        pytest.skip("NOTICE: no Chromium, live figures were not looked at")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pages as the book has them, with a figure alone on each, and opened as files."""
    folder = tmp_path_factory.mktemp("live")
    style, library = ((BOOK / "_static" / f"live.{kind}").read_text() for kind in ("css", "js"))
    for name, (_, answer, choices) in figures().items():
        listed = "".join(f"<li><p>{choice}</p></li>" for choice in choices)
        (folder / f"{name}.html").write_text(
            f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
            f"<style>{style}</style><script>{library}</script><div class=live data-answer={answer}>"
            f"<p>Question</p><ul>{listed}</ul><p>Explanation.</p></div>"
            f"<script>{(BOOK / 'live' / f'{name}.js').read_text()}</script><p id=below>below</p></html>"
        )
    return folder


class Figure:
    """A live figure in a browser: choose, move a slider or a handle, and read its numbers."""

    def __init__(self, page):
        self.page, self.box = page, page.locator(".live")

    def numbers(self) -> dict:
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        assert self.box.evaluate("box => box.milliseconds") < 100
        return self.box.evaluate("box => box.values")

    def answer(self, number: int = 1) -> dict:
        self.box.locator(".live-choices button").nth(number - 1).click()
        return self.numbers()

    def move(self, **values: float) -> dict:
        for name, value in values.items():
            self.box.locator(f"input[name={name}]").evaluate(
                "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", value
            )
            numbers = self.numbers()
        return numbers

    def drag(self, handle: str, right: float, down: float) -> dict:
        box = self.box.locator(f"[data-handle='{handle}']").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + right, y + down, steps=3)
        self.page.mouse.up()
        return self.numbers()


@pytest.fixture
def open_figure(browser, folder):
    """A function that opens a figure with the options of a browser's context."""

    @contextmanager
    def open_figure(name, **options):
        with browser.new_context(**{"viewport": {"width": 1000, "height": 1400}, **options}) as context:
            page = context.new_page()
            page.on("pageerror", lambda error: pytest.fail(error.message))
            page.on("request", lambda request: request.url.startswith("file:") or pytest.fail(request.url))
            page.goto((folder / f"{name}.html").as_uri())
            yield Figure(page)

    return open_figure


@pytest.fixture
def figure(open_figure, request):
    with open_figure(request.param) as figure:
        yield figure


def only(name):
    return pytest.mark.parametrize("figure", [name], indirect=True)


def test_each_script_is_a_figure_of_the_book():
    assert sorted(figures()) == SCRIPTS
    for name, (page, answer, choices) in figures().items():
        assert 2 <= len(choices) <= 4 and 1 <= answer <= len(choices), (name, page)
    scripts = [BOOK / "_static" / "live.js", *(BOOK / "live").glob("*.js")]
    assert sum(len(path.read_text()) for path in scripts) < 60_000


@pytest.mark.parametrize("name", SCRIPTS)
def test_is_for_all_readers(open_figure, name):
    """On a phone, by keyboard alone: an answer first; then all can be moved; text is large enough; nothing shifts."""
    with open_figure(name, viewport=PHONE) as figure:
        page, box = figure.page, figure.box
        answer, sliders = figures()[name][1], box.locator("input").count()
        assert box.locator("input:disabled").count() == sliders > 1
        assert "Choose an answer" in box.locator("output").inner_text()
        assert box.locator(".live-answer").is_hidden()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        below = page.locator("#below").bounding_box()["y"]
        figure.numbers()
        assert page.locator("#below").bounding_box()["y"] == below
        for _ in range(answer):
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        figure.numbers()
        assert "So it is." in box.locator(".live-answer").inner_text()
        said = box.locator("output").inner_text()
        while page.evaluate("document.activeElement.type") != "range":
            page.keyboard.press("Tab")
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        figure.numbers()
        reached = set()
        for _ in range(sliders):
            reached.add(page.evaluate("document.activeElement.name"))
            page.keyboard.press("ArrowLeft")
            page.keyboard.press("ArrowLeft")
            figure.numbers()
            page.keyboard.press("Tab")
        assert len(reached) == sliders and box.locator("output").inner_text() != said
        sizes = box.evaluate(
            "box => [...box.querySelectorAll('text, label, button, output')]"
            ".map(node => parseFloat(getComputedStyle(node).fontSize))"
        )
        assert min(sizes) >= 11
        assert all(alt for alt in box.locator("svg").evaluate_all("all => all.map(one => one.ariaLabel)"))


def test_without_scripts_and_on_paper_it_is_not_there(open_figure):
    with open_figure(SCRIPTS[0], java_script_enabled=False) as figure:
        assert figure.box.is_hidden()
    with open_figure(SCRIPTS[0]) as figure:
        assert figure.box.is_visible()
        figure.page.emulate_media(media="print")
        assert figure.box.is_hidden()


def test_a_wrong_answer_is_told_the_right_one(open_figure):
    with open_figure("fold") as figure:
        figure.answer(1)
        assert "It is the second." in figure.box.locator(".live-answer").inner_text()
        assert figure.box.locator(".wrong button").count() == figure.box.locator(".right button").count() == 1


def test_numbers_of_the_library(open_figure):
    with open_figure("fold") as figure:
        x = np.linspace(-7, 7, 141)
        below = figure.page.evaluate("x => x.map(live.below)", x.tolist())
        assert np.allclose(below, stats.norm.cdf(x), rtol=1e-9, atol=1e-15)
        share = [0.001, 0.3, 0.95]
        assert np.allclose(figure.page.evaluate("p => p.map(live.quantile)", share), stats.norm.ppf(share))
        draws = np.array(figure.page.evaluate("live.normals(20000, 3)"))
        assert stats.kstest(draws, "norm").pvalue > 0.001
        assert figure.page.evaluate("live.normals(5, 3)") == draws[:5].tolist()
        matrix = [[4.0, 1.0, 0.5], [1.0, 3.0, -1.0], [0.5, -1.0, 2.0]]
        assert np.allclose(figure.page.evaluate("live.inverse", matrix), np.linalg.inv(matrix))


def folded(x, creases, ink):
    """The sum of `ink` over the places of the sheet that come to lie at x."""
    if not creases:
        return ink(x)
    *earlier, (u, v, c) = creases
    side = x @ [u, v] - c
    mirror = x - 2 * side[..., None] * np.array([u, v])
    return np.where(side >= 0, folded(x, earlier, ink) + folded(mirror, earlier, ink), 0)


@only("fold")
def test_fold(figure):
    def agrees(numbers):
        at, creases = np.array([numbers["x"], numbers["y"]]), numbers["creases"]
        assert numbers["layers"] == folded(at, creases, lambda x: np.ones(x.shape[:-1]))
        density = folded(at, creases, lambda x: stats.norm.pdf(x).prod(-1))
        assert numbers["density"] == pytest.approx(density, rel=1e-3)
        grid = np.stack(np.meshgrid(*2 * [4.4 * ((np.arange(150) + 0.5) / 150 - 0.5)]), -1)
        assert numbers["most"] == folded(grid, creases, lambda x: np.ones(x.shape[:-1])).max()
        return numbers

    before = agrees(figure.answer())
    moved = agrees(figure.drag("disc", -40, 60))
    assert moved["x"] < before["x"] - 0.2 and moved["y"] < before["y"] - 0.2
    dragged = agrees(figure.drag("crease 2", 20, -30))
    assert dragged["creases"][1] != before["creases"][1] and dragged["creases"][0] == before["creases"][0]
    assert figure.box.locator("input[name=crease]").input_value() == "2"
    assert agrees(figure.move(folds=4))["most"] > 4
    figure.move(folds=3, crease=1)
    figure.move(direction=0, distance=0.1, crease=2)
    assert agrees(figure.move(direction=0, distance=2))["most"] == 4  # the exercise has an answer
