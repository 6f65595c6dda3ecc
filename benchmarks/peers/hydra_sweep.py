"""The sweep as Hydra's own: `-m` with the basic launcher over a Lightning script."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from benchmarks.peers import lightning_trial


@hydra.main(version_base="1.3", config_path="conf", config_name="sweep")
def main(config: DictConfig) -> float:
    lightning_trial.rivals_quiet()
    return lightning_trial.train(
        config.lr, probe=config.probe, epochs=config.epochs, store=Path(config.store)
    )


if __name__ == "__main__":
    main()
