"""Tables of paths and labels: what is read, and a sentence for everything that can be wrong with them."""

import csv
import os
import random
import re
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.tables import plant_flat, table, write_table
from tests.data.trees import image_folder, plant, plant_splits

from frostline import schema
from frostline.console.errors import FrostlineError
from frostline.console.progress import shown
from frostline.data.reading.sources import classes_of, name_of, open_source
from frostline.data.reading.table_paths import path_order
from frostline.preparation.stage import prepare
from frostline.schema.validation import validated


@pytest.fixture
def rows(tmp_path):
    return plant_flat(tmp_path / "my images")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "my images" / "labels.csv"


def opened(file, columns={}, **fields):  # noqa: B006
    return open_source(table(file, columns, **fields).dataset)


def refused(file, columns={}, **fields):  # noqa: B006
    with pytest.raises(FrostlineError) as raised:
        opened(file, columns, **fields)
    sentence = str(raised.value)
    assert "\n" not in sentence
    return sentence.replace(str(file), "FILE").replace(str(file.parent), "ROOT")


# ── what is read ────────────────────────────────────────────────────────────────────────────────────────────


def test_paths_start_at_the_table_or_at_the_root(rows, file, tmp_path):
    source = opened(write_table(file, rows))
    assert source.rows.keys == sorted(row[0] for row in rows)
    assert source.classes == ("cat", "dog")
    assert (source.rows.groups, source.rows.weights) == (None, None)
    elsewhere = write_table(tmp_path / "labels.csv", rows)
    assert opened(elsewhere, root=str(file.parent)).identity() == source.identity()
    assert name_of(table(elsewhere).dataset) == tmp_path.name


def test_columns_may_have_other_names(rows, file):
    listed = [
        [i, name, path, ("VALID", "train")[i % 2], f"p{i % 2}", 2.5] for i, (path, name) in enumerate(rows)
    ]
    write_table(file, listed, ["id", "diagnosis", "file name", "part", "patient", "certainty"])
    columns = {
        "image": "file name",
        "label": "diagnosis",
        "split": "part",
        "group": "patient",
        "weight": "certainty",
    }
    found = opened(file, columns).rows
    assert set(found.splits) == {"train", "val"}
    assert set(found.groups) == {"p0", "p1"}
    assert set(found.weights) == {2.5}


def test_optional_columns_of_the_usual_names_are_used_unless_null(rows, file):
    write_table(file, [[*row, 70] for row in rows], ["image", "label", "weight"])
    source = opened(file)
    assert source.warnings == [
        "the column 'weight' (70 to 70) sets the weights of images in the training loss "
        "(dataset.columns.weight=null ignores it)"
    ]
    assert opened(file, {"weight": None}).rows.weights is None


def test_the_same_images_as_a_folder_and_as_a_table_in_any_order(tmp_path):
    root = plant(tmp_path / "photos", ("b cat", "a dog"))
    (root / "b cat" / "old").mkdir()
    shutil.move(root / "b cat" / "1.png", root / "b cat" / "old" / "0.png")
    paths = [path.relative_to(root) for path in root.rglob("*.png")]
    random.Random(0).shuffle(paths)
    file = write_table(tmp_path / "x.csv", [[path.as_posix(), path.parts[0]] for path in paths])
    listed = prepare(table(file, root=str(root)), tmp_path / "a")
    walked = prepare(image_folder(root), tmp_path / "b")
    assert listed.fingerprint == walked.fingerprint
    assert (tmp_path / "a" / "index.csv").read_bytes() == (tmp_path / "b" / "index.csv").read_bytes()


def test_splits_of_a_table_are_those_of_split_folders(tmp_path):
    root = plant_splits(tmp_path / "photos", ("train", "validation", "test"))
    paths = sorted(path.relative_to(root) for path in root.rglob("*.png"))
    file = write_table(
        tmp_path / "x.csv",
        [[p.as_posix(), p.parts[1], p.parts[0]] for p in paths],
        ["image", "label", "split"],
    )
    listed = prepare(table(file, val=None, test=None, root=str(root)), tmp_path / "a")
    assert listed.fingerprint == prepare(image_folder(root, None, None), tmp_path / "b").fingerprint


