"""The sweep in the style of Optuna's examples: a study in SQLite, an objective that trains."""

import json
import sys
from pathlib import Path

import optuna

from benchmarks.peers import lightning_trial


def main() -> None:
    given = json.loads(sys.argv[1])
    lightning_trial.rivals_quiet()
    store = Path(given["store"])

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_categorical("lr", given["rates"])
        return lightning_trial.train(lr, probe=given["probe"], epochs=given["epochs"], store=store)

    study = optuna.create_study(
        study_name="sweep",
        storage=f"sqlite:///{store.with_name('optuna.db')}",
        sampler=optuna.samplers.GridSampler({"lr": given["rates"]}, seed=0),
        direction="maximize",
    )
    study.optimize(objective, n_trials=len(given["rates"]))


if __name__ == "__main__":
    main()
