"""Live figures: each is operated in a browser, and its numbers held to NumPy's, SciPy's and himlib's."""

import os
import re
import subprocess
import sys
from contextlib import contextmanager

import notebooks
import numpy as np
import pytest
from notebooks import BOOK
from playwright.sync_api import sync_playwright
from scipy import integrate, special, stats

from himlib.diagnostics import rank_histogram

from .test_recipes import blocks
from .test_site import BROWSER

SCRIPTS = sorted(path.stem for path in (BOOK / "live").glob("*.js"))
SOURCES = {path.stem: path.read_text() for path in BOOK.glob("*.md")} | {
    path.stem: "\n\n".join(cell.source for cell in notebooks.read(path).cells if cell.cell_type == "markdown")
    for path in notebooks.notebooks()
}
DIRECTIVE = re.compile(r"^(:{3,})\{live\} (\w+)\n((?::\w+: [^\n]+\n)+)\n(.*?)\n\1$", re.M | re.S)
PHONE = {"width": 390, "height": 800}
# Of each slider, handle and button: milliseconds from an input until the frame with it is done.
TIMES = """async () => {
  const times = {}, painted = () => new Promise(done => requestAnimationFrame(() => setTimeout(done)));
  const measure = async (name, turn, act) => {
    await painted();
    const began = performance.now();
    act();
    await painted();
    (times[`${name}, ${turn % 2}`] ??= []).push(performance.now() - began);
  };
  const box = document.querySelector(".live");
  for (let turn = 0; turn < 8; turn++) {
    for (const one of box.querySelectorAll("input"))
      await measure(one.name, turn, () => {
        one.value = Number(one.min) + (Number(one.max) - Number(one.min)) * (turn % 2 ? 0.4 : 0.7);
        one.dispatchEvent(new Event("input"));
      });
    for (const one of box.querySelectorAll(".live-handle"))
      await measure(one.dataset.handle + " dragged", turn, () => {
        const {left, top} = one.getBoundingClientRect(), move = turn % 2 ? -9 : 27;
        const place = {pointerId: 1, clientX: left + move, clientY: top + move};
        const event = kind => new PointerEvent(kind, place);
        one.setPointerCapture = () => {};
        one.hasPointerCapture = () => true;
        one.dispatchEvent(event("pointerdown"));
        one.dispatchEvent(event("pointermove"));
        delete one.hasPointerCapture;
      });
    for (const one of box.querySelectorAll(".live-inputs button"))
      await measure(one.textContent, turn, () => one.click());
  }
  return times;
}"""
SHIFTS = """() => {
  window.shifts = 0;
  new PerformanceObserver(list => { for (const entry of list.getEntries()) window.shifts += entry.value; })
    .observe({type: "layout-shift"});
}"""


def figures_of(page: str, source: str) -> dict[str, tuple[str, int, list[str]]]:
    return {
        name: (page, int(re.search(":answer: (\\d)", options)[1]), re.findall("^- (.+)", text, re.M))
        for _, name, options, text in DIRECTIVE.findall(source)
    }


def figures() -> dict[str, tuple[str, int, list[str]]]:
    """Of every live figure in the book: page, number of the answer, choices."""
    found = (figures_of(page, source) for page, source in SOURCES.items())
    return {name: figure for one in found for name, figure in one.items()}


@pytest.fixture(scope="module")
def browser():
    if BROWSER is None:
        pytest.skip("NOTICE: no Chromium, live figures were not looked at")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER)
        yield browser
        browser.close()


