"""Which folder of a project has the weights of a recorded run."""

import hashlib
import json

import pytest

from frostline.runs.local_copies import local_copy


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_folder(place, name, clip):
    folder = place / "runs" / name
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"equal")
    digest = hashlib.sha256(b"equal").hexdigest()
    (folder / "training.json").write_text(json.dumps({"weights_sha256": digest}))
    (folder / "config.yaml").write_text(f"seed: 0\noptimizer: {{lr: 0.1, clip_norm: {clip}}}\n")
    return folder, digest


@pytest.mark.parametrize("own", ["first", "second"])
def test_of_equal_weights_those_with_the_runs_parameters_are_its_own(place, own):
    """A hyperparameter may have had no effect, as a clipping norm above all gradients."""
    clips = {"first": 1000.0, "second": 3000.0}
    folders = {name: run_folder(place, name, clip) for name, clip in clips.items()}
    folder, digest = folders[own]
    params = {"seed": "0", "optimizer.lr": "0.1", "optimizer.clip_norm": str(clips[own])}
    assert local_copy(digest, params) == folder
    assert local_copy("other", params) is None
