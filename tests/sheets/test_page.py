"""A sheet is one file, whatever the names in it, and of bounded size."""

import re

import numpy as np
import pytest

from frostline.sheets import page
from frostline.sheets.page import Bar, Card, Sheet

NAMES = ('<script>alert("x")</script>', "a & b", "'\"", "ü日本", "{{ title }}", "</style>")


def noise(side, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def test_names_are_text_wherever_they_stand():
    cards = [Card([noise(8)], name, name, bars=[Bar(name, 0.5)]) for name in NAMES]
    sheet = Sheet(NAMES[0], NAMES[1], cards)
    for html in (sheet.page(), sheet._repr_html_()):
        assert "<script" not in html
        assert html.count("</style>") == html.count("<style>")
        assert html.count("a &amp; b") >= 4
        assert "{{ title }}" in html


def test_a_page_needs_no_other_file():
    html = Sheet("one", "two", [Card([noise(100)], "x")]).page()
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert len(sources) == 1
    assert sources[0].startswith("data:image/jpeg;base64,")
    assert "http" not in html


def test_small_images_lose_nothing(tmp_path):
    import base64
    import io

    from PIL import Image

    picture = noise(28)
    (uri,) = re.findall(r'src="data:image/png;base64,([^"]*)"', Sheet("", "", [Card([picture], "x")]).page())
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(uri)))), picture)


def test_images_beyond_the_limit_are_counted(monkeypatch):
    monkeypatch.setattr(page, "MOST_BYTES", 50_000)
    html = Sheet("many", "", [Card([noise(200, seed)], str(seed)) for seed in range(12)]).page()
    shown = html.count("<img")
    assert 0 < shown < 12
    assert len(html) < 50_000 + 20_000
    assert f"{12 - shown} more are not shown" in html


@pytest.mark.parametrize("shape", [(300, 20), (5, 900, 3), (1, 1)])
def test_images_of_any_shape(shape):
    html = Sheet("", "", [Card([np.zeros(shape, np.uint8)], "x")])._repr_html_()
    assert html.count("<img") == 1


def test_a_card_without_an_image():
    html = Sheet("", "", [Card([], "gone.png", "is missing")])._repr_html_()
    assert "<img" not in html
    assert "is missing" in html


def test_in_a_tuple_it_is_a_line():
    assert repr((Sheet("one", "two", [Card([noise(8)], "x")]),)) == "(Sheet(title='one', subtitle='two'),)"