def alone(answer: int, choices: list[str], script: str) -> str:
    """A page as the book has it, with a figure alone on it."""
    style, library = ((BOOK / "_static" / f"live.{kind}").read_text() for kind in ("css", "js"))
    listed = "".join(f"<li><p>{choice}</p></li>" for choice in choices)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8>"
        f"<meta name=viewport content='width=device-width'><style>{style}</style>"
        f"<script>{library}</script><div class=live data-answer={answer}>"
        f"<p>Question</p><ul>{listed}</ul><p>Explanation.</p></div>"
        f"<script>{script}</script><p id=below>below</p></html>"
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The figures, each on a page that is opened as a file."""
    folder = tmp_path_factory.mktemp("live")
    for name, (_, answer, choices) in figures().items():
        page = alone(answer, choices, (BOOK / "live" / f"{name}.js").read_text())
        (folder / f"{name}.html").write_text(page)
    return folder


class Figure:
    """A live figure in a browser: choose, move a slider or a handle, and read its numbers."""

    def __init__(self, page):
        self.page, self.box, self.milliseconds = page, page.locator(".live"), []

    def numbers(self) -> dict:
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        self.milliseconds.append(self.box.evaluate("box => box.milliseconds"))
        return self.box.evaluate("box => box.values")

    def answer(self, number: int = 1) -> dict:
        self.box.locator(".live-choices button").nth(number - 1).click()
        return self.numbers()

    def move(self, **values: float) -> dict:
        for name, value in values.items():
            self.box.locator(f"input[name={name}]").evaluate(
                "(one, value) => { one.value = value; one.dispatchEvent(new Event('input')); }", value
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
    """On a phone, by keyboard alone: an answer first, then all can be moved; nothing is small or shifts."""
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
        assert np.median(figure.milliseconds) < 100  # on a busy machine too
        sizes = box.evaluate(
            "box => [...box.querySelectorAll('text, label, button, output')]"
            ".map(node => parseFloat(getComputedStyle(node).fontSize))"
        )
        assert min(sizes) >= 11
        assert all(alt for alt in box.locator("svg").evaluate_all("all => all.map(one => one.ariaLabel)"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_is_quick_on_a_slow_machine(open_figure, name):
    """Away from the sliders' ends, on a processor four times slower: drawn within 0.1 s; nothing shifts."""
    with open_figure(name, viewport=PHONE) as figure:
        figure.answer(figures()[name][1])
        figure.page.evaluate(SHIFTS)
        session = figure.page.context.new_cdp_session(figure.page)
        session.send("Emulation.setCPUThrottlingRate", {"rate": 4})
        times = figure.page.evaluate(TIMES)
        slow = {one: min(all) for one, all in times.items()}  # other work on the machine only adds
        assert slow and max(slow.values()) < 100, slow
        session.send("Emulation.setCPUThrottlingRate", {"rate": 1})
        assert figure.page.evaluate("new Promise(done => setTimeout(() => done(window.shifts), 100))") == 0


def test_recipe(open_figure, folder):
    """The live figure of CONTRIBUTING.md, as it stands there."""
    directive, script, test = blocks("Add a live figure")
    ((name, (_, answer, choices)),) = figures_of("", directive).items()
    (folder / f"{name}.html").write_text(alone(answer, choices, script))
    names = {"only": only, "pytest": pytest, "stats": stats}
    exec(test, names)
    with open_figure(name) as figure:
        names[f"test_{name}"](figure)
        assert figure.drag("heads", -60, 0)["sum"] > 0.7
        figure.move(heads=8)
        assert stats.binom.sf(7, 10, 0.5) == pytest.approx((0.01, 0.05)[answer - 1], abs=0.01)


def test_a_finger_drags(open_figure):
    """Where a finger lands on a handle it drags, and elsewhere it scrolls the page."""
    with open_figure("slab", viewport=PHONE, has_touch=True) as figure:
        touch, before = figure.page.context.new_cdp_session(figure.page), figure.answer()
        handle = figure.box.locator("[data-handle=observed]")
        handle.scroll_into_view_if_needed()

        def drag(x, y):
            for kind, moves in {"touchStart": [0], "touchMove": [-20, -40, -60], "touchEnd": [None]}.items():
                for move in moves:
                    points = [] if move is None else [{"x": x, "y": y + move}]
                    touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
            return figure.numbers()

        scrolled = figure.page.evaluate("scrollY")
        box = handle.bounding_box()
        after = drag(box["x"] + 9, box["y"] + 9)
        assert after["mean"] > before["mean"] + 0.2 and figure.page.evaluate("scrollY") == scrolled
        assert drag(box["x"] - 150, box["y"] + 9) == after
        figure.page.wait_for_function("before => scrollY > before", arg=scrolled)


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
        grid = np.stack(np.meshgrid(*2 * [4.4 * ((np.arange(120) + 0.5) / 120 - 0.5)]), -1)
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


