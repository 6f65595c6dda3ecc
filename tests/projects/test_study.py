"""`frostline init`: a study's files in a folder of one's own."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from frostline.base.code import FOLDERS
from frostline.commands.main import main
from frostline.console.errors import FrostlineError
from frostline.projects.study import Study, begin, pipeline

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with two data sets, outside of git."""
    root = tmp_path / "my work"
    for name in ("photos_a", "photos b: näher"):
        for label in ("cat", "dog"):
            (root / name / label).mkdir(parents=True)
            (root / name / label / "1.png").touch()
    monkeypatch.chdir(root)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    return root


TWO = Study("mine", Path("photos_a"), Path("photos b: näher"))


def test_the_files_of_a_study_on_two_folders(folder):
    written = begin(TWO, folder)
    names = ["params.yaml", "dvc.yaml", "conf/experiment/mine.yaml", "README.md", "frostline.lock"]
    assert written.new == names
    assert written.extended == [".gitignore", ".dvcignore"]
    assert written.notes == ["git init && dvc init    (for `dvc repro`; single runs and sweeps work without)"]
    params = yaml.safe_load((folder / "params.yaml").read_text())
    assert params["experiment"] == "mine"
    assert params["data"] == {
        "source": "photos_a",
        "target": "photos b: näher",
        "weights": "frostline.lock/packages",
    }
    experiment = yaml.safe_load((folder / "conf/experiment/mine.yaml").read_text())
    assert experiment["study"] == "mine"
    assert (experiment["source"], experiment["dataset"]) == (
        {"root": "photos_a"},
        {"root": "photos b: näher"},
    )
    assert {path.name for path in (folder / "frostline.lock").iterdir()} == {*FOLDERS, "packages"}


def test_no_key_at_the_top_of_params_yaml_has_the_name_of_a_data_folder(folder):
    """DVC fails in `dvc exp show --drop` if it drops a parameter and a dependency of one name."""
    for name, old in (("source", "photos_a"), ("dataset", "photos b: näher")):
        (folder / old).rename(folder / name)
    begin(Study("mine", Path("source/"), Path("./dataset")), folder)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    assert (params["data"]["source"], params["data"]["target"]) == ("source", "dataset")
    assert not {"source", "dataset"} & params.keys()


def test_without_a_source_the_study_starts_from_imagenet(folder):
    begin(Study("mine", target=Path("photos b: näher")), folder)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    assert params["data"]["source"] == "frostline.lock/packages"
    experiment = yaml.safe_load((folder / "conf/experiment/mine.yaml").read_text())
    assert experiment["defaults"] == [
        {"override /dataset": "image_folder"},
        {"override /backbone": "efficientnet_lite0"},
        {"override /weights": "imagenet"},
    ]
    assert not {"source", "pretrain"} & set(experiment)
    assert "pretraining on ImageNet" in (folder / "README.md").read_text()

    main(["compose", "--arms", "scratch", "zero_shot", "linear_probe", "full"])
    resolved = {
        name: yaml.safe_load((folder / f"artifacts/resolved/{name}.yaml").read_text())
        for name in ("prepare-source", "pretrain", "finetune-scratch", "finetune-full", "finetune-gradual")
    }
    assert set(resolved["prepare-source"]) == set(resolved["pretrain"]) == {"omitted"}
    assert resolved["finetune-scratch"]["weights"]["kind"] == "none"
    assert resolved["finetune-full"]["weights"]["kind"] == "imagenet"
    assert resolved["finetune-gradual"]["weights"]["kind"] == "imagenet"


def test_photographs_are_augmented_as_such(folder):
    """Most files are JPEG: a camera's. One PNG among them, or a file without images, changes nothing."""
    for number in range(4):
        (folder / f"photos b: näher/cat/{number}.JPG").touch()
    (folder / "photos b: näher/cat/4.png").touch()
    begin(TWO, folder)
    experiment = yaml.safe_load((folder / "conf/experiment/mine.yaml").read_text())
    assert experiment["defaults"][3:] == [{"override /augment": "photo"}]
    assert experiment["features"] == {"views": 4}

    for label in ("cat", "dog"):
        (folder / "photos_a" / label / "1.png").rename(folder / "photos_a" / label / "1.jpeg")
    for number in range(2):
        (folder / f"photos b: näher/cat/{number}.JPG").rename(folder / f"photos b: näher/cat/{number}0.png")
    begin(TWO, folder, force=True)
    experiment = yaml.safe_load((folder / "conf/experiment/mine.yaml").read_text())
    assert experiment["defaults"][3:] == [{"override /augment@pretrain.augment": "photo"}]
    assert "features" not in experiment


