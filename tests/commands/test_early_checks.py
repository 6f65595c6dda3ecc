"""What does not exist is refused before anything is composed or imported."""

import pytest

from frostline.commands import early_checks
from frostline.commands.main import parse
from frostline.console.errors import FrostlineError

COMMANDS = ("finetune", "pretrain", "probe", "plan", "prepare", "show", "lr-find")
TIMM = ("backbone=timm", "backbone.name=resnet5O")


def error_of(*words):
    with pytest.raises(FrostlineError) as caught:
        early_checks.check(parse(words))
    return str(caught.value)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "my photos/cat").mkdir(parents=True)
    (tmp_path / "my photos/cat/1.png").touch()
    (tmp_path / "empty/cat").mkdir(parents=True)
    (tmp_path / "labels.csv").touch()
    (tmp_path / "my run").mkdir()
    (tmp_path / "my run/weights.safetensors").touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_refuses_a_misspelt_model_and_a_missing_folder(command):
    assert error_of(command, *TIMM).startswith(
        "backbone.name: timm has no 'resnet5O'; did you mean 'resnet50' or "
    )
    read = {"pretrain": ["source"], "prepare": ["dataset"]}.get(command, ["dataset", "source"])
    for key in read:
        assert error_of(command, f"{key}=image_folder", f"{key}.root=my photo") == (
            f"{key}.root: my photo doesn't exist: give the folder of the images; did you mean my photos?"
        )
        assert error_of(command, f"{key}=image_folder", f"{key}.root=else/where") == (
            f"{key}.root: else/where doesn't exist: give the folder of the images"
        )
        assert error_of(command, f"{key}=image_folder", f"{key}.root=empty") == (
            f"{key}.root: empty is empty: give the folder of the images"
        )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["backbone.name=resnet5O"], "backbone.name: timm has no 'resnet5O'"),
        (
            ["backbone=timm", "backbone.name=resnet5O.a1_in1k"],
            "backbone.name: timm has no 'resnet5O.a1_in1k'",
        ),
        (["-m", "backbone=timm", "backbone.name=resnet18,resnet5O"], "backbone.name: timm has no 'resnet5O'"),
        (["-m", "dataset.root=my photos,nowhere"], "dataset.root: nowhere doesn't exist"),
        (["dataset=table", "dataset.file=label.csv"], "did you mean labels.csv?"),
        (
            ["weights=file", "weights.path=my run"],
            "weights.path: my run is the folder of a run; write 'weights.path=my run/weights.safetensors'",
        ),
        (["dataset.root=my", "photos", "seed=1"], "quote a value that has spaces: 'dataset.root=my photos'"),
        (["weights=file", "weights.path=x.pth"], "weights.path: x.pth doesn't exist: give a .safetensors"),
    ],
)
def test_what_is_refused(words, sentence):
    assert sentence in error_of("finetune", *words)


def test_images_to_predict_that_are_missing_are_refused_with_the_nearest_names():
    assert error_of("predict", "my run", "labels.csv", "my fotos") == (
        "images: my fotos doesn't exist: give image files, folders or tables; did you mean my photos?"
    )
    assert error_of("predict", "my run", "../nowhere.png") == (
        "images: ../nowhere.png doesn't exist: give image files, folders or tables"
    )


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["predict", "my run", "labels.csv", "--html", "{}/a.html"], "--html"),
        (["predict", "my run", "labels.csv", "--out", "{}/a.csv"], "--out"),
        (["export", "my run", "--format", "onnx", "--out", "{}/a.onnx"], "--out"),
        (["plan", "--picture", "{}/a.svg"], "--picture"),
        (["show", "--out", "{}/a.html"], "--out"),
        (["compare", "--out", "{}/a.html"], "--out"),
        (["evaluate", "my run", "--out", "{}/a"], "out"),
        (["probe", "--out", "{}/a"], "out"),
        (["lr-find", "--out", "{}/a"], "out"),
        (["finetune", "out={}/a"], "out"),
        (["prepare", "out={}/a"], "out"),
    ],
    ids=" ".join,
)
def test_outputs_without_a_place_are_refused(words, option, tmp_path):
    what = "folder" if option == "out" else "file"
    for place, existing, reason in (
        ("labels.csv", "labels.csv", "Not a directory"),
        ("/proc/none", "/proc", "No such file or directory"),
    ):
        assert error_of(*(word.format(place) for word in words)) == (
            f"{option}: can't write into {existing} ({reason}); name another {what}"
        )
    early_checks.check(parse([word.format("new/folder") for word in words]))
    assert not (tmp_path / "new").exists()


def test_outputs_of_the_wrong_kind_are_refused():
    assert error_of("export", "my run", "--format", "onnx", "--out", "my run") == (
        "--out: my run is a folder; name a file"
    )
    assert error_of("finetune", "out=labels.csv") == "out: labels.csv is a file; name a folder"


@pytest.mark.parametrize(
    "words",
    [
        ["finetune", "--cfg", "job", "out=/proc/none"],
        ["finetune", "out=null"],
        ["predict", "my run", "my photos", "labels.csv"],
        ["finetune", "backbone=timm", "backbone.name=resnet50.a1_in1k"],
        ["finetune", "backbone=timm", "backbone.name=timm/resnet50"],
        ["finetune", "backbone=timm", "backbone.name=hf-hub:me/mine"],
        ["finetune", "backbone=timm", "backbone.name=tv_resnext50_32x4d"],  # timm says how it is renamed
        ["finetune", "backbone=plugin", "backbone.name=mine"],
        ["finetune", "experiment=mine", "backbone.name=mine"],
        ["finetune", "dataset.root=my photos"],
        ["finetune", "dataset.root=null"],
        ["finetune", "weights=file", "weights.path=my run/weights.safetensors"],
        ["finetune", "dataset.root=${source.root}"],
        ["finetune", "--cfg", "job", "dataset=image_folder", "dataset.root=nowhere"],
        ["plan", "dataset=image_folder", "dataset.root=nowhere", "--images", "100"],
        ["evaluate", "nowhere"],
    ],
    ids=" ".join,
)
def test_what_passes(words):
    early_checks.check(parse(words))


def test_images_whose_names_have_spaces_need_quotes():
    assert error_of("predict", "last", "my", "photos", "labels.csv") == (
        "images: my doesn't exist, but my photos does; quote it: 'my photos'"
    )
