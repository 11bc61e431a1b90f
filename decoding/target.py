"""The target: the model whose text is decoded, with the cache of one generation.

Engines see a model through this file only: `prefill` the prompt; `feed` one continuation or several
that branch; `commit` the path that became text, which forgets the others; `roll_back` to a length. A
draft model is a target too. The cache belongs to one generation and is never kept on the model.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ..probes import Model
from .errors import DraftError, PromptError, RollBackError
from .graphs import SIZES, Mask, borrow, give_back, shelf_of
from .growing_cache import GrowingLayer, growing_cache
from .lineage import Lineage, attention_mask
from .prompts import require_decodable
from .rowlog import RowLog
from .static_cache import FixedCache

CacheKind = Literal["growing", "static", "graph"]
CACHES = ("growing", "static", "graph")


class Target:
    """One generation's view of a model.

    Args:
        model: An opened model.
        rolls_back: Whether tokens may have to be forgotten. Layers with a sliding window then keep
            everything, since what fell out of the window may be needed again.
        cache: `growing`: attention sees what is held. `static`: it sees whole buffers under a mask, so
            that shapes stay the same (see `static_cache`); windows keep everything then, too.
            `graph`: static, and passes over up to 64 rows are recorded once and replayed as CUDA
            graphs (see `graphs`).

    Attributes:
        ids: The text, as far as the cache holds it.
        n_forward: Forward passes run.
        log: One entry per row that passed the model.

    Raises:
        RollBackError: `rolls_back` or a static cache, but the model keeps a recurrent state.
        OptionError: `graph`, but the model is not on a GPU or is not told its positions.
    """

    def __init__(
        self, model: Model, *, rolls_back: bool = False, cache: CacheKind = "growing"
    ) -> None:
        self.model, self.n_forward = model, 0
        self.ids: list[int] = []
        self.log = RowLog()
        self._pending = Lineage()
        self._pending_ids: list[int] = []
        self._cache: Cache = growing_cache(model.config)
        kinds = {type(layer) for layer in self._cache.layers}
        is_fixed = cache != "growing"
        can_forget = kinds <= {GrowingLayer, DynamicSlidingWindowLayer}
        if (rolls_back or is_fixed) and not can_forget:
            raise RollBackError(
                f"{model.name} ({model.config.model_type}) keeps a recurrent state that cannot be "
                "cut back to an earlier token. Use an engine that does not draft, such as 'plain', "
                "and its growing cache."
            )
        n_layers = len(self._cache.layers) or model.n_layers
        self._passes = borrow(model, n_layers) if cache == "graph" else None
        if self._passes is not None:
            weakref.finalize(self, give_back, shelf_of(model), self._passes)
            self._cache = self._passes.cache
        elif is_fixed:
            self._cache = FixedCache(n_layers, model.device)
        elif rolls_back:
            self._cache = growing_cache()
        self._rolls_back = rolls_back or is_fixed or kinds <= {GrowingLayer}
        accepted = inspect.signature(model.module.forward).parameters
        self._takes_positions = "position_ids" in accepted
        recurrent = "cache_params" in accepted
        self._cache_argument = "cache_params" if recurrent else "past_key_values"

    def __len__(self) -> int:
        """Tokens of the text that the cache holds."""
        return len(self.ids)

    @property
    def n_pending(self) -> int:
        """Tokens fed and not yet committed."""
        return len(self._pending)

    @property
    def n_recordings(self) -> int:
        """Passes recorded over the target's buffers so far; 0 where none are."""
        return 0 if self._passes is None else self._passes.n_recordings

    @property
    def max_length(self) -> int | None:
        """Longest text the model's positions allow, if they set a limit."""
        return self.model.max_positions

    @property
    def can_roll_back(self) -> bool:
        """Whether the state can be cut back: keys and values can, a recurrent state cannot."""
        return self._rolls_back

    def prefill(
        self, ids: Int64[Tensor, " positions"], *, keep: int = 1
    ) -> Float[Tensor, "kept d_vocab"]:
        """Read the prompt; logits after each of its last `keep` tokens.

        Raises:
            PromptError: The prompt is empty, does not fit the context or the vocabulary.
        """
        require_decodable(self.model, ids)
        is_fixed = isinstance(self._cache, FixedCache)
        mask = self._mask(Lineage.chain(len(ids)), 0) if is_fixed else None
        logits = self._forward(ids.tolist(), depths=None, mask=mask, keep=min(keep, len(ids)))
        self.log.fed(range(len(ids)), "prompt")
        self.ids = ids.tolist()
        return logits

    def extend(self, tokens: Sequence[int]) -> Float[Tensor, "n d_vocab"]:
        """Read more of the text; logits after each token."""
        logits = self.feed(tokens, range(-1, len(tokens) - 1))
        self.commit(range(len(tokens)))
        return logits

    def feed(self, tokens: Sequence[int], parents: Sequence[int]) -> Float[Tensor, "n d_vocab"]:
        """Read tokens that may or may not become text; logits after each.

        May be called again to grow what is pending.

        Args:
            tokens: Token ids.
            parents: For each, the pending token it follows (numbered from 0 in the order they were
                fed since the last commit), or -1 if it follows the text.

        Raises:
            DraftError: There is nothing to feed.
            PromptError: A token would lie beyond the model's context.
        """
        if not tokens:
            raise DraftError("feed needs at least one token.")
        first = len(self._pending)
        self._pending.grow(parents)
        depths = self._pending.depths[first:]
        deepest = len(self.ids) + max(depths)
        if self.max_length is not None and deepest >= self.max_length:
            raise PromptError(
                f"Position {deepest} lies beyond the context of {self.max_length} tokens."
            )
        by_itself = self._pending.is_chain and not isinstance(self._cache, FixedCache)
        mask = None if by_itself else self._mask(self._pending, first)
        logits = self._forward(tokens, depths=depths, mask=mask, keep=len(tokens))
        self._pending_ids.extend(tokens)
        self.log.fed([len(self.ids) + depth for depth in depths], "pending")
        return logits

    def commit(self, path: Sequence[int]) -> None:
        """Make pending tokens part of the text and forget the other pending ones.

        Args:
            path: Their numbers, from one that follows the text downwards.

        Raises:
            RollBackError: Some would be forgotten, but the model's state cannot be cut back.
        """
        n_text, n_pending = len(self.ids), len(self._pending)
        keep = list(path)
        if len(keep) < n_pending and not self._rolls_back:
            raise self._refusal(n_text)
        if keep != list(range(len(keep))):
            self._gather(n_text, keep)
        if len(keep) < n_pending:
            self._cache.crop(len(keep) - n_pending)
        self.ids.extend(self._pending_ids[node] for node in keep)
        self.log.committed(keep, n_pending)
        self._pending, self._pending_ids = Lineage(), []

    def roll_back(self, length: int) -> None:
        """Forget the text after its first `length` tokens.

        Raises:
            RollBackError: The model's state cannot be cut back.
        """
        if length == len(self.ids):
            return
        if not self._rolls_back:
            raise self._refusal(length)
        self._cache.crop(length - len(self.ids))
        del self.ids[length:]

    def _mask(self, lineage: Lineage, first: int) -> Mask:
        """One mask, or one per kind of attention layer where a model has several."""
        n_cached = len(self.ids) + len(lineage)
        if isinstance(self._cache, FixedCache):
            spare = SIZES[-1] if self._passes is not None else 0
            self._cache.make_room(n_cached + spare)
            n_cached = self._cache.size
        config = self.model.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        kinds = set(getattr(config, "layer_types", None) or ())
        shape = {"dtype": self.model.dtype, "device": self.model.device}

        def mask(width: int | None) -> Tensor:
            return attention_mask(
                lineage, first, len(self.ids), window=width, n_cached=n_cached, **shape
            )

        if len(kinds) > 1:
            return {kind: mask(window if kind == "sliding_attention" else None) for kind in kinds}
        return mask(None if kinds == {"full_attention"} else window)

    def _gather(self, n_text: int, keep: list[int]) -> None:
        """Move the kept pending tokens to the end of the text."""
        if isinstance(self._cache, FixedCache):
            self._cache.gather([n_text + node for node in keep], n_text)
            return
        source = torch.tensor(keep, device=self.model.device) + n_text
        stop = n_text + len(keep)
        for layer in self._cache.layers:
            assert isinstance(layer, DynamicLayer)
            for states in (layer.keys, layer.values):
                assert states is not None
                states[..., n_text:stop, :] = states.index_select(-2, source.to(states.device))

    def _refusal(self, length: int) -> RollBackError:
        return RollBackError(
            f"{self.model.name} keeps a recurrent or sliding state that cannot be cut back to "
            f"{length} tokens. Use an engine that does not draft, such as 'plain'."
        )

    def wait(self) -> None:
        """Let the device finish the passes so far; what runs in other streams goes on."""
        if self.model.device.type == "cuda":
            torch.cuda.current_stream(self.model.device).synchronize()

    def _forward(
        self,
        tokens: Sequence[int],
        *,
        depths: Sequence[int] | None,
        mask: Mask | None,
        keep: int,
    ) -> Tensor:
        device, start = self.model.device, len(self.ids)
        ids = torch.tensor([list(tokens)], device=device)
        arguments: dict[str, object] = {
            self._cache_argument: self._cache, "use_cache": True, "logits_to_keep": keep,
        }  # fmt: skip
        if mask is not None:
            arguments["attention_mask"] = mask
        if self._takes_positions:
            positions = range(len(tokens)) if depths is None else depths
            arguments["position_ids"] = torch.tensor(
                [[start + d for d in positions]], device=device
            )
        if isinstance(self._cache, FixedCache):
            self._cache.write_at(
                start + len(self._pending) - (0 if depths is None else len(tokens))
            )
        self.n_forward += 1
        logits = None
        if self._passes is not None and depths is not None:
            logits = self._passes.run(self.model, ids, arguments)
        return self.model(ids, **arguments).logits[0] if logits is None else logits
