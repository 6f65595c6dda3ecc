"""Find finished runs in MLflow's store, to compare them."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.base.hashes import content_key, sha256_cached
from frostline.base.metrics import headline
from frostline.base.run_folder import TRAINING, WEIGHTS, verified
from frostline.comparison.ranking import ordered
from frostline.comparison.statistics import Repetition, Result
from frostline.console.errors import FrostlineError, first_line
from frostline.runs.local_copies import GONE
from frostline.tracking import metric_names
from frostline.tracking.known_names import ID, no_such_run, no_such_study
from frostline.tracking.local_store import BEST, LAST
from frostline.tracking.run_tags import REPEATED
from frostline.tracking.seed_groups import counts
from frostline.tracking.store import Store
from frostline.training.services import TRIAL_NUMBER, setting_of

if TYPE_CHECKING:
    from mlflow.entities import Run

COMPARED = 5000
"""The most runs that are read."""
TRAINED = ("pretrain", "finetune")


class Results:
    """The finished runs of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def finished(self, tags: Mapping[str, str], *conditions: str) -> list[Result]:
        """Return the finished training runs with these tags, oldest first.

        Args:
            conditions: more MLflow filters.
        """
        runs = self._store.search(
            tags, "attributes.status = 'FINISHED'", *conditions, limit=COMPARED, order="ASC"
        )
        return [_result(run) for run in runs if run.data.tags.get("stage") in TRAINED and counts(run)]

    def named(self, word: str) -> list[Result]:
        """Return the finished runs that a word names.

        Args:
            word: a run folder, an id, a name, a name without the seed (all seeds), what `chosen` takes, or
                the first words of a name without the seed, such as ``full``, if no other begins with them in
                the newest study, or in the store.

        Raises:
            FrostlineError: there is none.
        """
        if Path(word, WEIGHTS).is_file():
            return self._of_folder(Path(word))
        if ID.fullmatch(word):
            results = self.finished({}, f"attributes.run_id = '{word}'")
        else:
            results = self.finished({}, metric_names.equals("attributes.run_name", word))
            results = [run for run in results if run.name == word][-1:]
        if not results:
            results = self.finished({}, metric_names.begins("attributes.run_name", f"{word}·"))
            results = [run for run in results if setting_of(run.name) == word]
        if not (results := results or self.chosen(word) or self._beginning(word)):
            known = {*(run.name for run in self.finished({})), *self.words()}
            raise FrostlineError(no_such_run(word, known))
        return results

    def _beginning(self, word: str) -> list[Result]:
        """Return the finished runs of the only configuration whose name begins with `word` and a ``·``."""
        newest = [{"study": study} for study in self._studies()[:1]]
        for tags in (*newest, dict[str, str]()):
            begins = metric_names.begins("attributes.run_name", f"{word}·")
            results = [run for run in self.finished(tags, begins) if run.name.startswith(f"{word}·")]
            if len({setting_of(run.name) for run in results}) == 1:
                return results
        return []

    def chosen(self, word: str, weights: Collection[str] | None = None) -> list[Result]:
        """Return the runs that a study's name, `best` or `last` stands for; none for other words.

        A study or sweep stands for the seeds of its best setting, the best seed first, by validation. `best`
        means the study or sweep that ran last, `last` the newest finished run.

        Args:
            weights: the sha256 of weights that exist: only runs that made one of these are chosen from; None:
                from all runs.

        Raises:
            FrostlineError: it has no finished run, or none with its weights.
        """
        studies = self._studies()
        if word == LAST:
            results = self.finished({})
        elif word in (BEST, *studies):
            studies = studies[:1] if word == BEST else [word]
            results = self._tuned(studies)
        else:
            return []
        if not results:
            raise FrostlineError(f"{word}: no run has finished yet; see `frostline ui`")
        if weights is not None:
            results = [run for run in results if run.weights in weights]
            if not results:
                raise FrostlineError(f"{word}: the weights of all its runs were {GONE}")
        return results[-1:] if word == LAST else self._best_setting(studies, results)

    def words(self) -> list[str]:
        """Return the words that `chosen` takes."""
        return [BEST, LAST, *self._studies()]

    def _tuned(self, studies: Sequence[str]) -> list[Result]:
        """Return the finished runs of studies that fine-tuned; if there are none, those that pretrained."""
        runs = [run for study in studies for run in self.finished({"study": study})]
        return [run for run in runs if run.params.get("stage") == "finetune"] or runs

    def _best_setting(self, studies: Sequence[str], tuned: Sequence[Result]) -> list[Result]:
        """Return the runs of a study's best setting, the best first; see `comparison.ranking`."""
        parents = [run for study in studies for run in self._store.search({"study": study, "stage": "study"})]
        objective = next((run.data.tags.get("objective") for run in parents), None)
        own = headline({metric for run in tuned for metric in run.metrics})
        metric = f"best/{objective or f'val/{own}'}"
        settings: dict[str, dict[Repetition, Result]] = {}
        for run in tuned:
            if metric in run.metrics:
                runs = settings.setdefault(run.configuration, {})
                earlier = runs.get(run.repetition)
                # A trial that was repeated by a command of its own keeps its place among the trials.
                if earlier is None or earlier.trial is None or run.trial is not None:
                    runs[run.repetition] = run
        if not settings:
            return list(tuned[-1:])
        by_repetition = ([runs[which] for which in sorted(runs)] for runs in settings.values())
        return ordered(metric, by_repetition, lambda run: run.metrics[metric], lambda run: run.trial)[0]

    def matching(self, study: str | None, condition: str | None) -> list[Result]:
        """Return the finished runs of a study that match an MLflow filter; None: any.

        Without a filter, these are the runs of the study's arms or trials, if any of them has finished.

        Raises:
            FrostlineError: there is none, or the filter is invalid.
        """
        if study is not None and study not in (studies := self._studies()):
            raise FrostlineError(no_such_study(study, studies))
        try:
            results = self._compared(study) if study and not condition else []
            results = results or self.finished({"study": study} if study else {}, *filter(None, [condition]))
        except Exception as error:  # MLflow's error for an invalid filter
            raise FrostlineError(
                f"--filter: {first_line(error)}; write, for example,"
                " \"params.`optimizer.lr` = '0.001' and tags.freeze = 'full'\""
            ) from None
        if study and len({result.params.get("stage") for result in results}) > 1:
            results = [result for result in results if result.params.get("stage") == "finetune"]
        if not results:
            what = f"of the study {study}" if study else "that matches this filter"
            raise FrostlineError(f"compare: no run {what} has finished; see `frostline ui`")
        return results

    def newest_study(self) -> str:
        """Return the name of the study or sweep that ran last.

        Raises:
            FrostlineError: no run is recorded yet.
        """
        for study in self._studies():
            return study
        raise FrostlineError("compare: no run is recorded yet; `frostline finetune …` makes one")

    def _compared(self, study: str) -> list[Result]:
        """Return the finished runs of a study's arms, or a sweep's trials."""
        (parent,) = self._store.search({"study": study, "stage": "study"})
        return self.finished({"study": study}, self._store.studies.read(parent.info.run_id, study).runs)

    def _studies(self) -> list[str]:
        """Return the studies' names: first the one that ran last, then the others, the newest first."""
        runs = self._store.search({"stage": "study"}, limit=COMPARED)
        studies = [str(run.data.tags.get("study", run.info.run_name)) for run in runs]
        last = [run.data.tags.get("study") for run in self._store.search({}, "tags.seed LIKE '%'")]
        return sorted(studies, key=lambda study: study not in last)

    def _of_folder(self, folder: Path) -> list[Result]:
        """Return the newest finished run with the weights of a run folder."""
        if (folder / TRAINING).is_file():
            verified(folder)
        if results := self.finished({"weights.sha256": sha256_cached(folder / WEIGHTS)}):
            return results[-1:]
        raise FrostlineError(
            f"{folder}: not recorded in this store; name a run of `frostline ui`, or run it again"
        )


def _result(run: "Run") -> Result:
    tags = run.data.tags
    params = {key: value for key, value in run.data.params.items() if key not in REPEATED}
    configuration = f"{tags.get('study')}/{tags.get('setting') or content_key(params)}"
    seed, fold = int(tags.get("seed", 0)), int(tags["fold"]) if "fold" in tags else None
    trial = int(tags[TRIAL_NUMBER]) if TRIAL_NUMBER in tags else None
    return Result(
        run.info.run_id,
        run.info.run_name,
        configuration,
        seed,
        params,
        run.data.metrics,
        fold,
        trial,
        tags.get("weights.sha256", ""),
    )
