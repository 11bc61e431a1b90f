"""Shapes of draft trees that are settled before anything is drafted.

A slot is named by ranks from the root down: (0, 2) is the third child of the first child. Which tokens
come to stand in the slots is the drafter's business; since the shape does not depend on them, any
acceptance rule stays exact.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...probes.errors import OptionError

Slot = tuple[int, ...]


@dataclass(frozen=True)
class Shape:
    """Slots of a tree, level by level, siblings in the order of their ranks.

    Raises:
        OptionError: A slot's parent or an earlier sibling is missing or stands behind it.
    """

    slots: tuple[Slot, ...]

    def __post_init__(self) -> None:
        seen: set[Slot] = {()}
        for slot in self.slots:
            before = slot[:-1] if not slot or slot[-1] == 0 else (*slot[:-1], slot[-1] - 1)
            if not slot or slot in seen or before not in seen:
                raise OptionError(
                    f"Slot {slot} of a shape must come once, behind its parent and earlier siblings."
                )
            seen.add(slot)
        if list(self.slots) != sorted(self.slots, key=lambda slot: (len(slot), slot)):
            raise OptionError("Slots of a shape must stand level by level, in the order of ranks.")

    @classmethod
    def of(cls, slots: Sequence[Slot]) -> Shape:
        """The shape of slots in any order."""
        return cls(tuple(sorted(slots, key=lambda slot: (len(slot), slot))))

    @classmethod
    def constant(cls, branching: Sequence[int]) -> Shape:
        """Every node of a level has the same number of children."""
        level: list[Slot] = [()]
        slots: list[Slot] = []
        for width in branching:
            level = [(*slot, rank) for slot in level for rank in range(width)]
            slots += level
        return cls(tuple(slots))

    @classmethod
    def likeliest(cls, acceptance: Sequence[float], size: int, depth: int) -> Shape:
        """The slots reached most often, if a node's child of rank r is accepted with `acceptance[r]`.

        Args:
            acceptance: By rank; must not increase.
            size: Slots.
            depth: Deepest level.
        """
        heap: list[tuple[float, Slot]] = [(-acceptance[0], (0,))]
        slots: list[Slot] = []
        while heap and len(slots) < size:
            value, slot = heapq.heappop(heap)
            slots.append(slot)
            rank = slot[-1]
            if rank + 1 < len(acceptance) and acceptance[rank] > 0:
                sibling = value / acceptance[rank] * acceptance[rank + 1]
                heapq.heappush(heap, (sibling, (*slot[:-1], rank + 1)))
            if len(slot) < depth:
                heapq.heappush(heap, (value * acceptance[0], (*slot, 0)))
        return cls.of(slots)

    @classmethod
    def best(cls, counts: Mapping[Slot, int], size: int) -> Shape:
        """The slots that were accepted most often, moved up where earlier siblings fell out.

        Args:
            counts: How often each slot was accepted; an ancestor at least as often as its descendants.
            size: Slots to keep at most.
        """
        order = sorted(counts, key=lambda slot: (-counts[slot], len(slot), slot))
        kept = sorted(order[:size], key=lambda slot: (len(slot), slot))
        moved: dict[Slot, Slot] = {(): ()}
        filled: dict[Slot, int] = {}
        for slot in kept:
            parent = moved[slot[:-1]]
            rank = filled.get(parent, 0)
            filled[parent] = rank + 1
            moved[slot] = (*parent, rank)
        return cls.of([slot for slot in moved.values() if slot])

    @classmethod
    def from_array(cls, array: np.ndarray) -> Shape:
        """The shape that `array` gave.

        Raises:
            OptionError: It is none.
        """
        rows = np.asarray(array)
        if rows.ndim != 2:
            raise OptionError(f"A stored shape must have two axes, got {rows.ndim}.")
        return cls.of([tuple(int(rank) for rank in row if rank >= 0) for row in rows])

    def array(self) -> np.ndarray:
        """One row of ranks per slot, filled up with -1."""
        rows = np.full((len(self), self.depth), -1, dtype=np.int16)
        for row, slot in zip(rows, self.slots, strict=True):
            row[: len(slot)] = slot
        return rows

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def depth(self) -> int:
        """Deepest level; 0 without slots."""
        return len(self.slots[-1]) if self.slots else 0

    @cached_property
    def n_children(self) -> dict[Slot, int]:
        """Children of every slot that has any, the root's under ()."""
        found: dict[Slot, int] = {}
        for slot in self.slots:
            found[slot[:-1]] = found.get(slot[:-1], 0) + 1
        return found

    @property
    def level_sizes(self) -> list[int]:
        """Slots of each level."""
        return np.bincount([len(slot) for slot in self.slots])[1:].tolist() if self.slots else []