def test_the_input_has_the_shape_of_the_images(folder):
    from tests.data.trees import picture

    for name in ("photos_a", "photos b: näher"):
        for label in ("cat", "dog"):
            picture(len(label), (320, 96)).save(folder / name / label / "1.png")
    begin(TWO, folder)
    text = (folder / "conf/experiment/mine.yaml").read_text()
    assert yaml.safe_load(text)["input"] == {"size": [32, 112], "crop": 1, "channels": 3}
    assert "# height, width: the shape of the images" in text
    main(["compose", "--arms", "scratch", "zero_shot", "linear_probe", "full"])
    resolved = yaml.safe_load((folder / "artifacts/resolved/finetune-full.yaml").read_text())
    assert (resolved["input"]["size"], resolved["input"]["crop"]) == ([32, 112], 1)


def test_what_a_new_study_says_of_itself_is_a_command_each(folder, capsys):
    begin(TWO, folder)
    lines = (folder / "conf/experiment/mine.yaml").read_text().splitlines()
    commands = [line.removeprefix("# ").split("  ")[0] for line in lines if line.startswith("# frostline")]
    assert commands == ["frostline finetune experiment=mine", "frostline finetune experiment=mine --cfg job"]
    assert main(commands[1].split()[1:]) == 0
    assert "study: mine" in capsys.readouterr().out


def test_a_copy_of_an_experiment_reads_its_data_from_packages(folder):
    begin(Study("digits", experiment="mnist_to_digits"), folder)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    assert set(params["data"].values()) == {"frostline.lock/packages"}
    experiment = yaml.safe_load((folder / "conf/experiment/digits.yaml").read_text())
    assert experiment["study"] == "digits"
    assert experiment["dataset"]["shots"] == 10


@pytest.mark.parametrize(("experiment", "freeze"), [("mnist_to_digits", "gradual"), ("article_mlp", "full")])
def test_the_schedule_fits_the_network_of_the_copied_experiment(folder, experiment, freeze):
    begin(Study("digits", experiment=experiment), folder)
    assert yaml.safe_load((folder / "params.yaml").read_text())["freeze"] == freeze


def test_the_schedules_conditions_can_be_met_in_its_epochs(folder, capsys):
    begin(TWO, folder)
    main(["plan", "experiment=mine", "freeze=gradual", "weights=none", "--images", "100", "--classes", "3"])
    output = capsys.readouterr().out
    assert "ends early if val/loss stalls for 3 epochs" in output
    assert "too long" not in output


def test_the_stages_call_frostline_and_name_no_source_file(folder):
    begin(TWO, folder)
    stages = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    assert list(stages) == list(FOLDERS)
    for name, entry in stages.items():
        stage = entry.get("do", entry)
        assert stage["cmd"].startswith(f"frostline {name}")
        assert [dep for dep in stage["deps"] if dep.startswith("frostline")] == [f"frostline.lock/{name}"]
        assert not [dep for dep in stage["deps"] if dep.startswith("src")]


def test_the_pipeline_of_this_repository_is_made_from_the_same_template():
    assert (ROOT / "dvc.yaml").read_text() == pipeline(in_project=False)


def test_the_readme_of_an_earlier_begin_is_replaced(folder):
    begin(TWO, folder)
    written = begin(TWO, folder, force=True)
    assert "README.md" in written.replaced
    assert not (folder / "mine.md").exists()


def test_nothing_is_replaced_without_force(folder):
    (folder / "README.md").write_text("# My own\n")
    (folder / "dvc.yaml").write_text("stages: {}\n")
    (folder / ".gitignore").write_text("secret")
    before = sorted(folder.rglob("*"))
    with pytest.raises(FrostlineError, match=r"already has dvc\.yaml; .* with --force$"):
        begin(TWO, folder)
    assert sorted(folder.rglob("*")) == before
    written = begin(TWO, folder, force=True)
    assert written.replaced == ["dvc.yaml"]
    assert (folder / "README.md").read_text() == "# My own\n"
    assert "mine.md" in written.new
    lines = (folder / ".gitignore").read_text().splitlines()
    assert lines[:2] == ["secret", "/artifacts/"]
    again = begin(TWO, folder, force=True)
    assert (again.new, again.extended) == ([], [])
    assert (folder / ".gitignore").read_text().splitlines() == lines


