"""A draft model: a small language model that reads the text ahead of its target.

Holds the draft's own cache, keeps it in step with the text, and hands out the distributions that
tokens are drawn from. Drafters decide what is drawn.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes import Model, open_model
from ...probes.errors import OptionError
from ..drafter import Drafter
from ..errors import DraftError
from ..sampling import Sampler, SamplingOptions
from ..speculative import SpeculativeOptions
from ..students.student import open_student
from ..target import CacheKind, Target
from ..tree import DraftTree, Law


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftModelOptions(SpeculativeOptions):
    """What engines with a draft model can be told."""

    draft: str | Model | None = None
    """The draft: a student's file, a model's name or folder, or an opened model; None for the student
    of the embedded model that comes with the package."""
    draft_temperature: float | None = None
    """Temperature of the draft's draws; None for the target's own."""

    def __post_init__(self) -> None:
        SpeculativeOptions.__post_init__(self)
        if self.draft_temperature is not None and self.draft_temperature < 0:
            raise OptionError(
                f"draft_temperature must be at least 0, got {self.draft_temperature}."
            )


class DraftModel:
    """A draft and its cache, over one text after the other.

    Args:
        model: The draft.
        sampling: How its tokens are drawn.
        cache: How its keys and values lie; see `Target`.
    """

    def __init__(
        self, model: Model, sampling: SamplingOptions, cache: CacheKind = "growing"
    ) -> None:
        self.model, self.sampling = model, sampling
        self._cache: CacheKind = cache
        self._sampler = Sampler(sampling, model.device)
        self._target: Target | None = None

    @property
    def greedy(self) -> bool:
        """Whether the draft takes its likeliest token."""
        return self._sampler.greedy

    @property
    def n_pending(self) -> int:
        """Drafted tokens the cache holds beyond the text."""
        assert self._target is not None
        return self._target.n_pending

    def reseed(self, seed: int) -> None:
        """Begin the draws anew."""
        self._sampler.reseed(seed)

    def begin(self) -> None:
        """Forget the last text."""
        self._target = None

    def after(self, text: Sequence[int]) -> Float[Tensor, " d_vocab"]:
        """The draft's distribution after `text`; drops what was drafted before."""
        target = self._target
        if target is None:
            target = self._target = Target(self.model, rolls_back=True, cache=self._cache)
            return self.probs(target.prefill(torch.tensor(list(text))))[-1]
        if target.n_pending:
            target.commit([])
        known = common(target.ids, text)
        target.roll_back(min(known, len(text) - 1))
        return self.probs(target.extend(text[len(target) :]))[-1]

    def grow(self, tokens: Sequence[int], parents: Sequence[int]) -> Float[Tensor, "n d_vocab"]:
        """Distributions after drafted tokens; parents as `Target.feed` numbers them."""
        assert self._target is not None
        return self.probs(self._target.feed(tokens, parents))

    def probs(self, logits: Float[Tensor, "n d_vocab"]) -> Float[Tensor, "n d_vocab"]:
        """What tokens are drawn from: after temperature and truncation (plain softmax if greedy)."""
        if self.greedy:
            return logits.float().softmax(-1)
        rows = [self._sampler.scores(None, row) for row in logits]
        return torch.stack(rows).float().softmax(-1)

    def draw(self, probs: Float[Tensor, " d_vocab"]) -> int:
        """A token: drawn, or the likeliest."""
        return int(probs.argmax()) if self.greedy else self._sampler.draw(probs)

    def gumbel(self, like: Tensor) -> Tensor:
        """Independent standard Gumbel noise of `like`'s shape, float64."""
        return -torch.log(-torch.log(self._sampler.uniforms(like.shape)))

    def room(self, text: Sequence[int]) -> int:
        """How many tokens the draft can read beyond a text."""
        limit = self.model.max_positions
        return 10**9 if limit is None else limit - len(text) - 1


class ModelDrafter(Drafter):
    """A drafter that draws from a draft model.

    Args:
        draft: The draft model.
    """

    def __init__(self, draft: DraftModel) -> None:
        self.draft, self.models = draft, (draft.model,)
        drawn: Law = "point" if draft.greedy else "without_replacement"
        self.law = drawn  # type: ignore[misc]

    def reseed(self, seed: int) -> None:
        """Begin the draft's draws anew."""
        self.draft.reseed(seed)

    def begin(
        self, prompt: Sequence[int], logits: Float[Tensor, "rows d_vocab"] | None = None
    ) -> None:
        """A new text: the draft reads it at the first proposal."""
        self.draft.begin()

    def propose(self, text: Sequence[int], budget: int) -> DraftTree:
        """A tree of at most `budget` nodes; nothing where the draft's context ends."""
        depth = min(budget, self.draft.room(text))
        return self.draw(text, budget, depth) if depth > 0 else DraftTree()

    @abstractmethod
    def draw(self, text: Sequence[int], budget: int, depth: int) -> DraftTree:
        """Draw a tree.

        Args:
            text: Token ids so far.
            budget: Most nodes.
            depth: Most levels, at least one: what budget and the draft's context allow.
        """


SHIPPED = "embedded_student.safetensors"


def open_draft(target: Model, options: DraftModelOptions) -> DraftModel:
    """The draft that an engine was told to use.

    Raises:
        DraftError: There is none for this target, or its vocabulary differs.
    """
    model = _find(target, options.draft)
    if model.d_vocab != target.d_vocab:
        raise DraftError(
            f"The draft {model.name} has {model.d_vocab} tokens and the target {target.name} "
            f"{target.d_vocab}; a draft needs its target's vocabulary."
        )
    warmth = options.draft_temperature
    sampling = SamplingOptions(
        temperature=options.temperature if warmth is None else warmth,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
    )
    return DraftModel(model, sampling, options.cache)


def _find(target: Model, draft: str | Model | None) -> Model:
    if isinstance(draft, Model):
        return draft
    name = str(Path(__file__).with_name(SHIPPED)) if draft is None else draft
    if draft is not None and not name.endswith(".safetensors"):
        return open_model(name, device=target.device, dtype=target.dtype)
    if draft is None and not Path(name).is_file():
        raise DraftError("No student comes with this installation; make one: `fluoroscope distil`.")
    return open_student(target, name).model


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))