@given(st.lists(st.tuples(*[st.sampled_from("ab -.é/")] * 6).map("".join), unique=True))
def test_files_are_listed_before_folders_by_their_names(texts):
    paths = [tuple(part for part in text.split("/") if part) for text in texts]
    paths = list({path for path in paths if path})

    def by_walk(path):
        return [(1, part) for part in path[:-1]] + [(0, path[-1])]

    assert sorted(map("/".join, paths), key=path_order) == ["/".join(p) for p in sorted(paths, key=by_walk)]


def test_classes_are_sorted_or_as_given(rows, file):
    write_table(file, rows)
    assert classes_of(table(file).dataset) == ("cat", "dog")
    config = table(file, classes=["dog", "cat"]).dataset
    assert classes_of(config) == ("dog", "cat")
    source = open_source(config)
    assert source.classes == ("dog", "cat")
    assert source.rows.keys[0] == "dog 0.png"
    assert "has the label 'dog', which is not in dataset.classes; did you mean 'dig'?" in refused(
        file, classes=["cat", "dig"]
    )
    assert "has no images of 'fox'" in refused(file, classes=["cat", "dog", "fox"])


@pytest.mark.parametrize("name", ["labels.tsv", "labels.csv", "labels.txt"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_the_delimiter_is_detected(rows, file, name, delimiter, quote):
    expected = opened(write_table(file, rows)).rows.keys
    other = file.with_name(name)
    table = [["image", "label"], *rows]
    other.write_text("\n".join(delimiter.join(f"{quote}{cell}{quote}" for cell in row) for row in table))
    assert opened(other).rows.keys == expected


def test_a_bom_windows_line_ends_quotes_and_blank_lines_change_nothing(rows, file):
    expected = opened(write_table(file, rows)).identity()
    text = "\r\n".join([' image ,label,"a, note"', *(f'"{a}", {b} ,"two\r\nlines"' for a, b in rows), "", ""])
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert opened(file).identity() == expected


@pytest.mark.parametrize("coded", [False, True])
def test_parquet(rows, file, coded):
    import pyarrow
    from pyarrow import parquet

    expected = opened(write_table(file, rows)).rows
    labels = pyarrow.array([b for _, b in rows])
    columns = {
        "image": [a for a, _ in rows],
        "label": labels.dictionary_encode() if coded else labels,
        "weight": [0.5 + i for i in range(len(rows))],
        "x": [[1]] * len(rows),
    }
    other = file.with_suffix(".parquet")
    parquet.write_table(pyarrow.table(columns), other)
    found = opened(other).rows
    assert found.keys == expected.keys
    assert found.labels.tolist() == expected.labels.tolist()
    assert found.weights.tolist() == [0.5 + i for i in range(len(rows))]
    parquet.write_table(
        pyarrow.table({**columns, "label": [None, *(float(b == "cat") for _, b in rows[1:])]}), other
    )
    source = opened(other)
    assert source.problems == [("cat 0.png", "(row 1) has no label: give it one, or remove the row")]
    assert source.classes == ("0", "1")
    assert "column 'x' holds list<" in refused(other, {"label": "x"})
    other.write_bytes(other.read_bytes()[:-20])
    assert refused(other) == "dataset.file: FILE is a damaged Parquet file: copy or write it again"


def test_absolute_paths_below_the_root_and_names_in_nfd(file):
    rows = plant_flat(file.parent, ("café", "thé"))
    expected = opened(write_table(file, rows)).rows.keys
    write_table(file, [[file.parent / path, name] for path, name in rows])
    assert opened(file).rows.keys == expected
    for path in file.parent.glob("*.png"):
        path.rename(path.with_name(path.name.replace("é", "e\u0301")))
    assert opened(write_table(file, rows)).rows.keys == expected


# ── errors about the file ───────────────────────────────────────────────────────────────────────────────────


def test_a_missing_file(rows, file):
    write_table(file, rows)
    assert refused(file.with_name("label.csv")) == (
        "dataset.file: FILE doesn't exist: give a CSV, TSV or Parquet file; did you mean 'labels.csv'? "
        "(allowed: labels.csv)"
    )
    assert refused(file.parent / "no" / "x.csv").endswith("doesn't exist: give a CSV, TSV or Parquet file")


def test_a_missing_column(rows, file):
    write_table(file, rows, ["image_path", "labels"])
    assert refused(file) == (
        "dataset.file: FILE has no column 'image' (dataset.columns.image); did you mean 'image_path'? "
        "(allowed: image_path, labels); set dataset.columns.image=image_path"
    )
    assert "has no column 'patient' (dataset.columns.group); allowed: image_path, labels; set " in refused(
        file, {"image": "image_path", "label": "labels", "group": "patient"}
    )
    write_table(file, [[9, *row] for row in rows], ["age", "Filename", "diagnosis"])
    assert refused(file).endswith(
        "; did you mean 'Filename'? (allowed: Filename, age, diagnosis); set dataset.columns.image=Filename"
    )
    assert refused(file, {"image": "Filename"}).endswith("; set dataset.columns.label=diagnosis")
    write_table(file, rows, ["Bild", "the label"])
    assert refused(file).endswith("; allowed: Bild, the label; set dataset.columns.image=COLUMN")
    assert refused(file, {"image": "Bild"}).endswith("; set 'dataset.columns.label=the label'")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "FILE is empty: it needs a line of column names and a line per image"),
        (b"\n\n", "FILE begins with an empty line: its first line must name the columns"),
        (b"PK\x03\x04 xlsx", "FILE is a spreadsheet or an archive: save it as CSV in UTF-8"),
        (b"\x1f\x8b gz", "FILE is compressed: unpack it"),
        ("image,label\n".encode("utf-16"), "FILE is UTF-16: save it as CSV in UTF-8"),
        (b"image,label\na,b\nb\xe9.png,c\n", "FILE: line 3 is not UTF-8 (byte 0xe9 at character 2): save it"),
        (
            b"image,label\na,b,c\n",
            "FILE: line 2 has 3 cells and the header has 2: quote cells that contain ','",
        ),
        (b'image,label\na,"b\n', "FILE: line 2 can't be read (unexpected end of data): check the quotation"),
        (b"image,label,image\n", "FILE has two columns 'image': rename one"),
        (b"PAR1 broken", "FILE is a damaged Parquet file"),
        (b"image,label\n", "FILE has a header and no rows: it needs one per image"),
        (b"sep=;\nimage;label\n", "FILE begins with a line for Excel (sep=): remove that line"),
        ("image,label\n".encode("utf-16-le"), "FILE has zero bytes (UTF-16, or no text?): save it as CSV"),
        (bytes(range(256)), "FILE has zero bytes (UTF-16, or no text?): save it as CSV in UTF-8"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "FILE is a Git LFS pointer, not the table: run",
        ),
        (b" <!DOCTYPE html>", "FILE is an HTML or XML page (a failed download?): download it again"),
        (b'[{"image": "a", "label": "b"}]', "FILE is JSON: save it as CSV in UTF-8"),
        (b"\xef\xbb\xbf{}", "FILE is JSON: save it as CSV in UTF-8"),
        (b"\x89PNG\r\n", "FILE is an image: give the file that lists the images"),
        (b"image|label\na|b\n", "FILE has the single column 'image|label': separate cells by commas, semi"),
        (
            b"cat/0.png,cat\n",
            "FILE begins with a row (cat/0.png): its first line must name the columns",
        ),
    ],
)
def test_files_that_are_no_tables(rows, file, content, sentence):
    file.write_bytes(content)
    assert sentence in refused(file)


