"""The arithmetic of full fine-tunings in a bare loop: nothing is recorded, kept for resuming or searched.

As frostline does, it keeps weights channels last, validates before the first step and after each
epoch, and measures the best epoch's network on all three splits.
"""

import copy
import json
import sys

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from benchmarks.peers.lightning_trial import BATCH, digits

AT_ONCE = 64
"""Images that are validated in one pass, as frostline does."""


@torch.no_grad()
def accuracy(network: nn.Module, data: TensorDataset) -> float:
    images, labels = data.tensors
    network.eval()
    logits = torch.cat([network(part) for part in images.split(AT_ONCE)])
    return float((logits.argmax(1) == labels).float().mean())


def trial(lr: float, epochs: int, data: dict[str, TensorDataset]) -> dict[str, float]:
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", num_classes=10, in_chans=1)
    network.to(memory_format=torch.channels_last)
    images, labels = data["train"].tensors
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, fused=True)
    best, state = accuracy(network, data["val"]), network.state_dict()
    for _ in range(epochs):
        network.train()
        for rows in torch.randperm(len(labels)).split(BATCH):
            loss: Tensor = cross_entropy(network(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if (found := accuracy(network, data["val"])) > best:
            best, state = found, copy.deepcopy(network.state_dict())
    network.load_state_dict(state)
    return {split: accuracy(network, each) for split, each in data.items()}


def main() -> None:
    given = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    data = digits()
    for lr in given["rates"]:
        print(lr, trial(lr, given["epochs"], data))


if __name__ == "__main__":
    main()