@only("slab")
def test_slab(figure):
    def agrees(numbers, observed, tolerance, dimension):
        v = 1 + 1 / 16
        exact = stats.ncx2.cdf(tolerance**2 / v, dimension, observed**2 / v)
        assert numbers["acceptance"] == pytest.approx(exact, rel=1e-3)
        assert abs(numbers["kept"] - 2000 * exact) < 4 * np.sqrt(2000 * exact) + 1
        s = observed + tolerance * np.linspace(-1, 1, 20_001)  # the first mean, within the slab
        weights = stats.norm.pdf(s, scale=np.sqrt(v))
        if dimension > 1:
            weights *= stats.chi2.cdf((tolerance**2 - (s - observed) ** 2) / v, dimension - 1)
        weights /= weights.sum()
        mean = weights @ s
        sd = np.sqrt(1 / 17 + (16 / 17) ** 2 * weights @ (s - mean) ** 2)
        assert [numbers["mean"], numbers["sd"]] == pytest.approx([16 / 17 * mean, sd], rel=1e-3)
        return 2000 * exact

    assert agrees(figure.answer(), 0.8, 0.4, 1) == pytest.approx(500, rel=0.1)  # nearly a quarter
    assert agrees(figure.move(dimension=3), 0.8, 0.4, 3) == pytest.approx(20, abs=3)
    assert 2000 / agrees(figure.move(dimension=8), 0.8, 0.4, 8) == pytest.approx(1e6, rel=0.1)
    agrees(figure.move(dimension=2, tolerance=1.5, observed=-1.2), -1.2, 1.5, 2)
    agrees(figure.move(dimension=1, tolerance=0.05), -1.2, 0.05, 1)
    figure.drag("observed", 0, -40)
    assert float(figure.box.locator("input[name=observed]").input_value()) > -0.9


def regression(features, labels):
    """Weights and covariance of logistic regression, by Newton's method."""
    weights = np.zeros(features.shape[1])
    for _ in range(30):
        chance = special.expit(features @ weights)
        covariance = np.linalg.inv(features.T * (chance * (1 - chance)) @ features)
        weights = weights + covariance @ features.T @ (labels - chance)
    return weights, covariance


@only("blind")
def test_blind(figure):
    def agrees(numbers, degree):
        x = np.concatenate([numbers["p"], numbers["q"]])
        labels = np.repeat([1.0, 0.0], len(numbers["p"]))
        weights, covariance = regression((x[:, None] / 3) ** np.arange(degree + 1), labels)
        assert numbers["weights"] == pytest.approx(weights, rel=1e-3, abs=1e-4)
        assert numbers["slope"] == pytest.approx(weights[1] / 3, rel=1e-3)
        assert numbers["error"] == pytest.approx(np.sqrt(covariance[1, 1]) / 3, rel=1e-3)
        assert not numbers["separated"]
        return numbers["error"]

    numbers = figure.answer()
    assert len(numbers["p"]) == len(numbers["q"]) == 500
    assert agrees(numbers, 1) == pytest.approx(0.08, abs=0.01)
    agrees(figure.move(degree=3, distance=2), 3)
    numbers = figure.move(degree=1, distance=5)
    assert numbers["accuracy"] == pytest.approx(stats.norm.cdf(2.5)) == pytest.approx(0.994, abs=1e-3)
    assert agrees(numbers, 1) == pytest.approx(0.94, rel=0.4)  # these draws'; 0.94 by the information
    apart = figure.move(distance=8)
    assert apart["separated"] == (min(apart["p"]) > max(apart["q"]))
    assert figure.move(size=1.3)["separated"]
    assert "no slope is best" in figure.box.locator("output").inner_text()
    before = figure.move(distance=1)["p"]
    figure.box.get_by_role("button", name="Draw again").click()
    assert figure.numbers()["p"] != before
    figure.drag("p", 30, 0)
    assert float(figure.box.locator("input[name=distance]").input_value()) > 1.5


