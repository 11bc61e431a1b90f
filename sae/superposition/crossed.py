"""Units that cross a count with a width, such as "3 tasks, width 16"; their names hold both numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence


def crossed_unit(count: int, what: str, width: int) -> str:
    """Name of one unit.

    Args:
        count: How many of them.
        what: Of what, in the plural.
        width: Hidden units.
    """
    return f"{count} {what}, width {width}"


def crossed_units(counts: Sequence[int], what: str, widths: Sequence[int]) -> list[str]:
    """Names of all units, width by width within each count."""
    return [crossed_unit(count, what, width) for count in counts for width in widths]


def count_and_width(unit: str) -> tuple[int, int]:
    """The numbers in a unit's name."""
    count, width = re.findall(r"\d+", unit)
    return int(count), int(width)
