"""A linear probe in Lightning: eval and no_grad, as its guide to transfer learning has it."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch.nn.functional import cross_entropy

from benchmarks.peers import common


class Probe(pl.LightningModule):
    def __init__(self, network: Any, lr: float) -> None:
        super().__init__()
        self.head = network.get_classifier()
        network.reset_classifier(0)
        self.backbone = network.requires_grad_(False)
        self.lr = lr

    def forward(self, x):
        self.backbone.eval()
        with torch.no_grad():
            features = self.backbone(x)
        return self.head(features)

    def training_step(self, batch, index):
        x, y = batch
        loss = cross_entropy(self(x), y)
        self.log("train/loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch, index):
        x, y = batch
        self.log("val/accuracy", (self(x).argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.head.parameters(), lr=self.lr)


def main() -> None:
    given = common.settings()
    common.pin(given.threads)
    data = common.tensors(given.arrays)
    clock = common.Clock()
    module = Probe(common.timm_network(given.model, given.arrays, data.classes), given.lr)
    common.lightning_fit(module, given, data, clock)


if __name__ == "__main__":
    main()
