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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from torch import nn

from frostline.errors import FrostlineError, allowed

# timm.models._manipulate.MATCH_PREV_GROUP: a spec with this suffix joins the group before it.
JOINS_PREVIOUS = 99999
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
        model: any module; timm's `group_matcher` and `get_classifier` are used where it has them.

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
    stage = dict(_grouped(body, _matcher(model, coarse=True)))
    block = dict(_grouped(body, _matcher(model, coarse=False)))
    # A neck (a last norm, say) that the matcher leaves out is part of the last stage.
    stages = max((s for s in stage.values() if s is not None), default=-1) + 1
    blocks = max((b for b in block.values() if b is not None), default=-1) + 1

    def place(name: str) -> Place:
        common = {"norm": name in norms, "bias": name.rpartition(".")[2].endswith("bias")}
        if name in head:
            return Place(stage=None, block=None, depth=blocks + 1, head=True, **common)
        s, b = stage[name], block[name]
        return Place(stage=s, block=b, depth=0 if b is None else b + 1, head=False, **common)

    return Layers({name: place(name) for name in tensors}, frozenset(names), stages, blocks)


def _norm_tensors(model: nn.Module) -> Iterator[str]:
    for prefix, module in model.named_modules():
        if "Norm" in type(module).__name__ or isinstance(module, nn.modules.batchnorm._NormBase):
            for name, _ in chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False)):
                yield f"{prefix}.{name}" if prefix else name


def _head(model: nn.Module, names: Sequence[str]) -> set[str]:
    """The classifier's parameters: as the model says, else its last module that has any."""
    getter = getattr(model, "get_classifier", None)
    if callable(getter):
        found = getter()
        modules = [
            m for m in (found if isinstance(found, (tuple, list)) else [found]) if isinstance(m, nn.Module)
        ]
        inside = {id(p) for m in modules for p in m.parameters()}
        if inside:
            return {name for name, p in model.named_parameters() if id(p) in inside}
    last = names[-1].rpartition(".")[0]
    return {name for name in names if name.rpartition(".")[0] == last}


Key = tuple[float, ...]


def _matcher(model: nn.Module, coarse: bool) -> Callable[[str], Key | None]:
    """Name → sort key: (0,) is the stem, None is unmatched."""
    matcher: Any = getattr(model, "group_matcher", None)
    if matcher is None:
        return _own_order(model, coarse)
    spec: Any = matcher(coarse=coarse)
    if callable(spec):
        return lambda name: (1.0, float(spec(name)))
    # The stem comes first in every family; in a model without one the blocks start at 1.
    rules: list[tuple[re.Pattern[str], int, tuple[Any, ...]]] = []
    for ordinal, (group, patterns) in enumerate(spec.items()):
        rank = 0 if group == "stem" else ordinal + 1
        for pattern, suffix in [(patterns, None)] if isinstance(patterns, str) else patterns or []:
            rules.append((re.compile(pattern), rank, suffix or ()))

    def key(name: str) -> Key | None:
        for pattern, rank, suffix in rules:
            if found := pattern.match(name):
                numbers = chain(found.groups(), suffix)
                return (float(rank), *(float(n) for n in numbers if n is not None))
        return None

    return key


def _own_order(model: nn.Module, coarse: bool) -> Callable[[str], Key | None]:
    """Stages are the model's children in the order they were registered; blocks are their children."""
    order: dict[str, int] = {}

    def prefix(name: str) -> str:
        return ".".join(name.split(".")[:-1][: 1 if coarse else 2])

    for name, _ in model.named_parameters():
        order.setdefault(prefix(name), len(order))
    return lambda name: (1.0, float(order[prefix(name)])) if prefix(name) in order else None


def _grouped(names: Iterable[str], key: Callable[[str], Key | None]) -> Iterator[tuple[str, int | None]]:
    """Number the groups that the keys form: None the stem, then 0, 1, …; what has no key joins the last."""
    keys = {name: key(name) for name in names}
    number: dict[Key, int | None] = {}
    count = 0
    for k in sorted({k for k in keys.values() if k is not None}):
        if k[0] == 0 and (len(k) == 1 or count == 0):
            number[k] = None
        elif k[-1] == JOINS_PREVIOUS and count > 0:
            number[k] = count - 1
        else:
            number[k] = count
            count += 1
    last = count - 1 if count else None
    for name, found in keys.items():
        yield name, last if found is None else number[found]