@only("push")
def test_push(figure):
    def agrees(numbers):
        q, exact = stats.norm(numbers["mean"], numbers["width"]), stats.norm(numbers["x"] / 2, 0.5**0.5)

        def r(z):
            return exact.logpdf(z) - q.logpdf(z)

        kl = integrate.quad(lambda z: -q.pdf(z) * r(z), *q.interval(1 - 1e-14))[0]
        assert numbers["kl"] == pytest.approx(kl, rel=1e-3, abs=1e-5)
        z = np.array(numbers["guesses"])
        assert numbers["estimate"] == pytest.approx(-r(z).mean(), rel=1e-3, abs=1e-5)
        slopes = (r(z + 1e-5) - r(z - 1e-5)) / 2e-5
        assert numbers["pushes"] == pytest.approx(slopes[[2, 8, 14, 20, 25, 31, 37]], rel=1e-3, abs=1e-4)
        return numbers

    pushes = agrees(figure.answer())["pushes"]
    assert pushes[0] > 0 > pushes[-1] and pushes == sorted(pushes, reverse=True)  # toward the middle
    agrees(figure.move(mean=-2, width=0.4, x=3))
    divergences = [figure.numbers()["kl"]]
    for _ in range(12):
        figure.box.get_by_role("button").filter(has_text="Push once").click()
        divergences.append(figure.numbers()["kl"])
    agrees(figure.numbers())
    assert (np.diff(divergences) < 0).all() and divergences[-1] < 0.1 < 10 < divergences[0]
    assert agrees(figure.drag("q", -60, 0))["mean"] < 0.9


@only("width")
def test_width(figure):
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    first, second = np.meshgrid(nodes, nodes)
    pairs = np.outer(weights, weights) / weights.sum() ** 2

    def agrees(numbers, width, data):
        tau = width / np.sqrt(1 + data)
        assert numbers["tau"] == pytest.approx(tau)

        def r(x, beta):  # as in chapter 7
            return stats.norm.logpdf(x, beta) - stats.norm.logpdf(x, 0, np.sqrt(1 + tau**2))

        loss = np.logaddexp(0, -r(tau * first + second, tau * first))
        loss += np.logaddexp(0, r(np.sqrt(1 + tau**2) * second, tau * first))
        assert numbers["gain"] == pytest.approx(2 * np.log(2) - (pairs * loss).sum(), rel=1e-3)
        x, beta = np.transpose(numbers["rows"])
        labels = (np.arange(len(x)) < numbers["count"]).astype(float)
        found, covariance = regression(np.stack([x**0, x**2, x * beta, beta**2], 1), labels)
        curvature, error = -2 * found[3] / tau**2, 2 * np.sqrt(covariance[3, 3]) / tau**2
        assert numbers["curvature"] == pytest.approx(curvature, rel=1e-3)
        assert numbers["error"] == pytest.approx(error, rel=1e-3)
        precision = 1 + data * curvature
        ratio = ((1 + data) / precision) ** 0.5 if precision > 0 else np.inf
        assert numbers["ratio"] == pytest.approx(ratio, rel=1e-3)
        return numbers

    assert agrees(figure.answer(), 1, 1000)["error"] == pytest.approx(45, rel=0.05)
    wide = agrees(figure.move(width=1.5), 10**1.5, 1000)
    assert wide["error"] < 0.1 and abs(wide["curvature"] - 1) < 3 * wide["error"]
    agrees(figure.move(data=1, width=0.5), 10**0.5, 10)
    figure.drag("width", 40, 0)
    assert float(figure.box.locator("input[name=width]").input_value()) > 0.55


