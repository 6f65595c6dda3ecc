"""A linear probe in fastai: a Learner, `freeze`, `fit`. Its default lets frozen BatchNorms train."""

import torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback  # noqa: F401  # it brings Learner.no_bar
from fastai.data.core import DataLoaders
from fastai.learner import Learner, params
from fastai.metrics import accuracy
from fastai.optimizer import Adam
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.peers import common


def main() -> None:
    given = common.settings()
    common.pin(given.threads)
    data = common.tensors(given.arrays)
    clock = common.Clock()

    class EpochClock(Callback):
        def before_epoch(self):
            clock.epoch_begins()

        def after_epoch(self):
            clock.epoch_ends()

    def head_apart(network):
        head = params(network.get_classifier())
        return [[p for p in params(network) if all(p is not q for q in head)], head]

    loaders = DataLoaders(
        DataLoader(TensorDataset(data.x, data.y), batch_size=given.batch_size, shuffle=True),
        DataLoader(TensorDataset(data.val_x, data.val_y), batch_size=given.eval_batch_size),
        device=torch.device(given.device),
    )
    learner = Learner(
        loaders,
        common.timm_network(given.model, given.arrays, data.classes).to(given.device),
        nn.CrossEntropyLoss(),
        Adam,
        splitter=head_apart,
        metrics=accuracy,
        cbs=EpochClock(),
    )
    with learner.no_bar(), learner.no_logging():
        learner.freeze()
        learner.fit(given.measured_epochs, given.lr, wd=0)
    last = learner.recorder.values[-1]
    clock.report(float(last[2]), float(last[0]))


if __name__ == "__main__":
    main()
