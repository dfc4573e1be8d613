"""The page, opened as a file in a real browser."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from browser import Page
from evaluation.conftest import PaintFolder

from difix3d_ns.evaluation.evaluate_options import EvaluateConfig
from difix3d_ns.evaluation.page import page_of, url_of
from difix3d_ns.evaluation.report import evaluate

RED, GREEN, BLUE = (220, 20, 20), (20, 200, 20), (20, 20, 220)
HOSTILE = '"><img src=x onerror=hacked=1><script>hacked=1</script>&amp;'
ODD = "50% #1 a?b 'é'"


@pytest.fixture(autouse=True)
def no_lpips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("difix3d_ns.images.metrics.load_lpips", lambda backbone: None)


def make_page(paint: PaintFolder, folder: Path, names: list[str], enhanced: bool = True) -> Path:
    """Evaluates red renders, green enhanced renders and blue photos; returns the page."""
    evaluate(
        EvaluateConfig(
            output_dir=folder / "out",
            renders=paint("renders", dict.fromkeys(names, RED)),
            enhanced=paint("enhanced", dict.fromkeys(names, GREEN)) if enhanced else None,
            photos=paint("photos", dict.fromkeys(names, BLUE)),
        )
    )
    return folder / "out" / "index.html"


def place_of_first(page: Page) -> tuple[float, float, float, float]:
    """Left, top, width and height of the first slider, in pixels of the window."""
    page.evaluate("document.querySelector('.view .compare').scrollIntoView({block: 'center'})")
    box = "document.querySelector('.view .compare').getBoundingClientRect()"
    left, top, width, height = page.evaluate(f"(r => [r.x, r.y, r.width, r.height])({box})")
    return left, top, width, height


def color_at(page: Page, along: float) -> tuple[int, ...]:
    """Which of the three colours the first comparison shows at a share of its width, near its lower edge."""
    page.wait_until(
        "[...document.querySelectorAll('.view .compare')[0].querySelectorAll('img')].every(i => i.complete)"
    )
    left, top, width, height = place_of_first(page)
    pixel = page.screenshot()[int(top + 0.85 * height), int(left + along * width)]
    return min((RED, GREEN, BLUE), key=lambda color: int(np.abs(pixel.astype(int) - color).sum()))


def drag(page: Page, start: float, end: float) -> None:
    left, top, width, height = place_of_first(page)
    y = top + 0.4 * height
    page.drag((left + start * width, y), (left + end * width, y))


def test_dragging_the_slider_uncovers_the_other_image(browser: Page, paint: PaintFolder, tmp_path: Path) -> None:
    browser.complaints.clear()
    browser.open(make_page(paint, tmp_path, ["one", "two"]).as_uri())
    assert [color_at(browser, along) for along in (0.1, 0.4, 0.6, 0.9)] == [RED, RED, GREEN, GREEN]
    drag(browser, 0.5, 0.2)
    assert [color_at(browser, along) for along in (0.1, 0.3, 0.6)] == [RED, GREEN, GREEN]
    drag(browser, 0.2, 0.8)
    assert [color_at(browser, along) for along in (0.3, 0.7, 0.9)] == [RED, RED, GREEN]
    second = "getComputedStyle(document.querySelectorAll('.compare')[1]).getPropertyValue('--split')"
    assert browser.evaluate(second).strip() == "50%"
    browser.evaluate("document.querySelector('[name=together]').click()")
    drag(browser, 0.8, 0.3)
    assert float(browser.evaluate(second).strip().rstrip("%")) == pytest.approx(30, abs=2)
    assert browser.complaints == []


def test_the_page_works_by_keyboard_alone(browser: Page, paint: PaintFolder, tmp_path: Path) -> None:
    browser.open(make_page(paint, tmp_path, ["one", "two"]).as_uri())
    slider = "document.activeElement"
    for _ in range(20):
        browser.key("Tab", "Tab")
        if browser.evaluate(f"{slider}.className") == "split":
            break
    assert browser.evaluate(f"{slider}.getAttribute('aria-label')").startswith("one")
    for _ in range(30):
        browser.key("ArrowLeft", "ArrowLeft")
    assert [color_at(browser, along) for along in (0.1, 0.4)] == [RED, GREEN]
    browser.key("3", "Digit3")
    assert [color_at(browser, along) for along in (0.1, 0.4)] == [BLUE, GREEN]
    browser.key("!", "Digit1", shift=True)
    assert [color_at(browser, along) for along in (0.1, 0.4)] == [BLUE, RED]
    assert browser.evaluate("document.querySelector('.view .at-left').textContent") == "photo"


def test_names_of_files_are_shown_as_text_and_never_run(browser: Page, paint: PaintFolder, tmp_path: Path) -> None:
    names = [HOSTILE.replace("/", ""), ODD, "in/a/folder"]
    browser.complaints.clear()
    browser.open(make_page(paint, tmp_path, names).as_uri())
    assert browser.evaluate("typeof hacked") == "undefined"
    assert sorted(browser.evaluate("[...document.querySelectorAll('h3')].map(h => h.textContent)")) == sorted(names)
    browser.evaluate("document.querySelectorAll('img').forEach(i => { i.loading = 'eager' })")
    browser.wait_until("[...document.images].every(i => i.complete)")
    assert browser.evaluate("[...document.images].every(i => i.naturalWidth === 64)")
    assert browser.complaints == []


def test_only_the_visible_ones_of_many_views_are_loaded(browser: Page, paint: PaintFolder, tmp_path: Path) -> None:
    browser.open(make_page(paint, tmp_path, [f"view-{index}" for index in range(200)]).as_uri())
    loaded = "[...document.images].filter(i => i.complete && i.naturalWidth > 0).length"
    browser.wait_until(f"{loaded} > 3")
    assert browser.evaluate("document.images.length") == 400
    assert browser.evaluate(loaded) < 200
    browser.evaluate("document.getElementById('view-199').scrollIntoView()")
    browser.wait_until("[...document.querySelectorAll('#view-199 img')].every(i => i.complete && i.naturalWidth > 0)")


def test_views_are_sorted_by_their_gain(browser: Page, paint: PaintFolder, tmp_path: Path) -> None:
    photos = paint("photos", dict.fromkeys("abc", (100, 100, 100)))
    renders = paint("renders", dict.fromkeys("abc", (120, 120, 120)))
    enhanced = paint("enhanced", {"a": (110, 110, 110), "b": (160, 160, 160), "c": (101, 101, 101)})
    evaluate(EvaluateConfig(tmp_path / "out", renders=renders, photos=photos, enhanced=enhanced))
    browser.open((tmp_path / "out" / "index.html").as_uri())
    order = "[...document.querySelectorAll('h3')].map(h => h.textContent).join('')"
    for value, expected in (("gain", "bac"), ("-gain", "cab"), ("index", "abc")):
        browser.evaluate(
            f"(() => {{ const s = document.querySelector('[name=order]'); s.value = '{value}'; "
            "s.dispatchEvent(new Event('change', {bubbles: true})) })()"
        )
        assert browser.evaluate(order) == expected


def test_frames_of_the_camera_path_are_played(browser: Page, paint: PaintFolder, tmp_path: Path) -> None:
    for kind, colors in (("raw", (RED, BLUE)), ("enhanced", (GREEN, GREEN))):
        paint(f"frames/{kind}", {f"{index:04d}": color for index, color in enumerate(colors)})
    paint("images/raw", {"a": RED})
    paint("images/photo", {"a": BLUE})
    paint("images/enhanced", {"a": GREEN})
    (tmp_path / "index.html").write_text(page_of(report_with_frames()))
    browser.complaints.clear()
    browser.open((tmp_path / "index.html").as_uri())
    shown = "document.querySelector('.video .under').getAttribute('src')"
    assert browser.evaluate(shown) == "frames/raw/0000.png"
    assert browser.evaluate("document.querySelector('.video').textContent.includes('0.50 times')")
    browser.evaluate("document.querySelector('[name=play]').click()")
    browser.wait_until(f"{shown} === 'frames/raw/0001.png'")
    browser.evaluate("document.querySelector('[name=play]').click()")
    assert browser.evaluate("document.querySelector('[name=play]').textContent") == "Play"
    browser.key("3", "Digit3")  # frames have no photo, so the render stays
    assert browser.evaluate(shown).startswith("frames/raw/")
    assert browser.complaints == []


def report_with_frames() -> dict:
    figures = {"psnr": 20.0, "ssim": 0.5}
    files = {kind: f"images/{kind}/a.png" for kind in ("raw", "enhanced", "photo")}
    video = {kind: [f"frames/{kind}/{index:04d}.png" for index in range(2)] for kind in ("raw", "enhanced")}
    flicker = {"mean": 0.02, "covered": 0.8, "pairs": [0.02]}
    return {
        "title": "a <b> title",
        "facts": {"run": "<i>"},
        "notes": [],
        "mean": {"raw": figures, "enhanced": figures},
        "flicker": {
            "num_frames": 2, "height": 48, "width": 64, "ratio": 0.5, "files": video,
            "raw": flicker, "enhanced": {**flicker, "mean": 0.01},
        },
        "views": [{"name": "a", "width": 64, "height": 48, "files": files, "raw": figures, "enhanced": figures}],
    }  # fmt: skip


def test_a_script_that_is_not_the_pages_own_is_refused(browser: Page, tmp_path: Path) -> None:
    file = tmp_path / "index.html"
    file.write_text(page_of(report_with_frames()).replace("</body>", "<script>hacked = 1</script></body>"))
    browser.complaints.clear()
    browser.open(file.as_uri())
    assert browser.evaluate("typeof hacked") == "undefined"
    assert any("Content Security Policy" in complaint for complaint in browser.complaints)


def test_the_page_loads_nothing_from_elsewhere() -> None:
    page = page_of(report_with_frames())
    assert not re.findall(r"""(?:https?:)?//[\w.]+""", page.replace("//# ", ""))
    assert "a &lt;b&gt; title" in page and "<i>" not in page.split("</header>")[0].split("facts")[1].split("</p>")[0]
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert "default-src 'none'" in policy[1] and "unsafe" not in policy[1]
    assert re.findall(r"\son\w+=|javascript:", page) == []


def test_every_file_name_is_escaped_in_a_url() -> None:
    assert url_of("images/raw/a b#c?d%e\"'<>.png") == "images/raw/a%20b%23c%3Fd%25e%22%27%3C%3E.png"
    assert url_of("images/raw/\udcff.png") == "images/raw/%FF.png"
