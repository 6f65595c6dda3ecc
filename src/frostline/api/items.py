"""Sequences of what a call returns: predictions, runs, mistakes."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TypeVar, overload

ItemT = TypeVar("ItemT")


class Items(Sequence[ItemT]):
    """A sequence of a tuple's items."""

    @property
    @abstractmethod
    def _items(self) -> tuple[ItemT, ...]:
        """The items."""

    @overload
    def __getitem__(self, place: int) -> ItemT: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[ItemT]: ...
    def __getitem__(self, place: int | slice) -> ItemT | Sequence[ItemT]:
        return self._items[place]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[ItemT]:
        return iter(self._items)