def test_a_folder_is_no_table(rows, file):
    assert refused(file.parent) == (
        "dataset.file: FILE is a folder: give a CSV, TSV or Parquet file; for images in class folders, write "
        "dataset=image_folder dataset.root=FILE"
    )


# ── rows that can't be used ─────────────────────────────────────────────────────────────────────────────────


def problems_of(file, rows, header=("image", "label"), **fields):
    source = opened(write_table(file, rows, header), **fields)
    return {problem.key: problem.reason for problem in source.problems}


def test_duplicate_rows(rows, file):
    assert problems_of(file, [*rows, rows[2], ["./cat 3.png", "cat"]]) == {
        "cat 2.png": "(line 14) is in line 4 already: remove one of them",
        "cat 3.png": "(line 15) is in line 5 already: remove one of them",
    }


def test_an_image_with_two_labels_is_not_used(rows, file):
    assert problems_of(file, [*rows, ["cat 2.png", "dog"]]) == {
        "cat 2.png": "(line 14) has the label 'dog', and in line 4 'cat': keep the right one"
    }
    assert "cat 2.png" not in opened(file).rows.keys


def test_empty_labels_and_images(rows, file):
    assert problems_of(file, [*rows, ["cat 7.png", " "], ["", "cat"]]) == {
        "cat 7.png": "(line 14) has no label: give it one, or remove the row",
        "line 15": "names no image: add its path, or remove the row",
    }


