"""The memory check: the tightest limit counts, and what cannot be asked is left out."""

from pathlib import Path

import pytest
import torch

from fluoroscope.probes import memory
from fluoroscope.probes.errors import NotEnoughMemoryError

CPU = torch.device("cpu")


def limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: str, used: str) -> None:
    for name, value in (("_CGROUP_LIMIT", most), ("_CGROUP_USED", used)):
        (tmp_path / name).write_text(value)
        monkeypatch.setattr(memory, name, tmp_path / name)


def test_a_containers_limit_counts_where_it_is_the_tighter(tmp_path: Path, monkeypatch) -> None:
    limits(tmp_path, monkeypatch, "3000\n", "1000\n")
    assert memory.free_bytes(CPU) == 2000
    memory.require_bytes(2000, CPU, "a model")
    with pytest.raises(NotEnoughMemoryError, match="a model needs .* on cpu"):
        memory.require_bytes(2001, CPU, "a model")


def test_no_limit_and_no_container_leave_the_machines_memory(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(memory, "_available_in_linux", lambda: 5000)
    limits(tmp_path, monkeypatch, "max\n", "1000\n")
    assert memory.free_bytes(CPU) == 5000
    monkeypatch.setattr(memory, "_CGROUP_LIMIT", tmp_path / "nowhere")
    assert memory.free_bytes(CPU) == 5000


def test_where_nothing_tells_nothing_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(memory, "_available_in_linux", lambda: None)
    monkeypatch.setattr(memory, "_CGROUP_LIMIT", tmp_path / "nowhere")
    assert memory.free_bytes(CPU) is None
    memory.require_bytes(10**18, CPU, "a model")
