"""The image files that predictions are made for."""

from tests.data.trees import packaged, plant

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