def test_missing_images_are_all_named_in_a_file_and_five_in_the_sentence(rows, file, tmp_path):
    missing = [[f"gone {i}.png", "cat"] for i in range(7)]
    write_table(file, [*rows, *missing])
    out = tmp_path / "out"
    with pytest.raises(FrostlineError) as raised:
        prepare(table(file), out)
    sentence = str(raised.value)
    assert f"dataset.file: {file} has 7 files that can't be used: gone 0.png (line 14) is missing" in sentence
    assert "gone 4.png" in sentence
    assert "gone 5.png" not in sentence
    with (tmp_path / "out.bad-images.csv").open() as stream:
        assert [row["key"] for row in csv.DictReader(stream)] == [path for path, _ in missing]
    index = prepare(table(file, on_bad_image="skip"), out)
    assert len(index) == len(rows)
    assert index.warnings[0].startswith("7 files were skipped (dataset.json lists all): gone 0.png (line 14)")


@pytest.mark.parametrize(
    ("change", "fix"),
    [
        (lambda path: f"elsewhere/{path}", "set dataset.root to the folder that the paths start from"),
        (lambda path: path.removesuffix(".png"), "add .png to the paths"),
        (lambda path: path.replace("/", "\\"), "write / between folders, not \\"),
    ],
)
def test_if_no_image_is_there_the_reason_is_named(tmp_path, change, fix):
    root = plant(tmp_path / "photos")
    paths = sorted(path.relative_to(root) for path in root.rglob("*.png"))
    file = write_table(root / "x.csv", [[change(p.as_posix()), p.parts[0]] for p in paths])
    assert re.search(r"none of its 12 images is in ROOT \(.* and 9 more\): (.*)", refused(file))[1] == fix


@pytest.mark.parametrize(
    ("change", "fix"),
    [
        (str.upper, "write 'cat/0.png', as its name is"),
        (lambda path: f"{path} ", "write 'cat/0.png', as its name is"),
    ],
)
def test_names_that_are_nearly_those_on_disk(tmp_path, change, fix):
    root = plant(tmp_path / "photos")
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    file = write_table(root / "x.csv", [[change(path), path[:3]] for path in paths])
    assert refused(file).endswith(fix)
    mixed = [[change(paths[0]), "cat"], *([path, path[:3]] for path in paths[1:])]
    assert problems_of(file, mixed) == {
        change(paths[0]): "(line 2) is missing, but 'cat/0.png' exists: write that"
    }


def test_addresses_and_drives_are_no_paths(rows, file):
    odd = ["https://example.org/1.png", "s3://bucket/1.png", "C:\\data\\1.png", "~/1.png"]
    found = problems_of(file, [*rows, *([path, "cat"] for path in odd)])
    reasons = [found[path] if path in found else found[str(Path(path).expanduser())] for path in sorted(odd)]
    assert [reason.partition(") ")[2].replace(str(file.parent), "ROOT") for reason in reasons] == [
        "begins with a drive: give the path that starts from ROOT",
        "is an address: download the image, and give its path",
        "is an address: download the image, and give its path",
        "is not below ROOT: move it there, or set dataset.root",
    ]
    write_table(file, [[f"https://example.org/{path}", name] for path, name in rows])
    assert "none of its 12 rows can be used: https://example.org/cat 0.png (line 2) is an address" in refused(
        file
    )


def test_one_path_written_in_two_ways_is_one_image(rows, file):
    (file.parent / "a").mkdir()
    shutil.move(file.parent / "cat 0.png", file.parent / "a" / "0.png")
    listed = [["a/0.png", "cat"], ["a//0.png", "cat"], ["a/./0.png", "cat"], *rows[1:]]
    assert problems_of(file, listed) == {"a/0.png": "(line 4) is in line 2 already: remove one of them"}
    assert len(opened(file).problems) == 2


