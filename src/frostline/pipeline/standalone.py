"""Run `pretrain` or `finetune` standalone: prepare the data, pretrain if needed, train and measure."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.base import project
from frostline.base.code import fingerprint
from frostline.base.files import (
    is_intact,
    link_or_copy,
    publish,
    remove_leftovers,
    write_checksums,
)
from frostline.base.formats import read_json
from frostline.base.hashes import content_key, sha256_of
from frostline.base.locks import exclusive
from frostline.base.run_folder import OUTPUTS, WEIGHTS, check_out, edited_config, verified
from frostline.config import stage_configs
from frostline.console.errors import FrostlineError, resource_errors
from frostline.console.progress import LIBRARIES, shown, waiting
from frostline.pipeline import data_warnings
from frostline.pipeline.output_folders import out_folder
from frostline.pipeline.session import make_services, writing
from frostline.schema import Experiment, Leakage, Prepare, Run, Weights, needs_pretraining
from frostline.schema.stages import check_selection
from frostline.training.services import Services, Watch, unwatched

if TYPE_CHECKING:
    from frostline.data.prepared.index import Index

DataSets = Mapping[str, "tuple[Index, Path]"]
"""Role, source or target → the index and folder of the prepared data set."""
FEW_SHOTS = 10
"""Labels per class up to which training on all was better than selecting an epoch (docs/recipes.md)."""


@dataclass(frozen=True)
class Done:
    """A finished run."""

    name: str
    out: Path
    metrics: Mapping[str, Mapping[str, float]]
    setting: str = ""
    """In a sweep over seeds: the run's name without the seed, equal for runs that differ only in it."""
    objective: str = ""
    """In a sweep: what it optimizes, such as ``val/f1_macro``; empty: the headline metric on val."""


@dataclass(frozen=True)
class Stopped:
    """A trial that the sweep's pruner ended."""

    name: str


@dataclass(frozen=True)
class Job:
    """Runs `pretrain` or `finetune` for a composed experiment; picklable, since Hydra's launchers send it."""

    stage: str
    force: bool = False
    """Whether to overwrite a run in `out` that had other hyperparameters."""
    reuse: bool = True
    """Whether a trial is not trained again if it finished in an earlier sweep."""

    def inputs(self, experiments: Sequence[Experiment]) -> dict[str, list[str]]:
        """Return hashes of the files that runs read: fingerprints of data sets, sha256 of weights."""
        weights: list[Weights] = []
        data: dict[str, tuple[str, Prepare]] = {}
        for composed in experiments:
            from_source = self.stage == "pretrain" or needs_pretraining(composed.weights)
            from_target = self.stage == "finetune"
            weights += [composed.pretrain.weights] * from_source + [composed.weights] * from_target
            for role in ["source"] * from_source + ["target"] * from_target:
                config = stage_configs.prepare_config(composed, role)
                data.setdefault(content_key(config.model_dump()), (role, config))
        paths = {Path(path) for entry in weights if (path := getattr(entry, "path", None))}
        return {
            "data": sorted(prepared_from(config, role)[0].fingerprint for role, config in data.values()),
            "weights": sorted(sha256_of(path) for path in paths if path.is_file()),
        }

    @resource_errors()
    def __call__(
        self,
        composed: Experiment,
        choices: Mapping[str, str],
        label: str = "",
        watch: Watch = unwatched,
        tags: Mapping[str, str] | None = None,
    ) -> Done:
        """Train once, and measure.

        Args:
            choices: Hydra config group → selected option.
            label: in a sweep, the overrides that distinguish this job; becomes a folder below `out`.
            watch: called with each epoch's row, and may end the run.

        Raises:
            Pruned: `watch` ended it.
            OutOfResources: memory or the disk ran out.
        """
        from frostline.training.run_info import run_name

        make = stage_configs.pretrain_config if self.stage == "pretrain" else stage_configs.finetune_config
        config = make(composed, choices)
        name = run_name(config)
        drawn = composed.sweep.sampler.kind != "grid"
        pretraining = pretraining_config(composed, choices) if self.stage == "finetune" else None
        out = out_folder(config, composed.out, label, pretraining, drawn=drawn)
        check = not (self.force or label)
        if check:
            check_out(out, config.model_dump())
        data_sets = prepared_data(composed, self.stage)
        services = make_services(label, watch, tags)
        # A pruner compares the epochs that trials report, and a finished run reports none.
        reuses = label and self.reuse and composed.sweep.pruner.kind == "none"
        with waiting(LIBRARIES):
            from frostline.evaluation import evaluate
            from frostline.pipeline.pretrain.stage import train_once
            from frostline.training.earlier_runs import FinishedTrials

        earlier = FinishedTrials(services) if reuses else None
        with writing(out, wait=bool(label)):
            if check:  # Again, since nobody else can write there now.
                check_out(out, config.model_dump())
            if self.stage == "pretrain":
                _, data = data_sets["source"]
                with stage_configs.keys_of("source"):
                    train_once(config, data, out, services, earlier=earlier)
            else:
                if not label:
                    _advise_on_selection(config, services)
                config, data = prepared_run(config, composed, choices, services, data_sets)
                if check:  # Again, with the path of the pretrained weights.
                    check_out(out, config.model_dump())
                train_once(config, data, out, services, earlier=earlier)
            metrics = evaluate.read_metrics(out)
        return Done(label or name, out, metrics)


