"""Calls that a type checker accepts, and mistakes that it finds; test_types.py checks this file with mypy."""

from pathlib import Path

import numpy as np
from PIL import Image

import frostline as fl


def calls() -> None:
    run = fl.finetune("photos", backbone="efficientnet_lite0", weights="imagenet", freeze="gradual")
    fl.finetune(Path("photos"), epochs=3, lr=1e-3, batch_size=8, seed=1, out=Path("out"), force=True)
    fl.finetune(experiment="article_mlp", overrides=["trainer.epochs=3"])
    fl.finetune(overrides={"optimizer.weight_decay": 0.1, "backbone.hidden": [16, 8]})
    accuracy: float = run.metrics["test"]["accuracy"]
    curve: list[float | int | None] = run.history["val/accuracy"]
    first: float | int | None = run.history[0]["epoch"]
    prediction: fl.Run = fl.load("runs/one")
    label: str | None = run.predict([Image.new("L", (8, 8)), np.zeros((8, 8), np.uint8), "a.jpg"])[0].label
    share: float = run.predict("photos")[0].probabilities["cat"]
    other: float = run.evaluate("photos_b", out="b", overrides={"dataset.on_bad_image": "skip"})["accuracy"]
    parameters: int = sum(parameter.numel() for parameter in run.network.parameters())
    best: fl.Run = fl.sweep("photos", freeze=["full", "gradual"], seed=[0, 1], lr=[1e-3]).best
    fl.sweep("photos", sweep="tpe", overrides=["pretrain.optimizer.lr=interval(1e-4,1e-1)"], stage="pretrain")
    text: str = fl.compare(run, "runs/two", Path("runs/three")).markdown()
    fl.compare(study="mine", metrics=["test/accuracy"])
    svg: bytes = fl.plan("digits", images=100, classes=3).svg()
    rate: float = fl.lr_find("digits", steps=50).lr
    shown: int = len(fl.show("digits", count=3, augment="light"))
    probe: fl.Run = fl.probe("digits", lr=[1e-3, 1e-2]).run
    print(
        accuracy,
        other,
        curve,
        first,
        prediction,
        label,
        share,
        parameters,
        best,
        text,
        svg,
        rate,
        shown,
        probe,
    )
    verdict: str = fl.report(Path("artifacts")).verdict
    print(verdict)
    print(fl.pretrain("mnist5k", epochs=1).mistakes(3), run.history.svg(), run.export("model.pt2").suffix)


def mistakes() -> None:
    fl.finetune("photos", bakbone="resnet18")  # type: ignore[call-arg]
    fl.finetune("photos", epochs="3")  # type: ignore[arg-type]
    fl.finetune(3)  # type: ignore[arg-type]
    fl.finetune("photos", freeze=["full", "gradual"])  # type: ignore[arg-type]
    fl.sweep("photos", stage="evaluate")  # type: ignore[arg-type]
    fl.load()  # type: ignore[call-arg]
    fl.plan("photos", images="many")  # type: ignore[arg-type]
    fl.compare(3)  # type: ignore[arg-type]
    print(fl.finetune("photos").metric)  # type: ignore[attr-defined]
    fl.fine_tune("photos")  # type: ignore[attr-defined]
