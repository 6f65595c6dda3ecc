"""The page in a real browser: it asks for nothing, fits a phone, and turns dark."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.reporting.study import DEFAULT, MONITOR, SEEDS, write_study

from frostline.pipeline.report.stage import write_report
from frostline.plotting import theme
from frostline.schema import Report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [pytest.mark.ui, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    config = Report(study="study", arms=list(DEFAULT), seeds=list(SEEDS), monitor=MONITOR, gate={})
    return write_report(config, write_study(folder / "artifacts"), folder / "out").page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize("width", [360, 400, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_the_screen_and_asks_for_nothing(browser: Any, page: Path, width: int, scheme: str) -> None:
    view = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    asked: list[str] = []
    complaints: list[str] = []
    view.on("request", lambda request: asked.append(request.url))
    view.on("console", lambda message: complaints.append(message.text))
    view.goto(page.as_uri())
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    assert view.locator("figure.tall").is_visible() == (width <= 720)
    assert view.locator("figure.wide").is_visible() == (width > 720)
    paper = view.evaluate("getComputedStyle(document.body).backgroundColor")
    colour = theme.PAPER.light if scheme == "light" else theme.PAPER.dark
    assert paper == f"rgb({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))})"
    view.close()
    assert (asked, complaints) == ([page.as_uri()], [])


def test_prints_on_light_paper(browser: Any, page: Path) -> None:
    view = browser.new_page(color_scheme="dark")
    view.goto(page.as_uri())
    view.emulate_media(media="print", color_scheme="dark")
    assert view.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    view.close()