def _advise_on_selection(config: Run, services: Services) -> None:
    """Advise `dataset.selection=last` if labels are few, unless the config needs an epoch to be selected.

    It does if a phase ends by a metric or restores its best epoch, or if WiSE-FT chooses α.
    """
    shots = config.dataset.shots
    if config.dataset.selection != "within" or shots is None or shots > FEW_SHOTS:
        return
    with suppress(ValueError):
        check_selection(config.dataset.model_copy(update={"selection": "last"}), config, ("dataset", ""))
        services.say(
            f"dataset.selection: of the {shots} labels per class, some only select the best epoch;"
            " dataset.selection=last trains on all, which is usually better with so few"
        )


def prepared(composed: Experiment, role: str) -> "tuple[Index, Path]":
    """Return the index and folder of the source or target data set; prepare it unless it is cached."""
    return prepared_from(stage_configs.prepare_config(composed, role), role)


def prepared_data(composed: Experiment, stage: str = "finetune") -> DataSets:
    """Prepare the data sets of a run, unless they are cached.

    Call it before the imports that training needs: it reports what is wrong with the data seconds earlier.

    Returns:
        The index and folder of the target, of the source, or of both if a pretraining runs first.
    """
    roles = ["target"] * (stage == "finetune")
    roles += ["source"] * (stage == "pretrain" or needs_pretraining(composed.weights))
    return {role: prepared(composed, role) for role in roles}


def prepared_run(
    config: Run,
    composed: Experiment,
    choices: Mapping[str, str],
    services: Services,
    data_sets: DataSets,
) -> tuple[Run, Path]:
    """Return `config` with the path of pretrained weights for `weights=pretrain`, and its prepared data.

    The pretraining runs first unless it is cached, or is that of the study in `artifacts/`; runs with the
    same pretraining share it.

    Args:
        choices: Hydra config group → selected option.
        services: those of the fine-tuning run; the pretraining creates its own.
        data_sets: of `prepared_data`.

    Raises:
        FrostlineError: the source's head can't be used for these classes, or the schedule does not fit the
            network; raised before anything is trained.
    """
    from frostline.models.head_init import choose_head_init
    from frostline.models.pretrained import load_initial_weights
    from frostline.pipeline.compose.stage import check_run
    from frostline.pipeline.pretrain.stage import result_key, train_once
    from frostline.training.run import measured

    target, folder = data_sets["target"]
    if not needs_pretraining(config.weights):
        return config, folder
    source, source_folder = data_sets["source"]
    name, trains = f"the source {source.name}", bool(config.freeze.phases)
    choose_head_init(config.weights.head, source.classes, target.classes, source=name, trains=trains)
    _check_leakage(composed, data_sets)
    pretraining = stage_configs.pretrain_config(composed, choices)
    initial_sha256 = load_initial_weights(pretraining.backbone, pretraining.weights).sha256
    key = result_key(pretraining, source.fingerprint, initial_sha256)
    out = services.scratch / "pretrain" / key
    # Relative: the run's config.yaml has it, and must not depend on where the project lies.
    path = os.path.relpath(out / WEIGHTS)
    with exclusive(services.scratch / "locks" / f"pretrain-{key}.lock"):
        is_cached = is_intact(out)
        if is_cached:
            services.say(f"pretrain on {source.name}: trained before, {measured(out)}")
        elif study := _copy_of_study(key, out):
            services.say(f"pretrain on {source.name}: not needed, the study's weights in {study} are used")
        else:
            check_run(config, classes=target.classes)
            # Services of its own: the pretraining does not belong to the trial that happens to run it.
            with stage_configs.keys_of("source"):
                train_once(pretraining, source_folder, out, make_services(), sealed=True)
    weights = config.weights.model_copy(update={"path": path})
    return config.model_copy(update={"weights": weights}), folder


