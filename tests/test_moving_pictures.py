"""Moving pictures: the file, and on a page the button that stops it and the slider that steps through it."""

import gc
import io
import threading
import weakref
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice

import matplotlib.pyplot as plt
import numpy as np
import pytest
from notebooks import BOOK
from PIL import Image, ImageSequence
from playwright.sync_api import sync_playwright

from himlib.book.plotting import moving_picture, new_figure, use_style

from .test_site import BROWSER

FRAMES = 5


def bars():
    """Frame k has a bar whose height is k + 1 of 5, and nothing else."""
    for frame in range(FRAMES):
        figure, axes = new_figure(dpi=40)
        axes.set_axis_off()
        axes.set(xlim=(0, 1), ylim=(0, FRAMES))
        axes.bar(0.5, frame + 1, width=1, color="black")
        yield figure


@pytest.fixture(scope="module")
def data():
    with plt.rc_context():
        use_style()
        return moving_picture(bars(), milliseconds=200).data


def darkness(pixels):
    return np.mean(np.asarray(pixels.convert("L")) < 128)


def test_file_begins_with_its_last_figure(data):
    picture = Image.open(io.BytesIO(data))
    frames = [(darkness(frame), frame.info["duration"]) for frame in ImageSequence.Iterator(picture)]
    shades, durations = np.transpose(frames)
    assert durations.tolist() == [3_000, 1_500, 200, 200, 200]
    assert shades.argmax() == 0 and (np.diff(shades[1:]) > 0.05).all()
    assert picture.info["loop"] == 0 and len(data) < 5_000


def test_figures_are_closed_and_emptied_as_they_come():
    open_before = len(plt.get_fignums())
    seen, parts = [], []

    def counted():
        for figure in bars():
            seen.append(len(plt.get_fignums()) - open_before)
            parts.append(weakref.ref(figure.axes[0].plot([0, 1])[0]))
            gc.collect()  # what survives is old, and the next collections of young objects pass it over
            yield figure

    moving_picture(counted())
    assert seen == [1] * FRAMES and len(plt.get_fignums()) == open_before
    assert not any(part() for part in parts)


@pytest.mark.parametrize("frames", [1, 2])
def test_few_figures_will_do(frames):
    picture = Image.open(io.BytesIO(moving_picture(islice(bars(), frames)).data))
    assert getattr(picture, "n_frames", 1) == frames


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "moving.png").write_bytes(data)
    parts = {name: (BOOK / "_static" / name).read_text() for name in ("moving.css", "moving.js")}
    (folder / "page.html").write_text(
        f"<!doctype html><meta name=viewport content='width=device-width'><link rel=icon href=moving.png>"
        f"<style>img {{ max-width: 100% }} {parts['moving.css']}</style><script>{parts['moving.js']}</script>"
        "<figure><img alt='Animation of a bar that grows.' src=moving.png></figure>"
        "<figure><img alt='A bar.' src=moving.png></figure>"
    )
    return folder


@pytest.fixture(scope="module")
def page_of(folder):
    """A function that opens the page with the options of a browser's context."""
    if BROWSER is None:
        pytest.skip("NOTICE: no Chromium, moving pictures were not looked at")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER)

        def open_page(address=f"http://127.0.0.1:{server.server_port}/page.html", **options):
            page = browser.new_context(**options).new_page()
            page.on("pageerror", lambda error: pytest.fail(error.message))
            page.goto(address)
            page.locator(".moving").wait_for()
            return page

        yield open_page
        browser.close()
    server.shutdown()
    server.server_close()


def shown(page) -> float:
    """The dark share of the picture as it is on the screen."""
    picture = page.locator("figure").first.locator("canvas:visible, img:visible")
    return darkness(Image.open(io.BytesIO(picture.screenshot())))


def test_slider_steps_through_the_frames(page_of):
    page = page_of(reduced_motion="reduce")
    slider, button = page.get_by_label("Frame"), page.get_by_role("button")
    assert page.locator(".moving").count() == 1, "a picture that is not called an animation stays as it is"
    assert button.inner_text() == "Play" and slider.input_value() == str(FRAMES - 1)
    shades = [shown(page)]
    slider.focus()
    for _ in range(FRAMES - 1):
        page.keyboard.press("ArrowLeft")
        shades.append(shown(page))
    assert slider.get_attribute("aria-valuetext") == f"1 of {FRAMES}"
    assert (np.diff(shades) < -0.05).all()
    alt = page.locator("canvas").get_attribute("aria-label")
    assert alt == "Animation of a bar that grows."


def test_plays_by_itself_until_it_is_stopped(page_of):
    page = page_of(reduced_motion="no-preference")
    button, slider = page.get_by_role("button"), page.get_by_label("Frame")
    assert button.inner_text() == "Stop"
    slider.evaluate("slider => { slider.value = 1; slider.dispatchEvent(new Event('input')); }")
    assert button.inner_text() == "Play"
    page.wait_for_timeout(500)
    assert slider.input_value() == "1"
    button.click()
    page.wait_for_function("document.querySelector('.moving input').value != 1")
    page.emulate_media(reduced_motion="reduce")
    page.get_by_role("button", name="Play").wait_for()


def test_from_a_folder_it_can_be_stopped(page_of, folder):
    """A browser may not read a file from a page that is a file: there is a button then, and no slider."""
    page = page_of((folder / "page.html").as_uri(), reduced_motion="reduce")
    assert page.get_by_label("Frame").count() == 0
    stopped = shown(page)
    assert stopped > 0.5
    page.get_by_role("button").click()
    assert page.locator("img:visible").count() == 2
    page.get_by_role("button").click()
    assert shown(page) == stopped


@pytest.mark.parametrize("width", [320, 390])
def test_fits_a_phone(page_of, width):
    page = page_of(reduced_motion="reduce", viewport={"width": width, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = page.get_by_role("button").bounding_box()
    assert min(box["width"], box["height"]) >= 24
