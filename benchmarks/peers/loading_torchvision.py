"""torchvision's ImageFolder and torch's DataLoader, as in torchvision's own training scripts."""

import time
from pathlib import Path

from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from benchmarks.peers import common, loading_common


def main() -> None:
    given = loading_common.settings()
    common.pin(given.threads)
    begun = time.perf_counter()
    files = Path(given.folder) / "train"
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(given.pixels, scale=(loading_common.CROP, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    loader = DataLoader(
        datasets.ImageFolder(str(files), transform),
        batch_size=given.batch_size,
        shuffle=True,
        num_workers=given.threads,
        persistent_workers=True,
    )
    loading_common.measure(given, lambda number: loader, files, begun)


if __name__ == "__main__":
    main()