def _copy_of_study(key: str, folder: Path) -> Path | None:
    """Copy the study's pretraining into the cache's `folder`, and return the study's folder.

    None: the study has another pretraining, or none that is intact.

    Args:
        key: the `result_key` of the pretraining that is needed; artifacts/timing/pretrain.json has the
    study's."""
    artifacts = project.find_root() / "artifacts"
    study = artifacts / "pretrain"
    try:
        result = read_json(artifacts / "timing/pretrain.json")["result"]
        record = verified(study)
        if result != {"key": key, "weights_sha256": record["weights_sha256"]} or edited_config(study, record):
            return None
    except (FrostlineError, KeyError, TypeError):  # missing, damaged, or of an earlier version
        return None
    with publish(folder) as work:
        for name in OUTPUTS:
            if (study / name).is_file():
                link_or_copy((study / name).resolve(), work / name)
        write_checksums(work)
    return Path(os.path.relpath(study))


def _check_leakage(composed: Experiment, data_sets: DataSets) -> None:
    """Raise an error if the source has images of the target's val or test split; warn about near-duplicates.

    The result is cached, since runs that share a pretraining may have the same target or different ones.
    """
    from frostline.leakage.stage import LEAKAGE_FILE, check_study

    config = Leakage(
        source=stage_configs.prepare_config(composed, "source"),
        target=stage_configs.prepare_config(composed, "target"),
    )
    (_, source), (_, target) = data_sets["source"], data_sets["target"]
    folds = config.source.dataset.fold, config.target.dataset.fold
    # The folders' names are keys of configs and images.
    key = content_key([fingerprint("leakage"), source.name, target.name, folds])
    out = project.scratch() / "leakage" / key
    with exclusive(project.scratch() / "locks" / f"leakage-{key}.lock"):
        if is_new := not is_intact(out):
            check_study(config, source, target, out, sealed=True)
    found = data_warnings.Found("the source", read_json(out / LEAKAGE_FILE)["warnings"], out)
    data_warnings.announce(found, is_new=is_new, again="frostline leakage, with the same data sets,")


def pretraining_config(composed: Experiment, choices: Mapping[str, str]) -> Run | None:
    """Return the config of the pretraining that a fine-tune needs; None: it starts from other weights."""
    return stage_configs.pretrain_config(composed, choices) if needs_pretraining(composed.weights) else None


def prepared_from(config: Prepare, role: str = "target") -> "tuple[Index, Path]":
    """Return the index and folder of a config's data set; prepare it unless it is cached.

    Its warnings are printed in full when it is prepared, later in one line.

    Args:
        role: source or target, for errors.
    """
    from frostline.preparation.stage import prepare_cached

    remove_leftovers(project.scratch() / "pixels")
    with stage_configs.keys_of(role):
        new: list[Path] = []
        index, data = prepare_cached(config, project.scratch(), shown, new.append)
    found = data_warnings.Found(index.name, index.warnings, data)
    data_warnings.announce(found, is_new=bool(new), again=data_warnings.prepare_command(config))
    return index, data
