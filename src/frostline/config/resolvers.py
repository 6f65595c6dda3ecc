"""Defaults in conf/ that depend on other keys, as resolvers of OmegaConf; `yaml_guard` lists them, too."""

from omegaconf import OmegaConf

from frostline.base.processes import cores


def fitting_threads(backbone: str) -> int:
    """Return `trainer.threads` for a kind of backbone."""
    return 1 if backbone == "mlp" else cores()


def fitting_monitor(loss: str) -> str:
    """Return `trainer.monitor` for a kind of loss."""
    return "val/mAP" if loss == "bce" else "val/accuracy"


def register() -> None:
    """Make the resolvers known to OmegaConf; again is no error."""
    for resolver in (fitting_threads, fitting_monitor):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