def test_a_root_that_is_a_file(rows, file):
    write_table(file, rows)
    assert "dataset.root=FILE is a file: give the folder that the paths start from" in refused(
        file, root=str(file)
    )


@pytest.mark.parametrize(
    ("names", "only"),
    [
        (("hot dog", "hot\u00a0dog"), "spaces or invisible characters"),
        (("cat", "cat\u200b"), "spaces or invisible characters"),
        (("1", "01"), "the way a number is written"),
        (("1", "1.0"), "the way a number is written"),
        (("Cat", "cat"), "case"),
    ],
)
def test_labels_that_mean_the_same_class(rows, file, names, only):
    write_table(file, [[path, names[i % 2]] for i, (path, _) in enumerate(rows)])
    assert f"has classes whose names differ only by {only}, " in refused(file)


@pytest.mark.parametrize(
    ("names", "only"),
    [
        (("P1", "p1"), "case"),
        (("P 1", "P  1"), "spaces or invisible characters"),
        (("P 1", "P1"), "the way a number is written"),
        (("P01", "P1"), "the way a number is written"),
        (("patient_007", "patient-7"), "the way a number is written"),
        (("1", "01"), "the way a number is written"),
        (("1", "1.0"), "the way a number is written"),
    ],
)
def test_groups_that_mean_the_same_one(rows, file, names, only):
    groups = [names[i] if i < 2 else f"Q{i}" for i in range(len(rows))]
    header = ["image", "label", "patient"]
    write_table(file, [[*row, group] for row, group in zip(rows, groups, strict=True)], header)
    assert (
        f"has groups whose names differ only by {only}, {names[0]!r} and {names[1]!r}: merge them or rename"
        in refused(file, group="patient").replace(
            f"{names[1]!r} and {names[0]!r}", f"{names[0]!r} and {names[1]!r}"
        )
    )


def test_groups_that_are_different(rows, file):
    names = ["P1", "P10", "P100", "1", "10", "-1", "1-2", "12", "P1_2", "P12", "1.1", "1.10"]
    groups = [names[i % len(names)] for i in range(len(rows))]
    header = ["image", "label", "patient"]
    write_table(file, [[*row, group] for row, group in zip(rows, groups, strict=True)], header)
    assert set(opened(file, group="patient").rows.groups.tolist()) == set(names)


def test_words_for_missing_values_are_named(rows, file):
    listed = [[path, "NaN" if i < 6 else "dog", f"p{i}" if i else "null"] for i, (path, _) in enumerate(rows)]
    write_table(file, listed, ["image", "label", "group"])
    assert opened(file).warnings == [
        "the label 'NaN' is taken as a name (name it in dataset.classes if it is one); leave the cell empty "
        "if there is none",
        "the group 'null' is taken as a name; leave the cell empty if there is none",
    ]
    assert len(opened(file, classes=["NaN", "dog"]).warnings) == 1


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        ([], "dataset.classes: 0 names; a classifier needs at least two, or null for all that occur"),
        (["cat", "dog", "cat"], "dataset.classes: 'cat' is listed twice; list each name once"),
    ],
)
def test_bad_lists_of_classes(file, classes, sentence):
    config = {**table(file).model_dump()["dataset"], "classes": classes}
    with pytest.raises(FrostlineError) as raised:
        validated(schema.Prepare, {"dataset": config})
    assert str(raised.value) == sentence


def test_classes_may_be_whole_numbers(rows, file):
    write_table(file, [[path, int(name == "cat")] for path, name in rows])
    assert opened(file, classes=[1, 0]).classes == ("1", "0")


def test_absolute_paths_below_a_relative_root(rows, file, tmp_path, monkeypatch):
    expected = opened(write_table(file, rows)).identity()
    (tmp_path / "link").symlink_to(file.parent)
    monkeypatch.chdir(tmp_path)
    for root in (Path(os.path.relpath(file.parent)), Path("link")):
        for written in (file.parent, root.absolute()):
            write_table(file, [[str(written / path), name] for path, name in rows])
            assert opened(root / file.name).identity() == expected


