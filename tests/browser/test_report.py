"""The report in a real browser: no error, no network, fits the screen, and everything that can be used works."""

import json
import time
from pathlib import Path

import pytest
from support.chromium import chromium, missing, show
from support.records_fixture import make_record, write_sweep

from analysis.report.page import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing() is not None, reason=f"the report was not opened in a browser: {missing()}"),
]

LOOKS = [(1280, False), (1280, True), (390, False), (390, True)]
KEYS = {"enter": "\ue007", "right": "\ue014"}


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    records = [
        make_record(seconds=8.0, truth_db=None),
        make_record(attention="sdpa", seconds=6.0, paired=1.33),
        make_record(precision="amp", seconds=5.0, paired=1.6, psnr_hole_db=48.0, disturbed=["another process ran"]),
        make_record(
            attention="sdpa", precision="amp", seconds=4.0, paired=2.0, psnr_hole_db=47.0, peak_bytes=2 * 10**8
        ),
        make_record(precision="half", status="unsupported", reason="no <half> on this cpu"),
        make_record(compile="default", status="failed", reason="SomeError: " + "a_very_long_word" * 20),
    ]
    folder = write_sweep(tmp_path_factory.mktemp("sweep"), records, with_previews=True)
    return write_report([folder])


@pytest.fixture(scope="module")
def driver():
    with chromium() as driver:
        yield driver


def _find(driver, selector: str):
    return driver.find_elements("css selector", selector)


def _names(driver) -> list[str]:
    return [row.text.split("\n")[0] for row in _find(driver, "#table tbody tr:not([hidden]) th")]


def _type(driver, selector: str, text: str) -> None:
    driver.execute_script(
        "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event(e.tagName === 'SELECT' ? 'change' : 'input', {bubbles: true}))",
        selector,
        text,
    )


@pytest.mark.parametrize(("width", "dark"), LOOKS)
def test_it_fits_and_makes_no_error_and_no_request(driver, page, width, dark):
    driver.get_log("browser"), driver.get_log("performance")
    show(driver, page, width=width, height=900, dark=dark)
    assert driver.execute_script("return matchMedia('(prefers-color-scheme: dark)').matches") is dark
    for fold in _find(driver, "details"):
        driver.execute_script("arguments[0].open = true", fold)
    assert driver.execute_script("return document.documentElement.scrollWidth") == width
    too_wide = driver.execute_script(
        "return [...document.querySelectorAll('body *')]"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
        ".filter(e => !e.closest('.scroll, .drawing, .skip, .announcement')).map(e => e.outerHTML.slice(0, 120))"
    )
    assert too_wide == []
    assert [entry for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_enough_contrast(driver, page, dark):
    show(driver, page, width=1280, height=900, dark=dark)
    assert driver.execute_script(_CONTRAST) == []


@pytest.mark.parametrize(("width", "dark"), LOOKS)
def test_the_table_sorts_and_filters(driver, page, width, dark):
    show(driver, page, width=width, height=900, dark=dark)
    fastest_first = _names(driver)
    assert fastest_first[0] == "attention=sdpa,precision=amp"
    head = _find(driver, "#table thead th")
    assert head[1].get_attribute("aria-sort") == "ascending"
    button = head[1].find_element("css selector", "button")
    driver.execute_script("arguments[0].click()", button)
    assert head[1].get_attribute("aria-sort") == "descending"
    assert _names(driver)[:4] == fastest_first[:4][::-1]
    assert set(_names(driver)[4:]) == set(fastest_first[4:]), "those without a latency stay at the end"

    memory = head[3].find_element("css selector", "button")
    driver.execute_script("arguments[0].focus()", memory)
    memory.send_keys(KEYS["enter"])
    assert [h.get_attribute("aria-sort") for h in head[:5]] == ["none", "none", "none", "ascending", "none"]
    assert _names(driver)[0] == "attention=sdpa,precision=amp"
    psnr = head[4].find_element("css selector", "button")
    driver.execute_script("arguments[0].click()", psnr)
    assert _names(driver)[:2] == ["published", "attention=sdpa"], "identical is the most there is"

    _type(driver, "#filter-text", "SDPA amp")
    assert _names(driver) == ["attention=sdpa,precision=amp"]
    assert _find(driver, "#filter-count")[0].text == "1 of 6 rows"
    _type(driver, "#filter-text", "")
    _type(driver, "#filter-status", "failed")
    assert _names(driver) == ["compile=default"]
    _type(driver, "#filter-status", "")
    driver.execute_script("document.getElementById('filter-disturbed').click()")
    assert "precision=amp" not in _names(driver)
    assert len(_names(driver)) == 5


@pytest.mark.parametrize(("width", "dark"), LOOKS)
def test_the_viewer_changes_variant_frame_and_wipe(driver, page, width, dark):
    show(driver, page, width=width, height=900, dark=dark)
    chosen = _find(driver, "#viewer-variant option:checked")[0].text
    assert chosen == "attention=sdpa,precision=amp", "not the published one, which is the reference itself"
    source = "return document.getElementById(arguments[0]).src"
    images = ("stage-result", "stage-reference", "panel-difference")
    at_first = {name: driver.execute_script(source, name) for name in images}
    assert all(value.startswith("data:image/jpeg;base64,") for value in at_first.values())
    assert driver.execute_script("return document.getElementById('stage-result').naturalWidth") == 160

    slider = _find(driver, "#viewer-frame")[0]
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].focus()", slider)
    slider.send_keys(KEYS["right"])
    assert driver.execute_script(source, "stage-reference") != at_first["stage-reference"]
    assert _find(driver, "#viewer-frame-number")[0].text == "2 (2 of 4)"
    assert "frame 2" in _find(driver, "#panel-result")[0].get_attribute("alt")

    before = driver.execute_script(source, "panel-difference")
    assert "47.0 dB in the hole" in _find(driver, "#viewer-facts")[0].text
    _type(driver, "#viewer-variant", "0")
    assert driver.execute_script(source, "panel-difference") != before
    assert "identical" in _find(driver, "#viewer-facts")[0].text

    cut = "return getComputedStyle(document.getElementById('stage-result')).clipPath"
    middle = driver.execute_script(cut)
    _type(driver, "#viewer-wipe", "10")
    assert "10%" in driver.execute_script(cut)
    assert driver.execute_script(cut) != middle
    driver.execute_script(
        "const s = document.getElementById('viewer-stage'), b = s.getBoundingClientRect();"
        "s.setPointerCapture = () => {};"
        "const at = {pointerId: 1, clientX: b.left + b.width * 0.75, clientY: b.top + 9};"
        "s.dispatchEvent(new PointerEvent('pointerdown', at))"
    )
    assert 74 <= float(_find(driver, "#viewer-wipe")[0].get_attribute("value")) <= 76
    assert "75%" in driver.execute_script(cut).replace("74.9", "75")


