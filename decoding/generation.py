"""A finished generation: text, tokens, statistics, trace, and the states behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..probes.errors import UnknownSiteError
from ..probes.markup import table_html
from .rowlog import RowLog
from .stopping import StopReason
from .trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What a generation took."""

    n_forward: int
    """Forward passes of the target, the prompt's included."""
    n_emitted: int
    """Tokens emitted."""
    seconds: float
    """Wall time."""
    n_drafted: int = 0
    """Drafted tokens that passed the target."""
    n_accepted: int = 0
    """Drafted tokens that became text."""
    n_faults: int = 0
    """How often a drafter failed and was passed over."""

    @property
    def tokens_per_forward(self) -> float:
        """Emitted tokens per forward pass of the target."""
        return self.n_emitted / max(self.n_forward, 1)

    @property
    def tokens_per_second(self) -> float:
        """Emitted tokens per second of wall time."""
        return self.n_emitted / max(self.seconds, 1e-9)

    def as_dict(self) -> dict[str, float]:
        """All figures, ready for JSON."""
        return {
            "n_forward": self.n_forward,
            "n_emitted": self.n_emitted,
            "tokens_per_forward": self.tokens_per_forward,
            "tokens_per_second": self.tokens_per_second,
            "seconds": self.seconds,
            "n_drafted": self.n_drafted,
            "n_accepted": self.n_accepted,
            "n_faults": self.n_faults,
        }


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What an engine made of one prompt."""

    engine: str
    prompt: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    """Emitted tokens, an end-of-sequence token included."""
    text: str
    """Their text, without special tokens, cut before a stop string."""
    stop_reason: StopReason
    stats: Stats
    trace: Trace
    captured: Mapping[str, Tensor]
    """By site, every row that passed the model, drafted and thrown away ones included."""
    rows: RowLog
    """What became of each of those rows."""

    def states(self, site: str) -> Float[Tensor, "tokens width"]:
        """States at a site, one row per token of prompt and text.

        Exactly the committed rows: what was drafted and thrown away is not among them. They equal
        those of a plain forward pass over the final text.

        Raises:
            UnknownSiteError: The site was not asked for.
        """
        n_tokens = len(self.prompt_ids) + len(self.token_ids)
        return self.all_states(site)[torch.from_numpy(self.rows.is_text)][:n_tokens]

    def all_states(self, site: str) -> Float[Tensor, "rows width"]:
        """States at a site, one row per row that passed the model, in that order.

        `rows` tells the position each stood at, and whether it became text.

        Raises:
            UnknownSiteError: The site was not asked for.
        """
        if site not in self.captured:
            held = ", ".join(self.captured) or "none"
            raise UnknownSiteError(
                f"States of {site!r} were not captured (captured: {held}). Ask for them: "
                f"generate(..., sites=[{site!r}])."
            )
        return self.captured[site]

    def as_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "engine": self.engine,
            "prompt": self.prompt,
            "prompt_ids": list(self.prompt_ids),
            "token_ids": list(self.token_ids),
            "text": self.text,
            "stop_reason": self.stop_reason,
            "stats": self.stats.as_dict(),
        }

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 40 else f"{self.text[:37]}..."
        return (
            f"Generation({self.engine}: {text!r}, {self.stats.n_emitted} tokens, "
            f"{self.stop_reason}, {self.stats.tokens_per_second:.1f} tokens/s)"
        )

    def _repr_html_(self) -> str:
        stats = [(key, f"{value:.4g}") for key, value in self.stats.as_dict().items() if value]
        told = [("prompt", self.prompt), ("text", self.text), ("stopped by", self.stop_reason)]
        return table_html(f"Generation by {self.engine}", [*told, *stats])
