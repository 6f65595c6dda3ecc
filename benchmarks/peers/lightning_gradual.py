"""A gradual schedule in Lightning: a BaseFinetuning that thaws the last stage, then all the rest."""

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BaseFinetuning
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.peers import common


class Module(pl.LightningModule):
    def __init__(self, network: nn.Module, lr: float) -> None:
        super().__init__()
        self.network, self.lr = network, lr

    def training_step(self, batch, index):
        x, y = batch
        loss = cross_entropy(self.network(x), y)
        self.log("train/loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch, index):
        x, y = batch
        self.log("val/accuracy", (self.network(x).argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=self.lr)


class Gradual(BaseFinetuning):
    def __init__(self, each: int) -> None:
        super().__init__()
        self.each = each

    def freeze_before_training(self, pl_module):
        network = pl_module.network
        self.freeze([child for name, child in network.named_children() if name != "fc"], train_bn=False)

    def finetune_function(self, pl_module, epoch, optimizer):
        network = pl_module.network
        if epoch == self.each:
            self.unfreeze_and_add_param_group(network.layer4, optimizer, lr=pl_module.lr)
        if epoch == 2 * self.each:
            rest = [child for name, child in network.named_children() if name not in ("fc", "layer4")]
            self.unfreeze_and_add_param_group(rest, optimizer, lr=pl_module.lr)


def main() -> None:
    given = common.settings()
    common.pin(given.threads)
    data = common.tensors(given.arrays)
    clock = common.Clock()
    module = Module(common.timm_network(given.model, given.arrays, data.classes), given.lr)
    common.lightning_fit(module, given, data, clock, (Gradual(given.epochs // 3),))


if __name__ == "__main__":
    main()
