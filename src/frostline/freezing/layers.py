"""The places of tensors in a network, from input to head, with the same names for every architecture.

timm models group their parameters by regular expressions on names (`group_matcher`). Other models are grouped
in the order of their children. Each tensor gets one `Place`. Patterns select tensors by their places:

    head            the classifier, which depends on the task
    stem            everything before the first stage
    stage:2         the third stage: counted from 0 at the input; negative: from the head, -1 is the last;
                    ranges stage:1..2, stage:-2..
    block:-1        a block, counted likewise
    norm, bias      the tensors of normalization layers; biases
    re:REGEX        tensors whose names contain a match of the regular expression
    *               everything
    A - B           A without B
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import chain
from math import isinf
from typing import Any

from torch import nn

from frostline.console.errors import FrostlineError, allowed

# timm.models._manipulate.MATCH_PREV_GROUP: a spec with this suffix joins the group before it.
JOINS_PREVIOUS = 99999
STEMS = ("stem", "stem1")  # CoaT has four, each before its stage
# LayerNorm2d, BatchNormAct2d, GroupNorm1, RmsNorm …, and ResMLP's Affine, but not NormFreeBlock.
NORM = re.compile("Norm(?!Free)|^Affine$")
# Also those of LSTMs, such as bias_hh_l0.
BIAS = re.compile(r"bias(_[hi]h_l\d+(_reverse)?)?$")
LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
PATTERNS = ("head", "stem", "stage:i", "block:i", "norm", "bias", "re:…", "*")


@dataclass(frozen=True)
class Place:
    """Place of a tensor in the network."""

    stage: int | None
    """Stage, 0 at the input; None in stem and head."""
    block: int | None
    """Block, 0 at the input, counted through all stages; None in stem and head."""
    depth: int
    """Number of layers before it, for layer decay: 0 in the stem, 1 … in the blocks, largest in the head."""
    head: bool
    norm: bool
    bias: bool


@dataclass(frozen=True)
class Layers:
    """The parameters and running statistics of a network, with their places."""

    places: Mapping[str, Place]
    """Name → place, for every parameter and every buffer of a normalization layer, in model order."""
    parameters: frozenset[str]
    stages: int
    blocks: int

    @property
    def head_depth(self) -> int:
        """Depth of the head, the largest of all."""
        return max(place.depth for place in self.places.values())

    def match(self, pattern: str) -> frozenset[str]:
        """Return the names of the tensors that `pattern` selects; may be empty.

        Raises:
            FrostlineError: there is no such pattern, stage or block.
        """
        wanted, *unwanted = (self._match_one(part.strip()) for part in pattern.split(" - "))
        return wanted.difference(*unwanted)

    def _match_one(self, pattern: str) -> frozenset[str]:
        return frozenset(name for name, place in self.places.items() if self._test(pattern)(name, place))

    def _test(self, pattern: str) -> Callable[[str, Place], bool]:
        kind, colon, rest = pattern.partition(":")
        match kind, bool(colon):
            case "*", False:
                return lambda name, place: True
            case "head", False:
                return lambda name, place: place.head
            case "stem", False:
                return lambda name, place: place.stage is None and not place.head
            case "norm", False:
                return lambda name, place: place.norm
            case "bias", False:
                return lambda name, place: place.bias
            case "stage", True:
                stages = self._span(pattern, rest, self.stages, "stages")
                return lambda name, place: place.stage in stages
            case "block", True:
                blocks = self._span(pattern, rest, self.blocks, "blocks")
                return lambda name, place: place.block in blocks
            case "re", True:
                try:
                    expression = re.compile(rest)
                except re.error as error:
                    raise FrostlineError(f"{pattern!r} is not a regular expression: {error}") from None
                return lambda name, place: expression.search(name) is not None
        raise FrostlineError(f"no layers are called {pattern!r}; {allowed(pattern, PATTERNS)}")

    def _span(self, pattern: str, text: str, count: int, what: str) -> range:
        parsed = re.fullmatch(r"(-?\d+)(\.\.(-?\d+)?)?", text)
        if parsed is None:
            raise FrostlineError(
                f"{pattern!r} is not a range of {what};"
                f" write {what[:-1]}:2, {what[:-1]}:-1 or {what[:-1]}:1..2"
            )
        first = int(parsed[1])
        last = first if not parsed[2] else int(parsed[3]) if parsed[3] else count - 1
        first, last = (i + count if i < 0 else i for i in (first, last))
        if not 0 <= first <= last < count:
            raise FrostlineError(
                f"{pattern!r}: the network has {count} {what}, {what[:-1]}:0 to {what[:-1]}:{count - 1}"
            )
        return range(first, last + 1)


def layers_of(model: nn.Module) -> Layers:
    """Return the layers of `model`.

    Args:
        model: any module; timm's `group_matcher`, `get_classifier` and the classifier in `pretrained_cfg` are
            used if it has them.

    Raises:
        FrostlineError: the model has no parameters.
    """
    names = [name for name, _ in model.named_parameters()]
    if not names:
        raise FrostlineError("the network has no parameters, so there is nothing to freeze or train")
    norms = set(_norm_tensors(model))
    tensors = names + [name for name, _ in model.named_buffers() if name in norms]
    head = _head(model, names)
    body = [name for name in tensors if name not in head]
    has_matcher = hasattr(model, "group_matcher")
    coarse, fine = (
        _matcher(model, coarse) if has_matcher else _registration_order(model, coarse, head, body, norms)
        for coarse in (True, False)
    )
    stage = _number_groups(body, coarse, norms, dict.fromkeys(body))
    block = _number_groups(body, fine, norms, stage)
    stages, blocks = (max((n for n in of.values() if n is not None), default=-1) + 1 for of in (stage, block))

    def place(name: str) -> Place:
        common = {"norm": name in norms, "bias": BIAS.search(name) is not None}
        if name in head:
            return Place(stage=None, block=None, depth=blocks + 1, head=True, **common)
        s, b = stage[name], block[name]
        return Place(stage=s, block=b, depth=0 if b is None else b + 1, head=False, **common)

    return Layers({name: place(name) for name in tensors}, frozenset(names), stages, blocks)


def _norm_tensors(model: nn.Module) -> Iterator[str]:
    for prefix, module in model.named_modules():
        if any(NORM.search(ancestor.__name__) for ancestor in type(module).__mro__):
            for name, _ in chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False)):
                yield f"{prefix}.{name}" if prefix else name


def _head(model: nn.Module, names: Sequence[str]) -> set[str]:
    """Return the tensors of the classifier: those that the model names, else its last module with parameters.

    timm omits `pretrained_cfg["classifier"]` when it loads weights for other classes. `get_classifier` may
    return more (LeViT's norm, CAFormer's hidden layer) or less (one of VOLO's two heads). An encoder without
    a classifier has no head.
    """
    cfg = getattr(model, "pretrained_cfg", None)
    in_cfg = (cfg or {}).get("classifier") or ()
    prefixes = tuple(f"{module}." for module in ([in_cfg] if isinstance(in_cfg, str) else in_cfg))
    named = {name for name in names if name.startswith(prefixes)}
    classifier = getattr(model, "get_classifier", lambda: None)()
    modules = [
        m
        for m in (classifier if isinstance(classifier, (tuple, list)) else [classifier])
        if isinstance(m, nn.Module)
    ]
    if cfg is None and not modules:
        last = names[-1].rpartition(".")[0]
        return {name for name in names if name.rpartition(".")[0] == last}
    whole: list[str] = []
    for module in modules:
        ids = {id(p) for p in module.parameters()}
        inside = {name for name, p in model.named_parameters() if id(p) in ids}
        whole += inside if named.isdisjoint(inside) else ()
    return named.union(whole)


Key = tuple[float, ...]
KeyOf = Callable[[str], Key | None]
"""Name → sort key; (0, …) is the stem, None belongs to no group."""


def _matcher(model: Any, coarse: bool) -> KeyOf:
    """Return the model's own grouping, read as `timm.models._manipulate.group_with_matcher` does."""
    try:
        spec: Any = model.group_matcher(coarse=coarse)
    except AssertionError:  # RDNet has one granularity.
        spec = model.group_matcher(coarse=False)
    if callable(spec):

        def ordinal(name: str) -> Key | None:
            value = float(spec(name))
            return None if isinf(value) else (float(value > 0), value)

        return ordinal
    # Sort keys: rank 0 is the stem, and every other group has its position in the spec, from 1.
    rules: list[tuple[re.Pattern[str], int, tuple[Any, ...]]] = []
    for position, (group, patterns) in enumerate(spec.items()):
        rank = 0 if group in STEMS else position + 1
        for pattern, suffix in [(patterns, None)] if isinstance(patterns, str) else patterns or []:
            rules.append((re.compile(pattern), rank, suffix or ()))

    def key(name: str) -> Key | None:
        for pattern, rank, suffix in rules:
            if match := pattern.match(name):
                numbers = chain(match.groups(), suffix)
                return (float(rank), *(float(n) for n in numbers if n is not None))
        return None

    return key


def _registration_order(
    model: nn.Module, coarse: bool, head: Set[str], body: Sequence[str], norms: Set[str]
) -> KeyOf:
    """Return the sort key of each tensor: stages, or blocks, in the order in which the model registers them.

    The model's children are its stages, and their children the blocks. If exactly one child is a list of
    several layers, its entries replace it, and everything before it is the stem, or part of a stage's first
    block. The rest of the child that contains the head is the neck.
    """
    neck = tuple({name.split(".")[0] + "." for name in head})

    def children(prefix: str, names: Iterable[str] = body) -> list[str]:
        depth = prefix.count(".") + 1
        inside = (name.split(".") for name in names if name.startswith(prefix))
        return list(dict.fromkeys(".".join(parts[:depth]) + "." for parts in inside if len(parts) > depth))

    def is_list(prefix: str) -> bool:
        several = len(children(prefix, (name for name in body if name not in norms))) > 1
        return several and isinstance(model.get_submodule(prefix[:-1]), LISTS)

    def units(prefix: str) -> list[str]:
        inside = children(prefix)
        lists = [i for i, child in enumerate(inside) if is_list(child)]
        if len(lists) == 1:
            after = inside[lists[0] + 1 :]
            return children(inside[lists[0]]) + [child for child in after if child not in neck]
        return inside if not prefix or is_list(prefix) else []

    order: dict[str, Key] = {}
    for i, stage in enumerate(units("")):
        order[stage] = (1, i, 0)
        order |= {} if coarse else {block: (1, i, j) for j, block in enumerate(units(stage))}

    def key(name: str) -> Key | None:
        parts = name.split(".")[:-1]
        within = (".".join(parts[:n]) + "." for n in range(len(parts), 0, -1))
        unit = next((order[prefix] for prefix in within if prefix in order), None)
        return unit or (None if name.startswith(neck) else (0,))

    return key


def _number_groups(
    names: Iterable[str], key: KeyOf, norms: Set[str], stage_of: Mapping[str, int | None]
) -> dict[str, int | None]:
    """Number the groups of tensors with equal keys: None for the stem, then 0, 1, …

    A group that only has normalization layers, or whose key ends in `JOINS_PREVIOUS`, joins the group before
    it; tensors without a key, such as a neck, join the last group. Neither joins a group of another stage.

    Args:
        stage_of: tensor → its stage, when blocks are numbered; the same value for all when stages are.
    """
    groups: dict[Key | None, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    rest = groups.pop(None, [])
    number: dict[str, int | None] = {}
    last: dict[int | None, int | None] = {}
    count = 0
    for k in sorted(k for k in groups if k is not None):
        part = stage_of[groups[k][0]]
        joins = part in last and (k[-1] == JOINS_PREVIOUS or norms >= set(groups[k]))
        if k[0] == 0:
            last[part] = None
        elif not joins:
            last[part] = count
            count += 1
        number.update(dict.fromkeys(groups[k], last[part]))
    return number | {name: last.get(stage_of[name], count - 1 if count else None) for name in rest}
