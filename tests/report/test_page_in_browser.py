"""The HTML report in headless Chromium: sorting, tooltips, width on a phone, print; no complaint, no request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, chromium
from PIL import Image
from sample_runs import two_gpus

from rmeeto_bench.records.run import Block
from rmeeto_bench.report.run.html import html

pytestmark = pytest.mark.skipif(chromium() is None, reason="needs chromium (Debian: apt-get install chromium)")
PHONE, DESK = 390, 1100


def blocks() -> dict[str, list[Block]]:
    run = two_gpus()
    return {
        device.id: [
            Block(device.id, 0, number, place, arm.arm, 8, 1024, 0.7 + 0.01 * number, 0.7, "THROTTLED" if number == 2 else None)
            for number in range(3)
            for place, arm in enumerate(arm for arm in run.arms if arm.device == device.id)
        ]
        for device in run.devices
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html(two_gpus(), blocks()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.close()


def column(browser: Browser, index: int) -> list[str]:
    return browser.run(f"[...document.querySelector('table').tBodies[0].rows].map(row => row.cells[{index}].textContent)")


def centre(browser: Browser, selector: str) -> tuple[float, float]:
    script = f"(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'center'}});"
    script += "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
    x, y = browser.run(script)
    return x, y


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_it_is_whole_at_this_width_without_complaint_or_request(
    browser: Browser, page: Path, width: int, tmp_path: Path
) -> None:
    browser.open(page, width)
    assert browser.run("document.documentElement.scrollWidth") <= width, "the page itself must not scroll sideways"
    shown = "[...document.querySelectorAll('figure svg')].filter(svg => svg.getBoundingClientRect().width > 0).length"
    assert browser.run(shown) == 1, "a drawing for phones and one for wider screens, one of them shown"
    assert browser.run("document.querySelectorAll('.scroll')[0].scrollWidth") > 300
    picture = Image.open(browser.screenshot(tmp_path / "page.png")).convert("L")
    assert picture.width == width
    assert len(picture.getcolors(256) or []) > 50, "more than a blank page"
    assert browser.complaints == []
    assert browser.requests == [page.as_uri()]


def test_a_click_sorts_by_number_and_a_second_one_turns_it_round(browser: Browser, page: Path) -> None:
    browser.open(page, DESK)
    heads = browser.run("[...document.querySelectorAll('table')[0].tHead.rows[0].cells].map(cell => cell.textContent)")
    index = heads.index("images/s")
    assert column(browser, index) == ["1480", "1372", "1690", "2200"]
    button = f"table th:nth-child({index + 1}) button"
    browser.click(*centre(browser, button))
    assert column(browser, index) == ["1372", "1480", "1690", "2200"]
    browser.click(*centre(browser, button))
    assert column(browser, index) == ["2200", "1690", "1480", "1372"]
    assert browser.run("document.querySelectorAll('th[aria-sort]').length") == 1
    assert browser.complaints == []


def test_a_point_says_what_it_is(browser: Browser, page: Path) -> None:
    browser.open(page, PHONE)
    assert browser.run("document.getElementById('tip').hidden")
    browser.click(*centre(browser, "#paper-arm2"))
    text = browser.run("document.getElementById('tip').textContent")
    assert text.startswith("NVIDIA GeForce RTX 4090, vim_small, ratio 0.31 (r = 11); 1690 images/s")
    box = browser.run("(b => [b.left, b.right])(document.getElementById('tip').getBoundingClientRect())")
    assert box[0] >= 0
    assert box[1] <= PHONE
    browser.click(5, 5)
    assert browser.run("document.getElementById('tip').hidden")


def test_dropped_rounds_are_there_with_their_reason(browser: Browser, page: Path) -> None:
    browser.open(page, DESK)
    assert browser.run("document.querySelectorAll('details.rounds').length") == 2
    browser.run("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    rows = browser.run(
        "[...document.querySelector('details.rounds tbody').rows].map(row => row.cells[row.cells.length - 1].textContent)"
    )
    assert rows == ["", "", "THROTTLED"]


def test_it_prints(browser: Browser, page: Path) -> None:
    browser.open(page, DESK)
    pdf = browser.print_pdf()
    assert pdf.startswith(b"%PDF")
    assert 1 <= pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") + pdf.count(b"/Type/Page") <= 5
