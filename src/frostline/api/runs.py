"""Fine-tune and pretrain from Python, and a finished run as an object."""

import os
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from frostline.api import html
from frostline.api.calls import call
from frostline.api.options import Options, Overrides, overrides_of, typed_keys
from frostline.api.options import Path as AnyPath
from frostline.base.formats import read_json, read_yaml
from frostline.base.metrics import headlines
from frostline.base.run_folder import CONFIG, METRICS
from frostline.console.errors import FrostlineError
from frostline.runs.measured import measured_in

if TYPE_CHECKING:
    from torch import nn

    from frostline.api.evaluations import Evaluation
    from frostline.api.history import History
    from frostline.api.mistakes import Mistakes
    from frostline.api.predictions import Predictions
    from frostline.runs.trained_run import TrainedRun

SPLITS = ("test", "val", "train")


def finetune(dataset: AnyPath | None = None, *, force: bool = False, **options: Unpack[Options]) -> "Run":
    """Fine-tune a network under a freeze schedule, as `frostline finetune` does, and return the run.

    Args:
        dataset: a folder of images, ``photos/CLASS/*``, or an option of conf/dataset, such as ``"digits"``.
        force: overwrite a run with another config in `out`.
        options: options of config groups, common keys and other overrides; see `Options`.

    Raises:
        FrostlineError: an argument, the data or the weights are not valid.
        TrainingFailed: the loss is not finite, or memory or disk ran out.
    """
    return _train("finetune", overrides_of(dataset, options, Options), force)


def pretrain(dataset: AnyPath | None = None, *, force: bool = False, **options: Unpack[Options]) -> "Run":
    """Pretrain a network on a source data set, as `frostline pretrain` does, and return the run.

    Args:
        dataset: the source: a folder of images, or an option of conf/dataset.
        force: overwrite a run with another config in `out`.
        options: as for `finetune`; hyperparameters are those of the pretraining (``pretrain.optimizer.lr``).

    Raises:
        FrostlineError: an argument, the data or the weights are not valid.
        TrainingFailed: the loss is not finite, or memory or disk ran out.
    """
    return _train("pretrain", overrides_of(dataset, options, Options, command="pretrain"), force)


def load(run: "AnyPath | Run") -> "Run":
    """Return a finished run: its folder, id or name, `best`, `last`, or a model (`models:/NAME@ALIAS`).

    Raises:
        FrostlineError: no finished run has that name, or several have.
    """
    if isinstance(run, Run):
        return run
    from frostline.serving import resolve

    if not isinstance(run, str | os.PathLike):
        raise FrostlineError(f"run: found {run!r}; give a run's folder, id or name, 'best' or 'last'")
    name = os.fspath(run)
    with call(reads_records=not os.path.isdir(name)):  # noqa: PTH112
        return Run(resolve.folder(name))


def _train(stage: str, overrides: list[str], force: bool) -> "Run":
    from frostline.config import compose
    from frostline.pipeline import unread
    from frostline.pipeline.standalone import Job

    with call():
        composed, choices = compose.experiment(overrides)
        if stage == "finetune":
            unread.warn_of_source(composed, choices, overrides)
        return Run(Job(stage, force)(composed, choices).out)


