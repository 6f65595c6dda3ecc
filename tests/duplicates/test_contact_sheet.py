import io

from PIL import Image
from tests.data.trees import picture

from frostline.duplicates.contact_sheet import MOST_PAIRS, SIDE, Shown, contact_sheet


def test_a_sheet_is_repeatable_and_limited():
    pairs = [
        (Shown(picture(i, (300, 100)), f"a very long folder name/and a file {i}.png", "train"),
         Shown(picture(i, (60, 90), "L"), "é.png", "test"))
        for i in range(MOST_PAIRS + 3)
    ]  # fmt: skip
    content = contact_sheet(pairs)
    assert content == contact_sheet(pairs[:MOST_PAIRS])
    sheet = Image.open(io.BytesIO(content))
    assert sheet.width > 4 * SIDE
    assert sheet.height > MOST_PAIRS / 2 * SIDE
    assert Image.open(io.BytesIO(contact_sheet(pairs[:1]))).width < 3 * SIDE