@pytest.mark.parametrize(("width", "dark"), LOOKS)
def test_the_viewer_shows_the_truth_and_wipes_over_it(driver, page, width, dark):
    show(driver, page, width=width, height=900, dark=dark)
    source = "return document.getElementById(arguments[0]).src"
    picture: dict[str, str] = {}
    for _ in range(50):  # a busy machine runs the page's script late
        picture = {name: driver.execute_script(source, f"panel-{name}") for name in ("input", "truth", "reference")}
        if all(picture.values()):
            break
        time.sleep(0.1)
    assert picture["truth"] not in (picture["input"], picture["reference"])
    shown = "return document.getElementById('panel-truth').getBoundingClientRect().width"
    assert driver.execute_script(shown) > 100
    assert "To the truth: 7.09 dB (reference 7.09 dB) in the hole" in _find(driver, "#viewer-facts")[0].text
    for name in ("truth", "input", "reference"):
        _type(driver, "#viewer-left", name)
        assert driver.execute_script(source, "stage-reference") == picture[name]
        assert _find(driver, "#stage-left-tag")[0].text == name
        assert _find(driver, "#viewer-wipe")[0].get_attribute("aria-valuetext") == f"50 percent {name}"

    _type(driver, "#viewer-left", "truth")
    _type(driver, "#viewer-variant", "0")  # a record that does not know the truth
    assert driver.execute_script(shown) == 0
    assert _find(driver, "#viewer-left")[0].get_attribute("value") == "reference"
    assert driver.execute_script(source, "stage-reference") == picture["reference"]
    assert not _find(driver, "#viewer-left option[value=truth]")[0].is_enabled()


def test_a_command_is_copied(driver, page):
    show(driver, page, width=1280, height=900, dark=False)
    button = _find(driver, ".card .copy")[0]
    driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", button)
    button.click()
    announcement = "return document.getElementById('announcement').textContent"
    for _ in range(50):
        if driver.execute_script(announcement):
            break
    assert driver.execute_script(announcement) == "Command copied"


_CONTRAST = """
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const light = (c) => { const [r, g, b] = c.map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b; };
const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
  if (c.length < 4 || c[3] === 1) return c.slice(0, 3); } return [255, 255, 255]; };
const bad = [];
for (const e of document.querySelectorAll('body *')) {
  if (e.closest('svg, script, style, noscript, .announcement, .stage') || !e.offsetParent) continue;
  if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
  const style = getComputedStyle(e), [a, b] = [light(parse(style.color).slice(0, 3)), light(ground(e))];
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (ratio < 4.5) bad.push(`${ratio.toFixed(2)} ${e.tagName}.${e.className} ${e.textContent.slice(0, 30)}`);
}
return [...new Set(bad)];
"""
