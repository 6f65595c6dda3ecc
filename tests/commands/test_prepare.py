"""`frostline prepare`: paths that need quoting, and images that a study can't use."""

import yaml
from PIL import Image


def test_a_path_with_a_space_and_a_comma(shell):
    out, _ = shell("prepare", "dataset=digits", "out=a folder, or two")
    assert out.startswith("a folder, or two: 1797 images")
    assert (shell.folder / "a folder, or two" / "index.csv").is_file()


def test_a_stage_says_where_a_study_sets_the_key(shell):
    """Its stages take no overrides."""
    folder = shell.folder
    for label in ("a", "b"):
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (8, 8), (number, ord(label), 40)).save(
                folder / "photos" / label / f"{number}{label}.png"
            )
    (folder / "photos/a/broken.png").write_bytes(b"no image")
    (folder / "conf/experiment").mkdir(parents=True)
    data = "defaults: [{override /dataset: image_folder}]\ndataset: {root: photos}\nstudy: mine\n"
    (folder / "conf/experiment/mine.yaml").write_text(f"# @package _global_\n{data}")
    (folder / "params.yaml").write_text("experiment: mine\nfreeze: full\n")
    shell("compose", "--arms", "scratch", "full")

    stage = (
        "prepare",
        "--resolved",
        "artifacts/resolved/prepare-target.yaml",
        "--out",
        "artifacts/data/target",
    )
    _, err = shell(*stage, status=2)
    error, hint = err.splitlines()[-2:]
    assert error.endswith("or leave such files out: dataset.on_bad_image=skip")
    assert hint.startswith("frostline: a study sets its keys in conf/experiment/mine.yaml: dataset: {")

    experiment = (folder / "conf/experiment/mine.yaml").read_text()
    skipped = yaml.safe_load(hint.partition(".yaml: ")[2])["dataset"]
    assert skipped == {"on_bad_image": "skip"}
    (folder / "conf/experiment/mine.yaml").write_text(
        experiment.replace("{root: photos}", "{root: photos, on_bad_image: skip}")
    )
    shell("compose", "--arms", "scratch", "full")
    out, _ = shell(*stage)
    assert out.startswith("artifacts/data/target: 12 images of 2 classes")