def test_paths_outside_of_the_root_are_refused(rows, file, tmp_path):
    (tmp_path / "secret.png").write_bytes((file.parent / "cat 0.png").read_bytes())
    (file.parent / "link.png").symlink_to(tmp_path / "secret.png")
    (file.parent / "away").symlink_to(tmp_path)
    outside = ["../secret.png", str(tmp_path / "secret.png"), "link.png", "away/secret.png"]
    found = problems_of(file, [*rows, *([path, "cat"] for path in outside)])
    assert [found[path].replace(str(file.parent), "ROOT") for path in outside[:2]] == [
        "(line 14) is not below ROOT: move it there, or set dataset.root",
        "(line 15) is not below ROOT: move it there, or set dataset.root",
    ]
    assert all("outside the data set" in found[path] for path in outside[2:])
    (file.parent / "inside.png").symlink_to("cat 0.png")
    assert "inside.png" in opened(write_table(file, [*rows, ["inside.png", "cat"]])).rows.keys


def test_bad_splits_weights_and_groups(rows, file):
    def sentence(header, value):
        write_table(
            file, [*([*row, "1"] for row in rows[:-1]), [*rows[-1], value]], ["image", "label", header]
        )
        return refused(file)

    write_table(
        file, [*([*row, "train"] for row in rows[:-1]), [*rows[-1], "tets"]], ["image", "label", "split"]
    )
    assert "line 13 has the split 'tets'; did you mean 'test'? (allowed: test, train, val)" in refused(file)
    assert "line 13 has the weight '0,5'; write a number such as 0.5" in sentence("weight", "0,5")
    write_table(file, [*([*row, 1] for row in rows[:-1]), [*rows[-1], "9" * 23]], ["image", "label", "fold"])
    assert f"line 13 has the fold '{'9' * 23}'; write a whole number from 0" in refused(file, folds=3)
    assert "image dog 5.png has weight -1; allowed: numbers from 0" in sentence("weight", "-1")
    assert "image dog 5.png has weight nan; allowed: numbers from 0" in sentence("weight", "nan")
    assert "1 images have no group (dog 5.png); give each one" in sentence("group", "")
    write_table(file, [[*row, "0"] for row in rows], ["image", "label", "weight"])
    assert "all weights are 0; give at least one image a weight above 0" in refused(file)


def test_a_group_in_two_given_splits_is_named(rows, file):
    header = ["image", "label", "split", "group"]
    listed = [
        [*row, ("train", "test")[i % 2], f"p{i // 2}" if i in (4, 5) else f"q{i}"]
        for i, row in enumerate(rows)
    ]
    write_table(file, listed, header)
    assert refused(file) == (
        "dataset.file: FILE: group 'p2' is divided between split train (cat 4.png) and split test (cat "
        "5.png): put all images of a group into one split, or let frostline draw the splits "
        "(dataset.columns.split=null)"
    )


def test_many_rows_are_read_in_bounded_memory(tmp_path, capsys):
    """Hard links to a hundred images; a row takes half a KiB at the most."""
    rows = 50_000
    plant_flat(tmp_path / "few", images=50)
    few = sorted((tmp_path / "few").iterdir())
    with (tmp_path / "labels.csv").open("w") as stream:
        stream.write("image,label\n")
        for number in range(rows):
            folder = tmp_path / f"{number // 5000}"
            if number % 5000 == 0:
                folder.mkdir(exist_ok=True)
            path = folder / f"{number:07}.png"
            os.link(few[number % 100], path)
            stream.write(f"{folder.name}/{path.name},class {number % 100}\n")
    tracemalloc.start()
    try:
        source = open_source(table(tmp_path / "labels.csv").dataset, shown)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(source) == rows
    assert np.bincount(source.rows.labels).tolist() == [rows // 100] * 100
    assert f"reading labels.csv: {rows}/" in capsys.readouterr().err
    assert peak < 512 * rows


def test_images_inside_a_parquet_file_name_the_kind_that_reads_them(tmp_path):
    images = [{"bytes": b"x", "path": "0.png"}, {"bytes": b"y", "path": None}]
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    content = pyarrow.table({"image": images, "label": ["cat", "dog"]})
    parquet.write_table(content, tmp_path / "hub.parquet")
    with pytest.raises(
        FrostlineError, match=r"holds the images themselves.* set dataset=huggingface dataset"
    ):
        open_source(table(tmp_path / "hub.parquet").dataset)
