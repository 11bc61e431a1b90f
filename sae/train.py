"""Training over any iterator of row batches, many autoencoders in one pass.

An iterator yields tensors [rows, width], or dicts of them by site, as `Run.batches` does. Each
`Member` names the site its autoencoder reads (and, for a transcoder, the one it rebuilds), so sites and
settings can be swept while every row is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..probes.errors import OptionError
from .base import SparseAutoencoder
from .learner import Learner, LearnOptions, StepReport

Progress = Callable[[int, int | None, str], None]
"""Called as progress(done, total, note)."""

ROWS = "rows"
"""Site name of batches that are plain tensors."""


@dataclass(frozen=True)
class Member:
    """One autoencoder of a training."""

    sae: SparseAutoencoder
    """Trained in place."""
    options: LearnOptions
    """How it learns."""
    site: str = ROWS
    """Site whose rows it reads."""
    target_site: str | None = None
    """Site whose rows it rebuilds, for a transcoder; None: the one it reads."""


class Trainer:
    """Trains members by name, all on the same batches.

    Args:
        members: Autoencoders by name.
        report_every: Steps between reports.
    """

    def __init__(self, members: Mapping[str, Member], *, report_every: int = 50) -> None:
        if not members:
            raise OptionError("A training needs at least one autoencoder.")
        lengths = {m.options.schedule.n_steps for m in members.values()}
        if len(lengths) > 1:
            raise OptionError(f"All members must train for the same n_steps, got {lengths}.")
        self.n_steps = lengths.pop()
        self.members = dict(members)
        self.learners = {name: Learner(m.sae, m.options) for name, m in members.items()}
        self.report_every = report_every
        self.reports: dict[str, list[StepReport]] = {name: [] for name in members}
        self.step_count = 0

    def fit(
        self, batches: Iterable[Tensor | Mapping[str, Tensor]], *, progress: Progress | None = None
    ) -> dict[str, list[StepReport]]:
        """Learn until the steps or the batches are used up.

        Args:
            batches: Rows, or rows by site.
            progress: Called after every report.

        Returns:
            Reports of every member, oldest first.
        """
        for batch in batches:
            if self.step_count >= self.n_steps:
                break
            self.step(batch)
            if progress is not None:
                progress(self.step_count, self.n_steps, self.note())
        return self.reports

    def step(self, batch: Tensor | Mapping[str, Tensor]) -> None:
        """All members learn from one batch."""
        for name, member in self.members.items():
            target = None if member.target_site is None else _rows_of(batch, member.target_site)
            self.step_member(name, _rows_of(batch, member.site), target)
        self.step_count += 1

    def step_member(self, name: str, rows: Tensor, target: Tensor | None) -> None:
        """One member learns; every so many steps a report is kept."""
        learner = self.learners[name]
        rows = rows.to(learner.device, torch.float32)
        target = None if target is None else target.to(learner.device, torch.float32)
        out, _ = learner.step(rows, target)
        if self.step_count % self.report_every == 0 or self.step_count + 1 == self.n_steps:
            self.reports[name].append(learner.report(rows, target, out))

    def state_dict(self) -> dict[str, Any]:
        """Everything that going on needs, as tensors and plain values."""
        return {
            "learners": {name: learner.state_dict() for name, learner in self.learners.items()},
            "reports": {n: [asdict(r) for r in found] for n, found in self.reports.items()},
            "step_count": self.step_count,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for name, learner in self.learners.items():
            learner.load_state_dict(state["learners"][name])
            self.reports[name] = [StepReport(**report) for report in state["reports"][name]]
        self.step_count = state["step_count"]

    def note(self) -> str:
        """FVU, L0 and dead latents of each member at the last report, in a few words."""
        return "; ".join(
            f"{name}: FVU {found[-1].fvu:.3f}, L0 {found[-1].l0:.0f}, dead {found[-1].dead:.0%}"
            for name, found in self.reports.items()
            if found
        )


def _rows_of(batch: Tensor | Mapping[str, Tensor], site: str) -> Tensor:
    if isinstance(batch, Tensor):
        return batch
    if site not in batch:
        raise OptionError(f"Batches hold no rows of {site!r}; they hold: {', '.join(batch)}.")
    return batch[site]