class Run:
    """A finished run. A notebook shows its metrics and learning curves.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        """It contains the files that `frostline finetune` writes."""
        self._home = Path.cwd()
        """The folder from which relative paths in its config are tried first."""
        self._networks: dict[int | None, Any] = {}
        """Batch size → network that predicts: to make one takes a second."""

    @cached_property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Split → metric → value, such as ``run.metrics["test"]["accuracy"]``."""
        path = measured_in(self.folder) / METRICS
        measured: dict[str, dict[str, float]] = read_json(path) if path.is_file() else {}
        return measured

    @cached_property
    def config(self) -> dict[str, Any]:
        """Every hyperparameter."""
        config: dict[str, Any] = read_yaml(self.folder / CONFIG)
        return config

    @cached_property
    def history(self) -> "History":
        """A row per epoch; a notebook shows its plot."""
        from frostline.api.history import History

        return History.read(self.folder)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, in the order of the network's outputs."""
        return self._trained.classes

    @cached_property
    def network(self) -> "nn.Module":
        """The trained network, on the CPU, in eval mode: normalized (N, C, H, W) → logits (N, K)."""
        return self._trained.network()

    def predict(self, images: Any, *, batch_size: int | None = None) -> "Predictions":
        """Predict the classes of images, resized and normalized as in training.

        Args:
            images: a file, a folder, an image of Pillow, a uint8 array, (H, W), (H, W, 3), (N, H, W) or
                (N, H, W, 3), with the channels or uint16 of the training images; or a list of these. Three or
                four grey images for a network of colour images have to be a list, since an array of this
                shape may have its channels first.
            batch_size: images per forward pass; None: the run's.

        Returns:
            One prediction per image, in order; where an image can't be used, its `error` says why.

        Raises:
            FrostlineError: there is no image, or an array of another type.
        """
        from frostline.api import predictions
        from frostline.console.errors import resource_errors
        from frostline.serving import prediction

        _check_batch_size(batch_size)
        with call(), resource_errors("predicting", ["batch_size"]):
            if batch_size not in self._networks:
                self._networks[batch_size] = prediction.Network(self._trained, batch_size)
            return predictions.predict(self._trained, images, self._networks[batch_size])

    def evaluate(
        self,
        data: AnyPath,
        *,
        out: AnyPath | None = None,
        tta: str | None = None,
        force: bool = False,
        overrides: Overrides = (),
    ) -> "Evaluation":
        """Measure the network on a further labelled test set, as `frostline evaluate RUN --on DATA` does.

        The run's own metrics are not changed. Images that the run was trained on cause a warning.

        Args:
            data: a folder of class folders, a table, an .npz file, or a folder of `save_to_disk`. Classes are
                matched by name; some may be missing.
            out: the folder of the results; None: test_sets/NAME in the run's folder.
            tta: test-time augmentation, ``none`` for none of it; None: the run's.
            force: overwrite other metrics in `out`, and accept an edited config.yaml.
            overrides: keys of the data set, such as ``{"dataset.columns.label": "diagnosis"}``.

        Raises:
            FrostlineError: the data has classes that the run does not know, or images that can't be used; or
                other metrics would be overwritten.
        """
        from frostline.api.evaluations import Evaluation
        from frostline.pipeline import evaluate_on
        from frostline.pipeline.data_places import PLACES

        if not isinstance(data, str | os.PathLike):
            raise FrostlineError(f"data: found {data!r}; {PLACES}")
        keys = typed_keys(overrides)
        chosen = evaluate_on.Options(keys, Path(out) if out else None, force, tta, self._home)
        with call():
            measured = evaluate_on.run(self.folder, os.fspath(data), chosen)
        metrics = dict(measured.metrics["test"])
        return Evaluation(measured.name, measured.out, metrics, measured.warnings, measured.data)

    def mistakes(self, count: int | None = 24) -> "Mistakes":
        """Return misclassified test images, the most confident mistakes first.

        Args:
            count: the largest number of images; None: all.

        Raises:
            FrostlineError: the run has no predictions.csv, or several labels per image.
        """
        from frostline.api.mistakes import Mistakes
        from frostline.runs.data_location import located
        from frostline.schema import Prepare

        with call():
            run = self._trained.run
            config = Prepare.of(located(run.dataset, self.folder, self._home), run.input)
            return Mistakes.read(measured_in(self.folder), config, count)

    def export(self, file: AnyPath) -> Path:
        """Write the network as a file for other programs, and return its path.

        The file is read again and compared with the network before it is put in place.

        Args:
            file: its suffix is the format: .onnx or .pt2 (from uint8 pixels to probabilities), or
                .safetensors (the weights).

        Raises:
            FrostlineError: another suffix, a missing package, or the format can't express the network.
        """
        from frostline.serving import formats

        path = Path(file)
        form = formats.format_of(path, "file")
        with call():
            formats.check_packages(form)
            from frostline.serving import export

            return export.run(self._trained, form, path).file

    @cached_property
    def _trained(self) -> "TrainedRun":
        from frostline.runs.trained_run import TrainedRun

        return TrainedRun.read(self.folder)

    def __repr__(self) -> str:
        measured = headlines(self.metrics, ("test", "val"))
        return f"Run({str(self.folder)!r}{f', {measured}' if measured else ''})"

    def _repr_html_(self) -> str:
        shown = {split: self.metrics[split] for split in SPLITS if split in self.metrics}
        parts = [html.metrics_table(shown)] if shown else []
        parts.append(html.svg_image(self.history.svg(), self.history.caption))
        return html.block(self.folder.name, str(self.folder), *parts)


def _check_batch_size(value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < 1):
        raise FrostlineError(f"batch_size: found {value!r}; give a whole number above 0, or None")


def names_of(runs: "tuple[AnyPath | Run, ...]") -> list[str]:
    """Return the names or folders of runs, as texts."""
    names = []
    for run in runs:
        if isinstance(run, list | tuple):
            names += names_of(tuple(run))
        elif isinstance(run, Run):
            names.append(str(run.folder))
        elif isinstance(run, str | os.PathLike):
            names.append(os.fspath(run))
        else:
            raise FrostlineError(f"compare: found {run!r}; give runs, or their folders, ids or names")
    return names
