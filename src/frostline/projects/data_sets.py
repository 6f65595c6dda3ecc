"""The data sets of a new study: what kind each is, whether its columns are there, what DVC has to watch."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from frostline import schema
from frostline.base.files import files_below
from frostline.base.names import locate
from frostline.config import hints
from frostline.console.errors import FrostlineError, allowed
from frostline.data.reading import arrays, arrow
from frostline.data.reading.decode import printable
from frostline.data.reading.label_sets import like_list
from frostline.data.reading.sources import open_source
from frostline.data.reading.table_file import TABLES, open_table
from frostline.data.reading.table_paths import TablePaths
from frostline.data.reading.tables import root_of, used_columns
from frostline.data.reading.test_sets import further_tests
from frostline.pipeline.data_places import KINDS, PLACES, config_of, kind_at

JPEG = (".jpg", ".jpeg")
LOOKED_AT = 1000
"""Files whose names decide whether a data set consists of photographs."""
MOST_FOLDERS = 5
"""More folders of images than these are watched as one, the folder that they are in."""


@dataclass(frozen=True)
class DataSet:
    """A data set of a new study."""

    option: str
    """--source or --target."""
    place: Path
    keys: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of its config, nested, such as columns."""

    @property
    def group(self) -> str:
        """The key of its config in an experiment."""
        return "source" if self.option == "--source" else "dataset"

    @property
    def kind(self) -> str:
        """The option of conf/dataset.

        Raises:
            FrostlineError: there is no data set at `place`.
        """
        path = self.place.expanduser()
        if self.place.suffix in (*TABLES, ".npz"):
            if not path.is_file():
                raise FrostlineError(f"{self.option}: there is no file {self.place}{self._nearest('*.*')}")
            return kind_at(path)
        if path.is_file():
            raise FrostlineError(f"{self.option}: {self.place} is not a data set; {PLACES}")
        if not path.is_dir():
            raise FrostlineError(f"{self.option}: there is no folder {self.place}{self._nearest('*/')}")
        if hints.is_empty(path):
            raise FrostlineError(f"{self.option}: {self.place} is empty; give a folder with images")
        return kind_at(path)

    @property
    def config(self) -> dict[str, Any]:
        """What the experiment says about the data set."""
        return {KINDS[self.kind].location: str(self.place), **self.keys}

    @property
    def several_labels(self) -> bool:
        """Whether an image may have any number of labels."""
        return schema.is_multi_label(self.dataset())

    def check(self) -> None:
        """Refuse a data set that is not there, a folder without two classes, and a table without a column, or
        whose images are not there.

        Images are not read.

        Raises:
            FrostlineError: names the option, the column and the nearest ones.
        """
        if "${" in str(self.place):
            raise FrostlineError(
                f"{self.option}: {self.place} contains ${{, which DVC and configs take for a"
                " reference; rename it"
            )
        dataset, where = self.dataset(), f"{self.option}: {self.place}"
        try:
            match dataset:
                case schema.Table():
                    required = dataset.columns.image, *(dataset.columns.labels or [dataset.columns.label])
                    used_columns(dataset, open_table(self.place.expanduser(), where, required).columns, where)
                    self._check_images(dataset, where)
                case schema.ImageFolder():
                    open_source(dataset)
                case schema.Npz():
                    arrays.read(dataset)
                case schema.HuggingFace():
                    arrow.read(dataset)
        except FrostlineError as error:
            text = str(error).replace(f"dataset.{dataset.location}: {self.place}", where)
            text = re.sub(r"dataset=table ('?)dataset\.file=", rf"{self.option} \1", text)
            raise FrostlineError(self._in_group(text)) from None

    def _check_images(self, dataset: schema.Table, where: str) -> None:
        """Refuse a table none of whose images exists; one of them is enough."""
        paths = TablePaths(root_of(dataset))
        keys = [key for key, fault in map(paths.key, self._column(dataset)) if key and not fault]
        if keys and not any(os.path.lexists(locate(paths.root, key)) for key in keys):
            raise FrostlineError(f"{where}: {paths.nothing_there(keys)}")

    def check_apart(self, other: "DataSet") -> None:
        """Refuse data sets of the same images: what the target is tested on would be trained on before.

        Raises:
            FrostlineError: both have the same path, or one folder of images is in the other.
        """
        mine, others = (each.place.expanduser().resolve() for each in (self, other))
        where = f"{self.option}: {self.place}"
        if mine == others:
            raise FrostlineError(
                f"{where} is also {other.option}, so that the test images would be trained on; give two data"
                " sets, or fine-tune on one: frostline finetune"
            )
        if self.kind == other.kind == "image_folder" and (
            mine.is_relative_to(others) or others.is_relative_to(mine)
        ):
            raise FrostlineError(
                f"{where} and {other.option} {other.place} share images, since one folder is in the other;"
                " give folders beside each other"
            )

    def like_list(self) -> str | None:
        """Return a label that looks like a list, where an image of a table has one label; None: none does."""
        dataset = self.dataset()
        if not isinstance(dataset, schema.Table) or self.several_labels or dataset.classes:
            return None
        column, place = dataset.columns.label, f"{self.option}: {dataset.file}"
        table = open_table(Path(dataset.file).expanduser(), place, (column,))
        return like_list(cell.strip() for _, (cell,) in table.records([column]))

    def watched(self) -> list[str]:
        """Return what DVC has to watch beside `place`: folders of a table's images, and further test sets.

        Raises:
            FrostlineError: images are in the project's own folder, which DVC can't watch.
        """
        dataset = self.dataset()
        paths = list(self._images(dataset))
        for test in further_tests(dataset).values():
            paths += [str(getattr(test, test.location)), *self._images(test)]
        return list(dict.fromkeys(paths))

    def dataset(self) -> Any:
        """Return its config, with the defaults of conf/."""
        try:
            return config_of(self.kind, self.config, f"{self.option}: {self.group}.")
        except FrostlineError as error:
            raise FrostlineError(self._in_group(str(error))) from None

    def _in_group(self, text: str) -> str:
        """Return an error's sentence with the group of this data set in the keys that it says to set."""
        return re.sub(r"(?:(?<=[('])|(?<=set ))dataset(?=\.)", self.group, text)

    def has_photographs(self) -> bool:
        """Return whether most of its first files are JPEG: photographs, and seldom letters or signs."""
        dataset = self.dataset()
        names: Iterable[str] = ()
        if isinstance(dataset, schema.Table):
            names = self._column(dataset)
        elif isinstance(dataset, schema.ImageFolder):
            names = (file.name for file in files_below(self.place.expanduser()))
        jpeg = [name.lower().endswith(JPEG) for name in islice(names, LOOKED_AT)]
        return 2 * sum(jpeg) > len(jpeg)

    def _column(self, dataset: schema.Table) -> Iterator[str]:
        """Yield the image column of a table."""
        column, where = dataset.columns.image, f"{self.option}: {dataset.file}"
        table = open_table(Path(dataset.file).expanduser(), where, (column,))
        used_columns(dataset, table.columns, where)
        return (cells[0] for _, cells in table.records([column]))

    def _images(self, dataset: schema.Dataset) -> Iterator[str]:
        """Yield the folders of a table's images."""
        if not isinstance(dataset, schema.Table):
            return
        root = root_of(dataset)
        paths, tops = TablePaths(root), set[str]()
        for image in self._column(dataset):
            key, fault = paths.key(image)
            if key.startswith(("/", "../")):
                raise FrostlineError(f"{self.option}: {dataset.file}: {printable(image)} {fault}")
            if (top := _top(key)) is not None:
                tops.add(top)
        whole = "" in tops or len(tops) > MOST_FOLDERS
        for folder in [root] if whole else [root / top for top in sorted(tops)]:
            if Path.cwd().resolve().is_relative_to(folder.resolve()):
                raise FrostlineError(
                    f"{self.option}: images of {dataset.file} are in {folder.resolve()} itself, which "
                    "contains the project, so that DVC can't watch them; move the table and its images to a "
                    "folder of their own"
                )
            yield os.path.normpath(folder)

    def _nearest(self, pattern: str) -> str:
        beside = self.place.expanduser().absolute().parent.glob(pattern)
        near = [path.name for path in beside if not path.name.startswith(".")]
        return f"; {allowed(self.place.name, near)}" if near else ""


def _top(key: str) -> str | None:
    """Return the first folder of an image's path below the root, '' for none; None: there is no path."""
    path = PurePosixPath(key)
    if not path.parts:
        return None
    return path.parts[0] if len(path.parts) > 1 else ""
