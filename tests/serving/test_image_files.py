"""The image files that predictions are made for."""

import pytest
from tests.data.tables import plant_flat, table, write_table
from tests.data.trees import packaged, plant

from frostline.console.errors import FrostlineError
from frostline.serving.image_files import image_files


def test_images_behind_linked_folders_are_found_and_loops_end(tmp_path):
    photos = plant(tmp_path / "photos", images=2)
    folder = tmp_path / "linked"
    folder.mkdir()
    (folder / "dogs").symlink_to(photos / "dog")
    (folder / "again").symlink_to(folder)
    (folder / ".hidden").symlink_to(photos / "cat")
    found = image_files([str(folder)], packaged("digits").dataset)
    assert found == sorted(folder / "dogs" / path.name for path in (photos / "dog").iterdir())
    assert len(found) == 2


def test_the_models_own_table_has_its_root(tmp_path):
    rows = plant_flat(tmp_path / "photos", images=2)
    (tmp_path / "lists").mkdir()
    file = write_table(tmp_path / "lists" / "x.csv", rows)
    dataset = table(file, root=str(tmp_path / "photos")).dataset
    assert image_files([str(file)], dataset) == [tmp_path / "photos" / path for path, _ in rows]
    other = write_table(tmp_path / "lists" / "y.csv", rows)
    with pytest.raises(FrostlineError, match="paths in a table are relative to its folder: move it there"):
        image_files([str(other)], dataset)
    write_table(file, [["gone.png", "cat"], ["lost.png", "cat"]])
    with pytest.raises(FrostlineError, match=r"relative to its folder or to dataset\.root=.*photos: move it"):
        image_files([str(file)], dataset)


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ("", "has no paths in column 'image'; list the paths of images on this machine"),
        ("https://example.org/1.png", r"has URLs such as https://example\.org/1\.png in column 'image'"),
    ],
)
def test_cells_that_are_no_paths(cell, sentence, tmp_path):
    rows = plant_flat(tmp_path, images=2)
    file = write_table(tmp_path / "x.csv", [[cell, "cat"], [cell, "dog"]])
    with pytest.raises(FrostlineError, match=sentence):
        image_files([str(file)], packaged("digits").dataset)
    write_table(file, [*rows, [cell, "cat"]])  # one of several has an error of its own
    assert len(image_files([str(file)], packaged("digits").dataset)) == len(rows) + 1


@pytest.mark.parametrize("name", ["list.txt", "x.npz", "x.zip"])
def test_files_of_several_images_are_refused_unless_images_are_beside_them(name, tmp_path):
    (tmp_path / name).touch()
    dataset = packaged("digits").dataset
    with pytest.raises(FrostlineError, match=f"{name}: is no image file, folder of images"):
        image_files([str(tmp_path / name)], dataset)
    both = [str(tmp_path / name), str(tmp_path / "a.png")]
    assert [str(path) for path in image_files(both, dataset)] == both
