"""The articles' MLP in a loop of one's own: tensors in memory, no DataLoader, no metrics while it trains."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.peers import common


def main() -> None:
    given = common.settings()
    common.pin(given.threads)
    data = common.tensors(given.arrays)
    device = torch.device(given.device)
    x, y, val_x, val_y = (t.to(device) for t in (data.x, data.y, data.val_x, data.val_y))
    clock = common.Clock()
    pixels = x[0].numel()
    model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 64), nn.ReLU(), nn.Linear(64, data.classes)).to(
        device
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=given.lr, fused=given.fused)
    accuracy, loss = 0.0, torch.zeros(())
    for _ in range(given.measured_epochs):
        clock.epoch_begins()
        model.train()
        for rows in torch.randperm(len(x), device=device).split(given.batch_size):
            optimizer.zero_grad()
            loss = cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            logits = torch.cat([model(batch) for batch in val_x.split(given.eval_batch_size)])
            accuracy = (logits.argmax(1) == val_y).float().mean().item()
        clock.epoch_ends()
    clock.report(accuracy, float(loss))


if __name__ == "__main__":
    main()
