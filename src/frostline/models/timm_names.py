"""Resolve names of timm models: architectures, tags of weights, repositories of the hub, folders."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from frostline.console.errors import FrostlineError, allowed

HUB_SECONDS = 5.0
"""Seconds to wait for the hub before only its cache is used."""
SOURCES = ("hf-hub:", "local-dir:")
"""Prefixes of names whose architecture is read from a config.json."""
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def resolve_name(name: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return the architecture of a name, timm's config of its weights, and further arguments.

    Args:
        name: an architecture, with or without a tag, such as ``resnet18.a1_in1k``; ``hf-hub:owner/name``, or
            ``local-dir:folder``, whose config.json is read.

    Returns:
        The architecture with its tag; size, mean, url and so on; keyword arguments for `timm.create_model`.

    Raises:
        FrostlineError: timm has no such model, or its config.json can't be had.
    """
    if name.startswith(SOURCES):
        return _read_config(name)
    import timm
    from timm.models import get_arch_pretrained_cfgs, get_deprecated_models, get_pretrained_cfg

    architecture, _, tag = name.partition(".")
    if architecture in (renamed := get_deprecated_models()):
        new = renamed[architecture]
        if new and new not in get_arch_pretrained_cfgs(new):
            new = new.partition(".")[0]  # timm names a tag that it does not have
        advice = f"renamed it; set backbone.name={new}" if new else "removed it; choose another model"
        raise FrostlineError(f"backbone.name: {name!r}: timm has {advice}")
    if not timm.is_model(name):
        raise FrostlineError(
            f"backbone.name: timm has no {name!r}; {allowed(architecture, timm.list_models())}"
        )
    tagged = list(get_arch_pretrained_cfgs(name))
    if "." in name and name not in tagged:
        hint = allowed(name, tagged) if tagged else f"it has no weights; set backbone.name={architecture}"
        raise FrostlineError(f"backbone.name: timm has no weights {tag!r} of {architecture}; {hint}")
    config = get_pretrained_cfg(name)
    return name, config.to_dict() if config else {"input_size": (3, 224, 224)}, {}


@lru_cache
def _read_config(name: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Read a config.json from the hub, its cache or a folder."""
    import timm
    from timm.models import load_model_config_from_hf
    from timm.models._hub import load_model_config_from_path

    source, _, place = name.partition(":")
    if source == "hf-hub" and not _REPOSITORY.fullmatch(place):
        raise FrostlineError(f"backbone.name: {name!r} names no repository; write hf-hub:owner/name")
    try:
        with offline_if_unreachable():
            load = load_model_config_from_hf if source == "hf-hub" else load_model_config_from_path
            config, architecture, arguments = load(place)
    except Exception as error:
        raise FrostlineError(
            f"backbone.name: the config.json of {name} can't be read ({first_sentence(error)}); check the"
            " name and the connection, or choose one of timm's own models, such as backbone.name=resnet18"
        ) from None
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise FrostlineError(
            f"backbone.name: the config.json of {name} names the architecture {architecture!r}, which timm"
            " does not have; choose a repository that was made with timm"
        )
    return architecture, {"input_size": (3, 224, 224), **config}, dict(arguments or {})


def first_sentence(error: Exception) -> str:
    """Return the first sentence of an error's message, or the name of its class."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__).split(". ")[0].rstrip(".")[:200]


@contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Use only the cache if the Hugging Face hub is unreachable.

    Its client would try each file that timm requests six times, which takes a minute.
    """
    from huggingface_hub import constants, get_session

    offline = constants.HF_HUB_OFFLINE
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except Exception:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
