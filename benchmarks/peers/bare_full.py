"""Full fine-tuning in a loop of one's own, in the precision and memory layout that are the fastest here.

Which they are is tried before the clock starts: a few steps of each combination.
"""

import itertools
import time

import torch
from torch.nn.functional import cross_entropy

from benchmarks.peers import common

STEPS = 3


def main() -> None:
    given = common.settings()
    common.pin(given.threads)
    data = common.tensors(given.arrays)
    device = torch.device(given.device)

    def begin(layout: torch.memory_format):
        network = common.timm_network(given.model, given.arrays, data.classes)
        network = network.to(device, memory_format=layout)
        return network, torch.optim.Adam(network.parameters(), lr=given.lr, fused=True)

    def step(network, optimizer, x, y, bf16: bool) -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def seconds(bf16: bool, layout: torch.memory_format) -> float:
        network, optimizer = begin(layout)
        x = data.x[: given.batch_size].to(device, memory_format=layout)
        y = data.y[: given.batch_size].to(device)
        taken = []
        for _ in range(STEPS):
            begun = time.perf_counter()
            step(network, optimizer, x, y, bf16).item()
            taken.append(time.perf_counter() - begun)
        return min(taken)

    combinations = itertools.product((False, True), (torch.contiguous_format, torch.channels_last))
    bf16, layout = min(combinations, key=lambda each: seconds(*each))
    x, val_x = (images.to(memory_format=layout) for images in (data.x, data.val_x))

    clock = common.Clock()
    torch.manual_seed(0)
    network, optimizer = begin(layout)
    accuracy = mean_loss = None
    for _ in range(given.measured_epochs):
        clock.epoch_begins()
        network.train()
        losses = []
        for rows in torch.randperm(len(x)).split(given.batch_size):
            batch = x[rows].to(device, memory_format=layout)
            losses.append(step(network, optimizer, batch, data.y[rows].to(device), bf16))
        network.eval()
        hits = torch.zeros((), device=device)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            for batch, labels in zip(
                val_x.split(given.eval_batch_size), data.val_y.split(given.eval_batch_size), strict=True
            ):
                logits = network(batch.to(device, memory_format=layout))
                hits += (logits.argmax(1) == labels.to(device)).sum()
        accuracy, mean_loss = (hits / len(val_x)).item(), torch.stack(losses).mean().item()
        clock.epoch_ends()
    chosen = f"{'bf16' if bf16 else 'fp32'}, {str(layout).removeprefix('torch.').replace('_', '-')}"
    clock.report(accuracy, mean_loss, chosen=chosen)


if __name__ == "__main__":
    main()
