"""What a linear probe costs at least: the frozen layers once, in bf16 and channels-last, and the head."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.peers import common

PASS = 64
"""Images at a time through the frozen layers."""


def main() -> None:
    given = common.settings()
    common.pin(given.threads)
    data = common.tensors(given.arrays)
    device = torch.device(given.device)
    clock = common.Clock()
    network = common.timm_network(given.model, given.arrays, data.classes).eval()
    head = network.get_classifier()
    network.reset_classifier(0)
    network = network.to(device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def features(images: torch.Tensor) -> torch.Tensor:
        made = []
        with torch.autocast(device.type, torch.bfloat16):
            for batch in images.split(PASS):
                made.append(network(batch.to(device, memory_format=torch.channels_last)).float())
        return torch.cat(made)

    train, val = (features(images).clone() for images in (data.x, data.val_x))
    y, val_y = data.y.to(device), data.val_y.to(device)
    head = nn.Linear(head.in_features, head.out_features).to(device)
    nn.init.zeros_(head.weight)
    optimizer = torch.optim.Adam(head.parameters(), lr=given.lr, fused=True)
    accuracy, loss = 0.0, torch.zeros(())
    for _ in range(given.measured_epochs):
        for rows in torch.randperm(len(train), device=device).split(given.batch_size):
            optimizer.zero_grad()
            loss = cross_entropy(head(train[rows].clone()), y[rows])
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            accuracy = (head(val).argmax(1) == val_y).float().mean().item()
    clock.report(accuracy, float(loss))


if __name__ == "__main__":
    main()
