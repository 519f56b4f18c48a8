"""The page as a user has it, in a real browser: drop, find, hide, compare, download, read, be told."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from PIL import Image

from app.conftest import BROKEN, make_run, running_site
from boxtune.app.handlers import Handlers
from browser import BROWSER, Browser
from collators.conversations import LABELS
from serve.running import Client, png

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="needs chromium")]

TITLE = "document.title"
TOLD = "[...document.querySelectorAll('.toast-body')].map(one => one.textContent).join(' ')"
CHOSEN = "document.querySelector('#bt-chosen textarea, #bt-chosen input').value"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture
def site(handlers, browser):
    with running_site(handlers) as client:
        yield client
        browser.open("about:blank")  # a page that is open keeps the server from ending


def opened(browser: Browser, site: Client, **how) -> None:
    browser.events.clear()
    browser.open(f"http://127.0.0.1:{site.port}/", **how)
    browser.wait("document.querySelector('#bt-find') && document.querySelector('#bt-first input')?.value")
    browser.run(SETTLED)


# until nothing on the page has changed for a while (what was put there earlier may be replaced), or a clock runs on it
SETTLED = """new Promise((done) => {
  setTimeout(done, 3000);
  let timer = setTimeout(done, 400);
  const again = () => { clearTimeout(timer); timer = setTimeout(done, 400) };
  new MutationObserver(again).observe(document.body, {childList: true, subtree: true, attributes: true});
})"""


def until(browser: Browser, act: str, condition: str) -> None:
    """Do something until it has its effect.

    What is pressed while the page is put together anew is lost, as it is for a person, who presses again.
    """
    for _ in range(6):
        browser.run(SETTLED)
        browser.run(act)
        for _ in range(150):
            if browser.run(f"Boolean({condition})"):
                return
            time.sleep(0.1)
    raise AssertionError(f"{act} never led to {condition}: {browser.complaints()}")


def pressed(selector: str) -> str:
    return f"document.querySelector({json.dumps(selector)})?.click()"


def tab(browser: Browser, name: str) -> None:
    one = f"[...document.querySelectorAll('[role=tab]')].find(one => one.textContent === {json.dumps(name)})"
    until(browser, f"{one}.click()", f"{one}.getAttribute('aria-selected') === 'true'")


def choose(browser: Browser, selector: str, name: str) -> None:
    """An option of a dropdown."""
    named = f"one => one.textContent.includes({json.dumps(name)})"
    act = f"""new Promise((done) => {{
        const field = document.querySelector('{selector} input');
        field.blur(); field.focus(); field.click();
        setTimeout(() => {{
            const option = [...document.querySelectorAll('[role=option]')].find({named});
            option?.dispatchEvent(new MouseEvent('mousedown', {{bubbles: true}}));
            done();
        }}, 300) }})"""
    until(browser, act, f"document.querySelector('{selector} input').value.includes({json.dumps(name)})")


def drop(browser: Browser, *files: Path) -> None:
    browser.give_files("#bt-photos input[type=file]", *files)
    browser.wait(f"{CHOSEN} === '{len(files)} photo{'s' if len(files) > 1 else ''} chosen.'")


def found(browser: Browser) -> None:
    until(browser, pressed("#bt-find"), "document.querySelector('.bt-found')")


@pytest.fixture
def photos(samples, tmp_path) -> list[Path]:
    files = [tmp_path / f"{sample.id}.png" for sample in samples]
    for sample, file in zip(samples, files, strict=True):
        file.write_bytes(png(sample.image))
    return files


SHOWN = "document.querySelectorAll('.bt-box[data-score]:not(.bt-low)').length"


def test_the_way_of_a_photo(browser, site, handlers: Handlers, photos, samples, loaded, monkeypatch, tmp_path):
    opened(browser, site)
    drop(browser, photos[0], photos[2])
    asked = []
    look = type(handlers.models).look
    monkeypatch.setattr(type(handlers.models), "look", lambda *all: (asked.append(all[1]), look(*all))[1])
    found(browser)

    expected = loaded("x").detect([samples[0].image, samples[2].image])
    scores = sorted(float(score) for one in expected for score in one.detections.scores)
    assert len(scores) == 3
    assert browser.run(SHOWN) == 3
    (x1, y1, x2, y2), (height, width) = expected[0].detections.xyxy[0], samples[0].image_hw
    box = browser.run("""(() => { const box = document.querySelector('.bt-box').getBoundingClientRect(),
        image = document.querySelector('.bt-picture img').getBoundingClientRect();
        return [(box.left - image.left) / image.width, (box.top - image.top) / image.height,
                (box.right - image.left) / image.width, (box.bottom - image.top) / image.height] })()""")
    assert box == pytest.approx([x1 / width, y1 / height, x2 / width, y2 / height], abs=0.02)
    assert browser.run("document.querySelector('.bt-raw').textContent").count("object_ref_start") == 1

    browser.wait("document.querySelector('#bt-coco-1')")
    assert len(downloaded(browser, tmp_path / "all")["annotations"]) == 3
    middle = (scores[0] + scores[1]) / 2
    slide(browser, middle)
    browser.wait(f"{SHOWN} === 2")
    assert sum(browser.run("[...document.querySelectorAll('.bt-count')].map(one => Number(one.textContent))")) == 2
    assert asked == ["tiny:qwen2_vl"], "moving the threshold has asked the model again"
    wait_for(lambda: len(list(handlers.folder.rglob("coco.json"))) >= 2)
    time.sleep(0.5)  # until the button has it
    assert len(downloaded(browser, tmp_path / "fewer")["annotations"]) == 2
    assert browser.complaints() == []
    own = f"http://127.0.0.1:{site.port}/"
    assert [one for one in browser.addresses() if not one.startswith((own, "data:", "blob:"))] == []


def slide(browser: Browser, value: float) -> None:
    """Type a number beside the slider, and leave the field."""
    browser.run(f"""(() => {{ const one = document.querySelector('#bt-threshold input[type=number]');
        one.focus(); one.value = '{value:.2f}'; one.dispatchEvent(new Event('input', {{bubbles: true}}));
        one.dispatchEvent(new Event('change', {{bubbles: true}})); one.blur();
        one.dispatchEvent(new PointerEvent('pointerup', {{bubbles: true}})) }})()""")


def downloaded(browser: Browser, folder: Path) -> dict:
    """What a press on the button saves."""
    folder.mkdir()
    browser.keep_downloads(folder)
    browser.run(pressed("#bt-coco-1"))
    wait_for(lambda: (folder / "coco.json").is_file())
    return json.loads((folder / "coco.json").read_text())


def wait_for(condition, seconds: float = 90) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.1)


def test_two_models_on_a_picture_of_the_data_set(browser, site):
    """Whose labels are markup: they are shown, and nothing of them runs."""
    opened(browser, site)
    tab(browser, "Data set")
    browser.wait("document.querySelectorAll('#bt-samples img').length === 12")
    second = "document.querySelectorAll('#bt-samples .thumbnail-item')[1].click()"
    until(browser, second, f"{CHOSEN}.startsWith('Picture 2 of 15')")
    choose(browser, "#bt-second", "/one")
    assert browser.run("document.querySelector('#bt-truth')") is None
    found(browser)
    browser.wait("document.querySelector('#bt-truth input')")
    assert browser.run("document.querySelectorAll('.bt-found figure').length") == 2
    assert browser.run("document.querySelectorAll('.bt-found figure .bt-truth').length") == 2
    assert browser.run("[...document.querySelectorAll('.bt-truth')].some(one => one.title.includes('<img src=x'))")
    truth = "getComputedStyle(document.querySelector('.bt-truth')).display"
    assert browser.run(truth) == "block"
    until(browser, pressed("#bt-truth input"), f"{truth} === 'none'")
    assert browser.run(TITLE) == "boxtune"
    assert browser.complaints() == []


def test_errors_are_a_message_and_their_markup_is_text(browser, site, photos):
    opened(browser, site)
    until(browser, pressed("#bt-find"), f"{TOLD}.includes('No picture is chosen')")
    until(browser, pressed(".toast-close"), f"!{TOLD}.includes('No picture is chosen')")
    drop(browser, photos[0])
    choose(browser, "#bt-first", "<img")
    until(browser, pressed("#bt-find"), f"{TOLD}.includes('is broken')")
    said = browser.run(TOLD)
    assert BROKEN in said
    assert "Traceback" not in said
    assert browser.run("document.querySelectorAll('.toast-body img').length") == 0
    assert browser.run(TITLE) == "boxtune"


def test_a_photo_that_is_too_large_is_said(browser, site, tmp_path):
    opened(browser, site)
    (tmp_path / "wide.png").write_bytes(png(Image.new("1", (2000, 2000))))
    browser.give_files("#bt-photos input[type=file]", tmp_path / "wide.png")
    browser.wait(f"{TOLD}.includes('2000×2000 pixels, the limit is 1,000,000')")


def test_a_report_is_shown_and_locked_in(browser, site, handlers: Handlers):
    make_run(handlers.catalogue.runs / "two", "<!doctype html><title>two</title><h1>Report of two</h1>")
    opened(browser, site)
    tab(browser, "Reports")
    browser.wait("document.querySelector('iframe.bt-report')?.title.endsWith('one')")  # the first, unasked
    choose(browser, "#bt-run", "two")
    browser.wait("document.querySelector('iframe.bt-report').title.endsWith('two')")
    choose(browser, "#bt-run", "one")
    browser.wait("document.querySelector('iframe.bt-report').title.endsWith('one')")
    assert browser.run("document.querySelector('iframe.bt-report').sandbox.value") == "allow-scripts"
    assert browser.run("document.querySelector('iframe.bt-report').contentDocument") is None  # an origin of its own
    assert browser.run(TITLE) == "boxtune"
    wait_for(lambda: browser.run("1") and any("/reports?run=" in one for one in browser.addresses()))
    assert browser.complaints() == []


@pytest.mark.parametrize(("width", "dark"), [(360, False), (360, True), (1280, True)])
def test_it_fits_and_follows_the_reader(browser, site, photos, width, dark):
    opened(browser, site, width=width, dark=dark)
    drop(browser, photos[0])
    choose(browser, "#bt-second", "/one")
    found(browser)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert (
        browser.run(
            "Math.max(...[...document.querySelectorAll('.bt-picture')].map(one => one.getBoundingClientRect().right))"
        )
        <= width
    )
    sides = browser.run(
        "[...document.querySelectorAll('.bt-found figure')].map(one => one.getBoundingClientRect().top)"
    )
    assert (sides[0] == sides[1]) is (width > 600)
    brightness = (
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0)"
    )
    assert (browser.run(brightness) < 200) is dark
    assert LABELS[0] in browser.run("document.querySelector('.bt-found').textContent")