@only("ranks")
def test_ranks(figure):
    def agrees(numbers, bias, width, sets):
        found = np.array(numbers["found"])[:, None]
        histogram = rank_histogram(found, 99, bins=10, probability=0.99)
        assert numbers["counts"] == histogram.counts[:, 0].tolist() and len(found) == sets
        assert [numbers["low"], numbers["high"]] == [histogram.low[0], histogram.high[0]]
        expected = 10 * np.diff(stats.norm.cdf(bias + width * stats.norm.ppf(np.linspace(0, 1, 11))))
        assert numbers["expected"] == pytest.approx(expected, rel=1e-3)
        ends = stats.norm.ppf([[0.25, 0.75], [0.05, 0.95]])
        coverage = np.diff(stats.norm.cdf(bias + width * ends))[:, 0]
        assert numbers["coverage"] == pytest.approx(coverage, rel=1e-3)
        share = np.array(numbers["counts"]) / sets  # the simulation draws what is expected
        assert (abs(share - expected / 10) < 4.5 * np.sqrt(expected / 10 / sets) + 0.01).all()
        return coverage[1]

    agrees(figure.answer(), 0, 1, 100)
    assert agrees(figure.move(bias=0.5, sets=3.3), 0.5, 1, 2000) == pytest.approx(0.86, abs=0.005)
    assert agrees(figure.move(bias=0, width=0.67), 0, 0.67, 2000) == pytest.approx(0.73, abs=0.005)
    pair = agrees(figure.move(bias=1, width=1.39), 1, 1.39, 2000)
    assert pair == pytest.approx(0.9, abs=0.005)  # the exercise has an answer
    dragged = figure.drag("bias", -60, 0)
    assert dragged["bias"] < 0.2 and dragged["width"] == 1.39


def test_learn(open_figure):
    """Within a fifth of the exact standard deviation, for the data it begins with and for others."""
    with open_figure("learn", reduced_motion="reduce") as figure:

        def agrees(numbers, x):
            assert [numbers["exact"], numbers["sd"]] == pytest.approx([sum(x) / 5, 5**-0.5])
            assert abs(numbers["center"] - numbers["exact"]) < 0.2 * numbers["sd"]
            assert numbers["width"] == pytest.approx(numbers["sd"], rel=0.1)
            return numbers["exact"]

        def learn(presses):
            for _ in range(presses):
                figure.box.get_by_role("button", name="Learn").click()
            return figure.numbers()

        assert figure.answer()["center"] == 0
        before = agrees(learn(6), [-0.5, 0.5, 1, 2])
        assert abs(figure.move(x4=-3)["center"] - figure.numbers()["exact"]) > 0.5
        figure.move(x4=4)
        moved = agrees(learn(2), [-0.5, 0.5, 1, 3.5])
        assert moved - before == pytest.approx(1.5 / 5)
        assert figure.numbers()["weights"][4:] == pytest.approx([2, -2], abs=0.2)  # of x beta / 2, beta^2 / 4
        assert figure.drag("x1", 0, 60)["exact"] < moved - 0.1
        figure.box.get_by_role("button", name="Forget").click()
        assert figure.numbers()["steps"] == 0
    with open_figure("learn", reduced_motion="no-preference") as figure:
        figure.answer()
        assert 0 < learn(1)["steps"] < 500  # before the eyes


def built(folder, builder: str) -> tuple[str, str]:
    """A page that Sphinx builds of the folder's, and its complaints."""
    configuration = 'extensions = ["myst_parser", "live"]\nmyst_enable_extensions = ["colon_fence"]\n'
    (folder / "conf.py").write_text(configuration)
    command = [sys.executable, "-m", "sphinx", "-q", "-b", builder, folder, folder / builder]
    environment = os.environ | {"PYTHONPATH": str(BOOK / "_ext")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next((folder / builder).glob("index.*")).read_text(), done.stderr


def test_directive(tmp_path):
    good = ":::{live} fold\n:title: Fold & see\n:answer: 1\n\nHow many?\n\n- one\n- two\n\nOne.\n:::\n"
    (tmp_path / "index.md").write_text(f"# Title\n\n{good}")
    html, complaints = built(tmp_path, "html")
    assert complaints == "" and (BOOK / "live" / "fold.js").read_text() in html
    box = html.split('<div class="live"')[1].split("<script>")[0]
    assert 'aria-label="Fold &amp; see" data-answer="1"' in box and box.count("<li>") == 2
    assert "How many" not in built(tmp_path, "text")[0]  # nor on paper by way of LaTeX
    for wrong, complaint in {
        good.replace(":answer: 1\n", ""): "a live figure needs answer",
        good.replace("} fold", "} fald"): "fald.js",
        good.replace(": 1", ": first"): "answer",
    }.items():
        (tmp_path / "index.md").write_text(f"# Title\n\n{wrong}")
        assert complaint in built(tmp_path, "html")[1]
