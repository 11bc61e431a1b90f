"""Where a run came from: enough to reproduce it, nothing that names a user, host or path."""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePath
from typing import Any

IDENTITY = ("model", "corpus", "sites", "settings")
"""Fields that must agree for a run to be resumed."""


def _version() -> str:
    try:
        return version("fluoroscope")
    except PackageNotFoundError:
        return "unknown"


def _command() -> list[str]:
    """The command line with paths cut to their last part."""
    return [
        PurePath(sys.argv[0]).name,
        *(PurePath(a).name if "/" in a else a for a in sys.argv[1:]),
    ]


def _platform() -> dict[str, str]:
    return {"system": platform.system(), "machine": platform.machine(), "cpu": _cpu()}


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 - no Path for devices
            lines = [line for line in file if line.startswith("model name")]
    except OSError:
        return platform.processor()
    return lines[0].partition(":")[2].strip() if lines else platform.processor()


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a run came from."""

    model: dict[str, Any] = field(default_factory=dict)
    """`ModelInfo.as_dict()`: name, digests, dtype, attention implementation, versions."""
    corpus: dict[str, Any] = field(default_factory=dict)
    """Description, digest, licence."""
    sites: tuple[str, ...] = ()
    """Sites captured."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Options that shape the content: context, BOS policy, stored dtype, seed, token budget."""
    self_check: dict[str, Any] = field(default_factory=dict)
    """Outcome of the sites' self-check."""
    command: list[str] = field(default_factory=_command)
    fluoroscope: str = field(default_factory=_version)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    platform: dict[str, str] = field(default_factory=_platform)

    def as_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return asdict(self) | {"sites": list(self.sites)}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Provenance:
        """The inverse of `as_dict`; keys of older or newer versions are left out."""
        known = {f.name for f in fields(cls)}
        kept: dict[str, Any] = {key: value for key, value in stored.items() if key in known}
        kept["sites"] = tuple(kept.get("sites", ()))
        return cls(**kept)

    def differences(self, other: Provenance) -> list[str]:
        """What keeps two runs from being one: 'field: this against that', in words."""
        found = []
        for name in IDENTITY:
            mine, theirs = _flat(getattr(self, name)), _flat(getattr(other, name))
            found += [
                f"{name}{'.' if key else ''}{key}: {mine.get(key)!r} against {theirs.get(key)!r}"
                for key in sorted(mine.keys() | theirs.keys())
                if mine.get(key) != theirs.get(key) and not key.startswith(_MAY_DIFFER)
            ]
        return found


_MAY_DIFFER = ("config", "versions", "device")


def _flat(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {str(key): item for key, item in value.items()}
    return {"": list(value)}
