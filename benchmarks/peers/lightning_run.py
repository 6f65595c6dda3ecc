"""One fine-tuning in plain Lightning with MLFlowLogger, resumed from its last checkpoint: a careful script.

    python -m benchmarks.peers.lightning_run '{"epochs": 12, "uri": "sqlite:///mlflow.db"}'

It does what Lightning's documentation says of runs that may be killed: a seed for everything, deterministic
algorithms, ModelCheckpoint(save_last=True) and `ckpt_path="last"`.
"""

import json
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import MLFlowLogger
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from benchmarks.peers.lightning_trial import BATCH, Module, digits, rivals_quiet


class Run(Module):
    def validation_step(self, batch, index):
        logits = self(batch[0])
        self.log("val/loss", cross_entropy(logits, batch[1]))
        self.log("val/accuracy", (logits.argmax(1) == batch[1]).float().mean())

    def test_step(self, batch, index):
        self.log("test/accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())


def main() -> None:
    given = json.loads(sys.argv[1])
    rivals_quiet()
    pl.seed_everything(0, workers=True, verbose=False)
    torch.set_num_threads(1)
    data = digits()
    train = DataLoader(data["train"], BATCH, shuffle=True)
    val, test = (DataLoader(data[split], BATCH) for split in ("val", "test"))
    best = ModelCheckpoint("checkpoints", monitor="val/accuracy", mode="max", save_last=True)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=given["epochs"],
        deterministic=True,
        logger=MLFlowLogger("faults", tracking_uri=given["uri"], run_name="run"),
        callbacks=[best],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    module = Run(1e-3, probe=False)
    last = Path("checkpoints/last.ckpt")
    trainer.fit(module, train, val, ckpt_path=str(last) if last.is_file() else None)
    (measured,) = trainer.test(module, test, ckpt_path="best", verbose=False)
    Path("run").mkdir(exist_ok=True)
    save_file(module.network.state_dict(), "run/weights.safetensors")
    Path("run/metrics.json").write_text(json.dumps(measured, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
