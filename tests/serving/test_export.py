"""Exported files give what the network gives, and what does not is not left."""

import json
import sys

import pytest
import torch

from frostline.commands import main as cli
from frostline.console.errors import FrostlineError
from frostline.runs import trained_run
from frostline.serving import export, resolve


@pytest.fixture(scope="module")
def trained(photo_run):
    return trained_run.TrainedRun.read(photo_run)


def test_pt2_takes_any_number_of_images(photo_run, trained, tmp_path, capsys):
    out = tmp_path / "new" / "model.pt2"
    assert cli.main(["export", str(photo_run), "--format", "pt2", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{out}: ")
    assert said.endswith(" at most, on 16 of its images\n")
    images, _ = trained.images(5)
    files = {"frostline.json": ""}
    theirs = torch.export.load(out, extra_files=files).module()
    with torch.no_grad():
        ours = trained.serving_model()(images)
        for count in (5, 1):
            assert theirs(images[:count]) == pytest.approx(ours[:count], abs=1e-6)
        with pytest.raises(RuntimeError, match="Expected: Byte, Got: float"):  # from 0 to 1, as others scale
            theirs(images / 255)
    about = json.loads(files["frostline.json"])
    assert about["classes"] == ["cat", "dog & más"]
    assert about["input"]["size"] == 16
    assert about["weights_sha256"] == trained.sha256


def test_the_files_suffix_means_the_format(photo_run, tmp_path, capsys):
    out = tmp_path / "weights.safetensors"
    assert cli.main(["export", str(photo_run), "--out", str(out)]) == 0
    assert out.read_bytes() == (photo_run / "weights.safetensors").read_bytes()
    capsys.readouterr()
    other = tmp_path / "model.pt"
    assert cli.main(["export", str(photo_run), "--out", str(other)]) == cli.EXIT_USER
    assert capsys.readouterr().err == (
        f"frostline: error: --out: found {other}; name a file that ends in .onnx, .pt2 or .safetensors\n"
    )
    assert not other.exists()


def test_torchscript_is_refused_with_what_to_use_instead(photo_run, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", str(photo_run), "--format", "torchscript", "--out", str(tmp_path / "model.pt")])
    assert ended.value.code == 2
    assert "torchscript is deprecated by torch; write pt2 or onnx instead" in capsys.readouterr().err


def test_missing_packages_are_named_before_the_run_is_looked_for(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # as if it were not installed
    words = ["export", str(tmp_path / "no run"), "--format", "onnx", "--out", str(tmp_path / "x.onnx")]
    assert cli.main(words) == cli.EXIT_USER
    assert capsys.readouterr().err == (
        "frostline: error: onnx: needs the package onnxscript; pip install onnx onnxscript "
        "onnxruntime, or choose pt2\n"
    )


def test_onnx_takes_any_number_of_images(photo_run, trained, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    exported = export.run(trained, "onnx", tmp_path / "model.onnx")
    assert exported.difference < export.TOLERANCE
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    images, _ = trained.images(7)
    with torch.no_grad():
        ours = trained.serving_model()(images).numpy()
    for count in (1, 7):
        (theirs,) = session.run(["probabilities"], {"images": images[:count].numpy()})
        assert theirs == pytest.approx(ours[:count], abs=1e-5)
    about = json.loads(session.get_modelmeta().custom_metadata_map["frostline"])
    assert about["classes"] == ["cat", "dog & más"]


def test_safetensors_are_the_weights(photo_run, trained, tmp_path):
    exported = export.run(trained, "safetensors", tmp_path / "model.safetensors")
    assert exported.difference == 0
    assert exported.file.read_bytes() == (photo_run / "weights.safetensors").read_bytes()


def test_what_gives_something_else_is_not_written(photo_run, trained, tmp_path, monkeypatch):
    """A network that draws numbers can't be a graph that gives the same."""
    normalized = export.ServingModel.forward

    def noisy(self, images):
        return normalized(self, images) + 0.01 * torch.rand(1)

    monkeypatch.setattr(export.ServingModel, "forward", noisy)
    (tmp_path / "model.pt2").write_text("the one before")
    with pytest.raises(FrostlineError, match=r"^pt2: the exported network's probabilities differ by "):
        export.run(trained, "pt2", tmp_path / "model.pt2")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the one before"]


def test_without_its_data_set_a_network_is_tried_on_noise(photo_run, trained, tmp_path):
    for name in resolve.FILES:
        (tmp_path / name).write_bytes((photo_run / name).read_bytes())
    images, said = trained_run.TrainedRun.read(tmp_path).images(4)
    assert said == "4 images of noise, since its data set is not here"
    assert images.shape == (4, 3, 16, 16)


def test_floats_are_refused(trained):
    with pytest.raises(AssertionError, match="images have to be uint8, 0 to 255"):
        trained.serving_model()(torch.rand(2, 3, 16, 16))
