"""The target: the model whose text is decoded, with the cache of one generation.

Engines see a model through this file only: `prefill` the prompt, `extend` by tokens, `roll_back` to a
length. The cache belongs to one generation and is never kept on the model.
"""

from __future__ import annotations

import inspect

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ..probes import Model
from .errors import PromptError, RollBackError
from .layout import lay_out_for_decoding


class Target:
    """One generation's view of a model.

    Args:
        model: An opened model. On a CPU its wide weights are laid out for decoding (see `layout`).

    Attributes:
        n_forward: Forward passes run.
    """

    def __init__(self, model: Model) -> None:
        self.model, self.n_forward = model, 0
        self._cache = DynamicCache(config=model.config)
        self._length = 0
        accepted = inspect.signature(model.module.forward).parameters
        self._takes_positions = "position_ids" in accepted
        recurrent = "cache_params" in accepted
        self._cache_argument = "cache_params" if recurrent else "past_key_values"
        lay_out_for_decoding(model.module)

    def __len__(self) -> int:
        """Tokens the cache holds."""
        return self._length

    @property
    def max_length(self) -> int | None:
        """Longest text the model's positions allow, if they set a limit."""
        return self.model.max_positions

    @property
    def can_roll_back(self) -> bool:
        """Whether the state can be cut back: keys and values can, a recurrent state cannot."""
        return all(type(layer) is DynamicLayer for layer in self._cache.layers)

    def prefill(self, ids: Int64[Tensor, " positions"]) -> Float[Tensor, " d_vocab"]:
        """Read the prompt; logits of what comes after it.

        Raises:
            PromptError: The prompt is empty or does not fit the context.
        """
        limit = self.max_length
        if not len(ids) or (limit is not None and len(ids) >= limit):
            raise PromptError(
                f"A prompt must have from 1 to {limit} tokens, got {len(ids)}. An empty prompt can "
                "begin with the beginning-of-sequence token (bos=True)."
            )
        return self._forward(ids, keep=1)[-1]

    def extend(self, ids: Int64[Tensor, " n"]) -> Float[Tensor, "n d_vocab"]:
        """Read more tokens; logits after each."""
        return self._forward(ids, keep=len(ids))

    def roll_back(self, length: int) -> None:
        """Forget everything after the first `length` tokens.

        Raises:
            RollBackError: The model's state cannot be cut back.
        """
        if length == self._length:
            return
        if not self.can_roll_back:
            raise RollBackError(
                f"{self.model.name} keeps a recurrent or sliding state that cannot be cut back to "
                f"{length} tokens. Use an engine that does not draft, such as 'plain'."
            )
        self._cache.crop(length - self._length)
        self._length = length

    def _forward(self, ids: Tensor, *, keep: int) -> Tensor:
        device = self.model.device
        stop = self._length + len(ids)
        positions = {}
        if self._takes_positions:
            positions["position_ids"] = torch.arange(self._length, stop, device=device)[None]
        output = self.model(
            ids[None].to(device),
            use_cache=True,
            logits_to_keep=keep,
            **{self._cache_argument: self._cache},
            **positions,
        )
        self.n_forward += 1
        self._length += len(ids)
        return output.logits[0]
