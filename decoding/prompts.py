"""What is decoded from: texts, messages or token ids, as token ids that a model can read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from ..probes import Model
from ..probes.errors import OptionError
from .errors import PromptError

Prompt = str | Tensor
"""A text, or its token ids, one row of them."""


def listed(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One or several prompts as a list.

    Raises:
        PromptError: There is none, or something is neither text nor a row of token ids.
    """
    given = [prompts] if isinstance(prompts, str | Tensor) else list(prompts)
    if not given:
        raise PromptError("Give at least one prompt.")
    for prompt in given:
        require_kind(prompt)
    return given


def encoded(
    model: Model, prompt: Prompt, *, chat: bool = False, bos: bool | None = None
) -> tuple[str, Int64[Tensor, " positions"]]:
    """A prompt's text and the token ids that it is decoded from.

    Args:
        model: What decodes.
        prompt: Text or token ids; the latter are taken as they are.
        chat: Whether the text is a user's message, to be put in the model's chat template.
        bos: Whether it begins with the beginning-of-sequence token; None for the tokenizer's default.

    Raises:
        OptionError: There is no chat template.
        PromptError: The model cannot decode from it.
    """
    require_kind(prompt)
    if isinstance(prompt, Tensor):
        require_decodable(model, prompt)
        return model.decode(prompt) if model.has_tokenizer else "", prompt
    if chat:
        if not model.tokenizer.chat_template:
            raise OptionError(f"{model.name} has no chat template; decode without chat.")
        message = [{"role": "user", "content": prompt}]
        text = str(
            model.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        )
        ids = model.encode(text, bos=False)
    else:
        text, ids = prompt, model.encode(prompt, bos=bos)
    require_decodable(model, ids)
    return text, ids


def require_decodable(model: Model, ids: Int64[Tensor, " positions"]) -> None:
    """Check that a model can read a prompt and go on from it.

    Raises:
        PromptError: It is empty, leaves no room in the context, or holds ids outside the vocabulary.
    """
    limit, n = model.max_positions, len(ids)
    if not n or (limit is not None and n >= limit):
        allowed = "at least 1 token" if limit is None else f"from 1 to {limit - 1} tokens"
        mend = (
            f"{model.name} holds {limit}, prompt and text together: cut it."
            if n
            else "An empty prompt can begin with the beginning-of-sequence token (bos=True)."
        )
        raise PromptError(f"A prompt must have {allowed}, got {n}. {mend}")
    least, greatest = int(ids.min()), int(ids.max())
    if least < 0 or greatest >= model.d_vocab:
        raise PromptError(
            f"Token ids must be from 0 to {model.d_vocab - 1}, got {least} to {greatest}; did another "
            "model's tokenizer make them?"
        )


def require_kind(prompt: object) -> None:
    """Check that something is a prompt.

    Raises:
        PromptError: It is neither text nor one row of token ids.
    """
    if isinstance(prompt, str):
        return
    if not isinstance(prompt, Tensor):
        raise PromptError(
            f"A prompt must be a text or a tensor of token ids, got {type(prompt).__name__}; "
            "use torch.tensor(ids)."
        )
    if prompt.ndim != 1 or prompt.dtype not in (torch.int64, torch.int32):
        raise PromptError(
            f"Token ids of a prompt must be one row of integers, got {prompt.dtype} of shape "
            f"{tuple(prompt.shape)}; of several rows give a list: [*ids], without their padding."
        )
