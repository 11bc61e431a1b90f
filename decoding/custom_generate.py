"""Engines inside `model.generate`: existing code gains an engine by one argument.

    engine = make_engine(model, "hybrid")
    model.module.generate(**inputs, custom_generate=as_custom_generate(engine), max_new_tokens=64)

transformers prepares prompt, logits processors and stopping criteria; the engine writes the text under
them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedModel,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..probes.errors import OptionError
from .engine import Engine

_WARPERS: dict[type[LogitsProcessor], str] = {
    TemperatureLogitsWarper: "temperature",
    TopKLogitsWarper: "top_k",
    TopPLogitsWarper: "top_p",
    MinPLogitsWarper: "min_p",
}
"""Processors an engine runs itself, in this order, and the option that each stands for."""


def as_custom_generate(engine: Engine) -> Callable[..., Tensor]:
    """A function for `generate(custom_generate=...)`.

    Whether and how it samples is what `generate` was told (`do_sample`, `temperature`, `top_k`,
    `top_p`, `min_p`); every other logits processor and all stopping criteria are kept, in their order.
    Seeds come from torch's global generator, one for each sequence. Sequences of a batch are written
    one after the other, without their padding.

    Args:
        engine: Made for the same model.
    """

    def custom_generate(
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        generation_config: GenerationConfig | None = None,
        **kwargs: Any,
    ) -> Tensor:
        if model is not engine.model.module:
            raise OptionError("The engine was made for another model than the one that generates.")
        config = generation_config or model.generation_config
        if config.num_beams not in (None, 1):
            raise OptionError("Engines write one text at a time; num_beams must be 1.")
        if config.return_dict_in_generate:
            raise OptionError("Engines return token ids; return_dict_in_generate must be False.")
        processors, sampling = _sampling(config, logits_processor or [])
        mask = kwargs.get("attention_mask")
        own = engine.options
        written = []
        try:
            for n, row in enumerate(input_ids):
                seed = {"seed": int(torch.randint(2**31, ()))} if config.do_sample else {}
                engine.options = replace(own, **sampling, **seed)
                real = None if mask is None else mask[n]
                written.append(_write(engine, row, real, processors, stopping_criteria))
        finally:
            engine.options = own
        width = max(len(tokens) for tokens in written)
        pad = config.pad_token_id if config.pad_token_id is not None else 0
        made = torch.full(
            (len(written), width), pad, dtype=input_ids.dtype, device=input_ids.device
        )
        for n, tokens in enumerate(written):
            made[n, : len(tokens)] = torch.tensor(tokens, dtype=input_ids.dtype)
        return torch.cat([input_ids, made], dim=1)

    return custom_generate


@torch.inference_mode()
def _write(
    engine: Engine,
    row: Tensor,
    mask: Tensor | None,
    processors: list[LogitsProcessor],
    criteria: StoppingCriteriaList | None,
) -> list[int]:
    """Step until a criterion holds; the criteria see the text as `generate` would show it."""
    prompt = row if mask is None or mask.ndim != 1 else row[mask.bool()]
    limit = engine.model.max_positions or 10**9
    emitted: list[int] = []
    with ExitStack() as stack:
        stack.enter_context(engine.ready())
        state = engine.begin(prompt, processors=processors)
        stack.callback(state.end)
        while len(prompt) + len(emitted) < limit:
            step = state.step(limit - len(prompt) - len(emitted))
            for token in step.emitted:
                emitted.append(token.id)
                text = torch.cat([row, torch.tensor(emitted, dtype=row.dtype, device=row.device)])
                if criteria and bool(criteria(text[None], None).all()):  # type: ignore[arg-type]
                    return emitted
    return emitted


def _sampling(
    config: GenerationConfig, given: Sequence[LogitsProcessor]
) -> tuple[list[LogitsProcessor], dict[str, Any]]:
    """Processors to run before the engine's own, and how it samples.

    Where others follow those that the engine has itself, such as typical decoding or a watermark, or
    these come in another order, all of them are run as they are and the engine draws from what is left.
    """
    plain: dict[str, Any] = {"temperature": 0.0, "top_k": None, "top_p": None, "min_p": None}
    plain |= {"repetition_penalty": 1.0}
    if not config.do_sample:
        return list(given), plain
    plain["temperature"] = 1.0
    kinds = [type(processor) for processor in given]
    first = next((n for n, kind in enumerate(kinds) if kind in _WARPERS), len(kinds))
    if kinds[first:] != [kind for kind in _WARPERS if kind in kinds]:
        return list(given), plain
    own = {_WARPERS[type(p)]: getattr(p, _WARPERS[type(p)]) for p in given[first:]}
    return list(given[:first]), plain | own
