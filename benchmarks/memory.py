"""Peak memory of training at 224 px on more images than the cache may hold.

    .venv/bin/python -m benchmarks.memory [IMAGES …]       default: 100,000; writes results/memory.json

Each run is a command `frostline finetune` of its own on JPEG files of 64 px, enlarged to 224, for an epoch.
The cache's limit is 1 GiB, room for 6,000 images; the others are decoded at each read. Files are hard links
to 2,000 different ones: the work per file is the same.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.peers.loading_common import INTERVAL, rollup_kib

RESULTS = Path(__file__).parent / "results" / "memory.json"
DIFFERENT, CLASSES = 2_000, 10
LIMIT_GIB = 1.0
OVERRIDES = (
    *("dataset=image_folder", "backbone=mlp", "backbone.hidden=[8]", "weights=none", "freeze=full"),
    *("input.size=224", "input.channels=3", "trainer.epochs=1", "trainer.batch_size=64", "trainer.threads=1"),
    *("augment.flip=0.5", "out=run"),
)


def plant(root: Path, images: int) -> None:
    """Write `images` JPEG files into ten class folders."""
    draw = np.random.default_rng(0)
    for number in range(images):
        place = root / str(number % CLASSES)
        place.mkdir(parents=True, exist_ok=True)
        path, original = place / f"{number}.jpg", root / str(number % CLASSES) / f"{number % DIFFERENT}.jpg"
        if number < DIFFERENT:
            coarse = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC).save(path)
        else:
            path.hardlink_to(original)


def measure(images: int) -> dict[str, Any]:
    """Train an epoch; return the memory in MiB: the peak, and at ten times of the run."""
    with tempfile.TemporaryDirectory() as folder:
        plant(Path(folder, "images"), images)
        settings = {
            "FROSTLINE_PIXELS_GIB": str(LIMIT_GIB),
            "FROSTLINE_TRACKING": "off",
            "OMP_NUM_THREADS": "1",
        }
        begun = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "frostline", "finetune", *OVERRIDES, "dataset.root=images"],
            cwd=folder,
            env={**os.environ, **settings},
            stdout=subprocess.DEVNULL,
        )
        curve = []
        while process.poll() is None:
            curve.append(rollup_kib(str(process.pid)) / 1024)
            time.sleep(INTERVAL)
        if process.returncode:
            raise SystemExit(process.returncode)
        pixels = sum(path.stat().st_size for path in Path(folder, ".frostline/pixels").glob("*.npy"))
    deciles = [round(curve[int(share * (len(curve) - 1))]) for share in np.linspace(0.1, 1, 10)]
    return {
        "images": images,
        "pixels_gib": round(images * 3 * 224**2 / 2**30, 2),
        "cached_gib": round(pixels / 2**30, 2),
        "seconds": round(time.perf_counter() - begun),
        "peak_mib": round(max(curve)),
        "curve_mib": deciles,
    }


if __name__ == "__main__":
    found = [measure(images) for images in map(int, sys.argv[1:] or (100_000,))]
    print(*found, sep="\n")
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
