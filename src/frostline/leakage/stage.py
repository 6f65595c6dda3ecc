"""The stage `leakage`: compare the images of a source with those that its target is measured on."""

from collections.abc import Sequence
from pathlib import Path

from frostline import schema
from frostline.base import omitted
from frostline.base.files import publish, write_bytes, write_checksums, write_text
from frostline.base.formats import canonical_json
from frostline.data.prepared.index import PreparedData
from frostline.data.reading.bands import PixelFormat
from frostline.duplicates.contact_sheet import MOST_PAIRS, NEAR_DUPLICATES_FILE, SIDE, Shown, contact_sheet
from frostline.leakage.source_target import NearDuplicates, check_source

LEAKAGE_FILE = "leakage.json"


def check_study(
    config: schema.Leakage, source: Path, target: Path, out: Path, *, sealed: bool = False
) -> list[str]:
    """Compare the prepared source and target of a study, and write what was found.

    Args:
        source: folder of the prepared source.
        target: folder of the prepared target.
        out: folder for leakage.json and, if images look alike, a contact sheet of the pairs.
        sealed: whether to write checksums, for `is_intact`.

    Returns:
        Warnings about images that look alike.

    Raises:
        FrostlineError: the target is measured on an image of the source; see `check_source`.
    """
    data = PreparedData.read(config.source.dataset, source)
    found = check_source(data, PreparedData.read(config.target.dataset, target))
    omitted.remove_reason(out)
    warnings = [near.warning for near in found]
    with publish(out) as work:
        write_text(work / LEAKAGE_FILE, canonical_json({"warnings": warnings}))
        if found:
            write_bytes(work / NEAR_DUPLICATES_FILE, sheet(data, found, config))
        if sealed:
            write_checksums(work)
    return warnings


def sheet(source: PreparedData, found: Sequence[NearDuplicates], config: schema.Leakage) -> bytes:
    """Return a contact sheet, PNG, of the first pairs of each data set."""
    formats = [PixelFormat(part.channels, part.depth or 8) for part in (config.source, config.target)]
    return contact_sheet(
        [
            (_shown(source, first, formats[0]), _shown(near.measured, second, formats[1]))
            for near in found
            for first, second in near.pairs[:MOST_PAIRS]
        ]
    )


def _shown(data: PreparedData, row: int, wanted: PixelFormat) -> Shown:
    (decoded,) = data.decoded([row], wanted, at_least=SIDE)
    return Shown(decoded.picture, data.index.keys[row], str(data.index.splits[row]))