@pytest.mark.parametrize("below", ["", "studies"])
def test_a_git_repository_becomes_one_of_dvc(folder, below):
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    root = folder / below
    root.mkdir(exist_ok=True)
    notes = begin(Study("mine", folder / "photos_a", folder / "photos b: näher"), root).notes
    assert [note.split()[:2] for note in notes] == ([] if below else [["dvc", "add"]] * 2)
    assert (root / ".dvc" / "config").is_file()


def test_images_that_git_would_store_are_noted(folder):
    for name in ("photos_a", "photos b: näher"):
        (folder / name / "cat/1.png").write_bytes(b"an image")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    (folder / ".gitignore").write_text("/photos_a/\n")
    (note,) = begin(TWO, folder).notes
    assert note == "dvc add 'photos b: näher'    (so that DVC stores the images, not git)"
    subprocess.run([sys.executable, "-m", "dvc", "add", "-q", "photos b: näher"], cwd=folder, check=True)
    listed = subprocess.run(["git", "status", "--short", "-uall"], cwd=folder, capture_output=True, text=True)
    assert ".png" not in listed.stdout
    assert begin(TWO, folder, force=True).notes == []


def test_data_sets_that_share_images_are_refused(folder):
    """Also through a link; and one folder in the other, where it would be a class."""
    (folder / "link").symlink_to("photos_a")
    for place in ("photos_a", "./photos_a/", "link", str(folder / "photos_a")):
        with pytest.raises(FrostlineError, match=r"^--source: photos_a is also --target, so that the test"):
            begin(Study("mine", Path("photos_a"), Path(place)), folder)
    for label in ("old", "new"):
        (folder / "photos_a/cat" / label).mkdir()
        (folder / "photos_a/cat" / label / "2.png").touch()
    for pair in (("photos_a", "photos_a/cat"), ("photos_a/cat", "photos_a")):
        with pytest.raises(FrostlineError, match=r"^--source: .* share images, since one folder is in the"):
            begin(Study("mine", *map(Path, pair)), folder)


def test_a_folder_of_one_class_is_refused(folder):
    shutil.rmtree(folder / "photos_a/dog")
    with pytest.raises(FrostlineError, match=r"^--source: photos_a has only one class, 'cat': a classifier"):
        begin(TWO, folder)
    assert not (folder / "params.yaml").exists()


@pytest.mark.parametrize(
    ("study", "message"),
    [
        (Study("my study", Path("photos_a"), Path("photos_a")), r"^NAME: found 'my study'; give letters"),
        (Study("../x", Path("photos_a"), Path("photos_a")), r"^NAME: found '\.\./x'"),
        (Study("mine", Path("photo_a"), Path("photos_a")), r"^--source: there is no folder photo_a; did you"),
        (
            Study("mine", Path("photos_a"), None),
            r"^--target: missing; give the images to fine-tune on, or --from",
        ),
        (
            Study("mine", None, Path("photos_a"), keys=("source.split.val=0.1",)),
            r"^source\.split\.val=0\.1: without --source, the study starts from ImageNet; leave it out$",
        ),
        (
            Study("mine", experiment="mnist"),
            r"^--from: no experiment 'mnist'; allowed: article_mlp, mnist_to_digits",
        ),
        (
            Study("mine", target=Path("photos_b"), experiment="mnist_to_digits"),
            r"^--target: --from mnist_to_digits copies that experiment with its data sets; leave out"
            r" --target, or leave out --from and give --source and --target$",
        ),
        (
            Study("mine", experiment="mnist_to_digits", keys=("dataset.shots=5",)),
            r"^dataset\.shots=5: --from mnist_to_digits copies that experiment as it is; leave it out, and"
            r" set it in conf/experiment/mine\.yaml afterwards$",
        ),
    ],
)
def test_mistakes_are_named_before_anything_is_written(folder, study, message):
    with pytest.raises(FrostlineError, match=message):
        begin(study, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["photos b: näher", "photos_a"]
