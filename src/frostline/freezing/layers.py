"""Parameter names → places in the network, from input to head, named alike for every family.

timm's models say how their parameters group, by regular expressions on names (`group_matcher`); a model that
does not say is taken in the order of its own children. Either way each tensor gets one `Place`; patterns pick
places:

    head            what the task replaces
    stem            what comes before the first stage
    stage:2         a stage; counted from the input, negative from the head; ranges stage:1..2, stage:-2..
    block:-1        a block, likewise
    norm, bias      the tensors of normalisation layers; biases
    re:REGEX        names that the regular expression is found in
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
# LayerNorm2d, BatchNormAct2d, GroupNorm1, RmsNorm …, and Affine, which ResMLP has in their place.
# NormFreeBlock is none.
NORM = re.compile("Norm(?!Free)|^Affine$")
# Also LSTM's, bias_hh_l0.
BIAS = re.compile(r"bias(_[hi]h_l\d+(_reverse)?)?$")
LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
PATTERNS = ("head", "stem", "stage:i", "block:i", "norm", "bias", "re:…", "*")


@dataclass(frozen=True)
class Place:
    """Where a tensor lies."""

    stage: int | None
    """Stage, 0 at the input; None in stem and head."""
    block: int | None
    """Block, 0 at the input, counted through all stages; None in stem and head."""
    depth: int
    """Layers before it: 0 in the stem, 1 … in the blocks, largest in the head. Layer decay counts these."""
    head: bool
    norm: bool
    bias: bool


@dataclass(frozen=True)
class Layers:
    """A network's parameters and running statistics, each in its place."""

    places: Mapping[str, Place]
    """Name → place, for every parameter and every buffer of a normalisation layer, in the model's order."""
    parameters: frozenset[str]
    stages: int
    blocks: int

    @property
    def depth(self) -> int:
        """The head's depth: the largest there is."""
        return max(place.depth for place in self.places.values())

    def match(self, pattern: str) -> frozenset[str]:
        """Return the names of the tensors that `pattern` means; may be empty.

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
    """Return `model`'s layers.

    Args:
        model: any module; what timm's models say of themselves (`group_matcher`, `get_classifier`, the
            classifier in `pretrained_cfg`) is used where it has it.

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
    says = hasattr(model, "group_matcher")
    coarse, fine = (
        _matcher(model, coarse) if says else _own_order(model, coarse, head, body, norms)
        for coarse in (True, False)
    )
    stage = _numbered(body, coarse, norms, dict.fromkeys(body))
    block = _numbered(body, fine, norms, stage)
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
    """What the number of classes changes: as the model says, else its last module that has parameters.

    timm leaves `pretrained_cfg["classifier"]` out when it loads weights for other classes. `get_classifier`
    may return more than that (LeViT's norm, CAFormer's hidden layer) or less (one of VOLO's two heads). An
    encoder without a classifier has no head.
    """
    cfg = getattr(model, "pretrained_cfg", None)
    said = (cfg or {}).get("classifier") or ()
    dropped = tuple(f"{module}." for module in ([said] if isinstance(said, str) else said))
    named = {name for name in names if name.startswith(dropped)}
    found = getattr(model, "get_classifier", lambda: None)()
    modules = [
        m for m in (found if isinstance(found, (tuple, list)) else [found]) if isinstance(m, nn.Module)
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
    """The groups that the model says, as `timm.models._manipulate.group_with_matcher` reads them."""
    try:
        spec: Any = model.group_matcher(coarse=coarse)
    except AssertionError:  # RDNet has one granularity.
        spec = model.group_matcher(coarse=False)
    if callable(spec):

        def ordinal(name: str) -> Key | None:
            value = float(spec(name))
            return None if isinf(value) else (float(value > 0), value)

        return ordinal
    # The stem comes first in every family; in a model without one the blocks start at 1.
    rules: list[tuple[re.Pattern[str], int, tuple[Any, ...]]] = []
    for position, (group, patterns) in enumerate(spec.items()):
        rank = 0 if group in STEMS else position + 1
        for pattern, suffix in [(patterns, None)] if isinstance(patterns, str) else patterns or []:
            rules.append((re.compile(pattern), rank, suffix or ()))

    def key(name: str) -> Key | None:
        for pattern, rank, suffix in rules:
            if found := pattern.match(name):
                numbers = chain(found.groups(), suffix)
                return (float(rank), *(float(n) for n in numbers if n is not None))
        return None

    return key


def _own_order(model: nn.Module, coarse: bool, head: Set[str], body: Sequence[str], norms: Set[str]) -> KeyOf:
    """Stages, or blocks, in the order in which the model registers them.

    The model's children are its stages, theirs the blocks. Where just one child is a list of several layers,
    its entries take its place; before it comes the stem, or what a stage's first block begins with. The rest
    of the child that holds the head is a neck.
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
        found = next((order[prefix] for prefix in within if prefix in order), None)
        return found or (None if name.startswith(neck) else (0,))

    return key


def _numbered(
    names: Iterable[str], key: KeyOf, norms: Set[str], within: Mapping[str, int | None]
) -> dict[str, int | None]:
    """Number the groups that the keys form: None the stem, then 0, 1, …

    A group of nothing but normalisation (an entry of a list of layers) joins the one before it, and what has
    no key (a neck, say) the last one, both inside their part of `within`.
    """
    groups: dict[Key | None, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    rest = groups.pop(None, [])
    number: dict[str, int | None] = {}
    last: dict[int | None, int | None] = {}
    count = 0
    for k in sorted(k for k in groups if k is not None):
        part = within[groups[k][0]]
        joins = part in last and (k[-1] == JOINS_PREVIOUS or norms >= set(groups[k]))
        if k[0] == 0:
            last[part] = None
        elif not joins:
            last[part] = count
            count += 1
        number.update(dict.fromkeys(groups[k], last[part]))
    return number | {name: last.get(within[name], count - 1 if count else None) for name in rest}
