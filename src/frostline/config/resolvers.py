"""Defaults in conf/ that depend on other keys, as resolvers of OmegaConf; `yaml_guard` lists them, too."""

from omegaconf import DictConfig, Node, OmegaConf

from frostline.base.processes import cores


def fitting_threads(backbone: str, *, _node_: Node, _root_: DictConfig) -> int:
    """Return `trainer.threads` for a kind of backbone; for the pretraining, that of the fine-tuning."""
    if str(_node_._get_full_key(None)).startswith("pretrain."):
        return int(_root_.trainer.threads)
    return 1 if backbone == "mlp" else cores()


def fitting_monitor(loss: str) -> str:
    """Return `trainer.monitor` for a kind of loss."""
    return "val/mAP" if loss == "bce" else "val/accuracy"


def register() -> None:
    """Make the resolvers known to OmegaConf; again is no error."""
    for resolver in (fitting_threads, fitting_monitor):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
