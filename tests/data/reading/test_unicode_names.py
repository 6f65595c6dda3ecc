"""One name in two Unicode forms is one name: of classes, files and folders, in data sets and in weights."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data.trees import image_folder, packaged, picture

from frostline.base.names import locate, nfc, unicode_form
from frostline.console.errors import FrostlineError
from frostline.data.loading.pixels import load_pixels
from frostline.data.prepared.index import Index, PreparedData
from frostline.models import weights
from frostline.models.input_spec import InputSpec
from frostline.preparation.stage import prepare, prepare_cached

NAMES = ("café", "Ångström", "한국어", "naïve thé")
SPEC = InputSpec(8, 3, "bilinear", 1.0, (0.5,) * 3, (0.5,) * 3)


def in_form(name: str, which: str) -> str:
    return unicodedata.normalize(which, name)


def plant(root: Path, which: str, classes: tuple[str, ...] = NAMES, images: int = 6, seed: int = 0) -> Path:
    for label, name in enumerate(classes):
        folder = root / in_form(name, which)
        folder.mkdir(parents=True)
        for i in range(images):
            picture(seed + 100 * label + i).save(folder / in_form(f"été {i}.png", which))
    return root


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_splits_in_different_forms_have_the_same_classes(tmp_path, forms):
    for i, (split, which) in enumerate(zip(("train", "test"), forms, strict=True)):
        plant(tmp_path / "photos" / split, which, seed=1000 * i)
    index = prepare(image_folder(tmp_path / "photos", test=None), tmp_path / "out")
    assert index.classes == tuple(sorted(NAMES))
    assert len(index) == 48
    assert all(key == nfc(key) for key in Index.read(tmp_path / "out").keys)


def test_a_copy_in_the_other_form_is_the_same_data_set(tmp_path):
    """Fingerprint, splits and pixels; and what one machine prepared, another reads."""
    composed, decomposed = (plant(tmp_path / which, which) for which in ("NFC", "NFD"))
    first, second = (
        prepare(image_folder(root), tmp_path / f"out-{root.name}") for root in (composed, decomposed)
    )
    assert first.fingerprint == second.fingerprint
    out = tmp_path / "out-NFC"
    assert (out / "index.csv").read_bytes() == (tmp_path / "out-NFD" / "index.csv").read_bytes()
    pixels = [
        load_pixels(
            PreparedData(image_folder(root).dataset, first, out),
            range(len(first)),
            SPEC,
            scratch=tmp_path / root.name,
        )
        for root in (composed, decomposed)
    ]
    assert torch.equal(*pixels)


def test_the_cache_notices_a_change_of_a_decomposed_name(tmp_path):
    root = plant(tmp_path / "photos", "NFD")
    before, _ = prepare_cached(image_folder(root), tmp_path / "scratch")
    picture(999).save(next(path for path in root.rglob("*.png")))
    after, _ = prepare_cached(image_folder(root), tmp_path / "scratch")
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", ["", "train/"])
def test_two_folders_of_one_class_are_refused(tmp_path, name, split):
    root = tmp_path / "photos"
    for i, which in enumerate(("NFC", "NFD")):
        plant(root / split, which, (name,), seed=i)
    plant(root / split, "NFC", ("other",))
    with pytest.raises(FrostlineError) as raised:
        prepare(image_folder(root), tmp_path / "out")
    sentence = str(raised.value)
    assert "has class folders whose names differ only by their Unicode form, " in sentence
    assert f"{split}{name}' (NFD)" in sentence
    assert f"{split}{name}' (NFC): move" in sentence or f"{split}{name}' (NFC) and" in sentence


def test_two_files_or_folders_of_one_name_are_refused(tmp_path):
    root = plant(tmp_path / "photos", "NFC")
    for i, which in enumerate(("NFC", "NFD")):
        (root / "café" / in_form("dépôt", which)).mkdir()
        picture(500 + i).save(root / "café" / in_form("dépôt", which) / f"{i}.png")
        picture(600 + i).save(root / "café" / in_form("très.png", which))
    with pytest.raises(FrostlineError) as raised:
        prepare(image_folder(root), tmp_path / "out")
    for name in ("café/dépôt", "café/très.png"):
        assert f"{name} exists twice, under names that differ only by their Unicode form: rename one" in str(
            raised.value
        )


def test_a_root_in_the_other_form_is_found(tmp_path):
    plant(tmp_path / in_form("données", "NFD"), "NFC")
    index = prepare(image_folder(tmp_path / "données"), tmp_path / "out")
    assert len(index) == 24


def test_case_and_form_are_told_apart(tmp_path):
    for i, name in enumerate(("Café", in_form("café", "NFD"))):
        plant(tmp_path / "photos", "NFC" if i == 0 else "NFD", (name,), seed=100 * i)
    with pytest.raises(FrostlineError, match="differ only by case, 'Café' and 'café': merge"):
        prepare(image_folder(tmp_path / "photos"), tmp_path / "out")


def test_a_plugins_classes_have_one_form(install_dataset, tmp_path):
    code = """
        import unicodedata
        import numpy as np
        from frostline.data.reading.sources import ArraySource
        def load(options):
            images = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
            return ArraySource(images, np.arange(12) % options["n"], tuple(options["classes"]))
    """
    name = install_dataset(code)
    config = packaged("plugin", name=name, options={"n": 2, "classes": [in_form("é", "NFD"), "è"]})
    assert prepare(config, tmp_path / "out").classes == ("é", "è")
    twice = packaged("plugin", name=name, options={"n": 2, "classes": [in_form("é", "NFD"), "é"]})
    with pytest.raises(
        FrostlineError, match=r"only by their Unicode form, .* \(NFD\) and 'é' \(NFC\): merge"
    ):
        prepare(twice, tmp_path / "twice")


def test_weights_know_their_classes_in_one_form(tmp_path):
    decomposed = [in_form(name, "NFD") for name in NAMES]
    weights.save(tmp_path / "w.safetensors", {"a": torch.zeros(1)}, {"input": {}, "classes": decomposed})
    assert weights.load(tmp_path / "w.safetensors")[1]["classes"] == list(NAMES)


def test_locate(tmp_path):
    assert locate(tmp_path, "a/b.png") == tmp_path / "a/b.png"
    assert locate(tmp_path, "é/b.png") == tmp_path / "é/b.png"
    mixed = tmp_path / in_form("é", "NFD") / "é.png"
    mixed.parent.mkdir()
    mixed.touch()
    assert locate(tmp_path, "é/é.png") == mixed
    assert (
        unicode_form("é"),
        unicode_form(in_form("é", "NFD")),
        unicode_form("é" + in_form("é", "NFD")),
    ) == ("NFC", "NFD", "mixed")
    (mixed.parent / in_form("ô.png", "NFD")).touch()  # Seen although the folder was listed before.
    assert locate(tmp_path, "é/ô.png").exists()


def test_prepared_files_are_composed(tmp_path):
    plant(tmp_path / "photos", "NFD")
    prepare(image_folder(tmp_path / "photos"), tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "dataset.json").read_text(encoding="utf-8"))
    assert summary["classes"] == sorted(NAMES)
    assert np.all([unicodedata.is_normalized("NFC", c) for c in (tmp_path / "out/index.csv").read_text()])
