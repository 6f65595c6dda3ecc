"""One trial of a sweep in plain Lightning, recorded in MLflow by its own logger: what scripts are made of."""

import logging
import warnings
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import timm
import torch
from pytorch_lightning.loggers import MLFlowLogger
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn.functional import cross_entropy, interpolate
from torch.utils.data import DataLoader, TensorDataset

BATCH = 64
SIZES = {"train": 1078, "val": 362, "test": 357}


class Module(pl.LightningModule):
    def __init__(self, lr: float, *, probe: bool) -> None:
        super().__init__()
        self.network = cast(Any, timm.create_model("resnet10t", num_classes=10, in_chans=1))
        self.lr, self.probe = lr, probe
        if probe:
            self.network.requires_grad_(False)
            self.network.get_classifier().requires_grad_(True)

    def forward(self, x):
        if not self.probe:
            return self.network(x)
        self.network.eval()
        with torch.no_grad():
            features = self.network.forward_head(self.network.forward_features(x), pre_logits=True)
        return self.network.get_classifier()(features)

    def training_step(self, batch, index):
        loss = cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch, index):
        self.log("val/accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW((p for p in self.parameters() if p.requires_grad), lr=self.lr)


def rivals_quiet() -> None:
    """Keep advice out of the way."""
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "lightning_fabric", "mlflow", "alembic", "optuna"):
        logging.getLogger(name).setLevel(logging.ERROR)


def digits() -> dict[str, TensorDataset]:
    """UCI digits at 32 px, in splits as large as frostline's."""
    x, y = load_digits(return_X_y=True)
    images = interpolate(torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16, size=32, mode="bicubic")
    keep, test = train_test_split(range(len(y)), test_size=SIZES["test"], stratify=y, random_state=0)
    train, val = train_test_split(keep, test_size=SIZES["val"], stratify=y[keep], random_state=0)
    labels = torch.tensor(y)
    rows = {"train": train, "val": val, "test": test}
    assert {split: len(each) for split, each in rows.items()} == SIZES
    return {split: TensorDataset(images[each], labels[each]) for split, each in rows.items()}


def train(lr: float, *, probe: bool, epochs: int, store: Path) -> float:
    """Train one network, and return its accuracy on validation."""
    pl.seed_everything(0, verbose=False)
    torch.set_num_threads(1)
    data = digits()
    loaders = DataLoader(data["train"], BATCH, shuffle=True), DataLoader(data["val"], BATCH)
    logger = MLFlowLogger("sweep", tracking_uri=f"sqlite:///{store}", run_name=f"lr={lr:g}")
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(lr, probe=probe), *loaders)
    return float(trainer.callback_metrics["val/accuracy"])
