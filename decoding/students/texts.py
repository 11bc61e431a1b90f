"""The target's own texts: what a student is taught with."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from ...probes import Model
from ...probes.runfile.atomic import replacing


def write_texts(
    model: Model,
    prompts: Sequence[str],
    folder: Path,
    *,
    n_new: int = 128,
    batch: int = 32,
    temperature: float = 0.7,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[int]]:
    """Let the target answer prompts, batch by batch.

    What is in `folder` already is not written again: an interrupted call is continued by calling it
    again. Batches that another model, other prompts or other arguments made are replaced.

    Args:
        model: The target.
        prompts: User messages; they go into the chat template, if there is one.
        folder: Takes one file per batch.
        n_new: Longest answer, tokens.
        batch: Prompts at a time.
        temperature: Every second batch is sampled at it; the others are greedy.
        seed: Of the draws.
        progress: Called with prompts done and all.

    Returns:
        Token ids of prompt and answer, in the order of lengths within each batch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts: list[list[int]] = []
    for start in range(0, len(prompts), batch):
        file = folder / f"{start:06d}.npz"
        sampled = temperature if (start // batch) % 2 else 0.0
        ids = [_encode(model, prompt) for prompt in prompts[start : start + batch]]
        origin = _digest(model.weights_digest, ids, n_new, sampled, seed)
        if not _holds(file, origin):
            written = _answer(model, ids, n_new, temperature=sampled, seed=seed + start)
            lengths = np.array([len(text) for text in written])
            with replacing(file) as path, path.open("wb") as out:
                np.savez_compressed(
                    out, ids=np.concatenate(written), lengths=lengths, origin=np.array(origin)
                )
        with np.load(file) as held:
            texts += [
                part.tolist() for part in np.split(held["ids"], held["lengths"].cumsum()[:-1])
            ]
        progress(min(start + batch, len(prompts)), len(prompts))
    return texts


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _holds(file: Path, origin: str) -> bool:
    """Whether a batch's file is there, whole and of this origin."""
    try:
        with np.load(file) as held:
            return str(held["origin"]) == origin
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return False


def _encode(model: Model, prompt: str) -> list[int]:
    tokenizer = model.tokenizer
    if not tokenizer.chat_template:
        return model.encode(prompt).tolist()
    message = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    return model.encode(str(text), bos=False).tolist()


@torch.inference_mode()
def _answer(
    model: Model, ids: list[list[int]], n_new: int, *, temperature: float, seed: int
) -> list[np.ndarray]:
    """Answers of one batch, padded on the left while they are written."""
    width = max(len(prompt) for prompt in ids)
    pad = model.module.generation_config.pad_token_id or 0
    block = torch.full((len(ids), width), pad, dtype=torch.int64, device=model.device)
    real = torch.zeros_like(block)
    for row, prompt in enumerate(ids):
        block[row, width - len(prompt) :] = torch.tensor(prompt, device=model.device)
        real[row, width - len(prompt) :] = 1
    drawn = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = cast("Any", model.module).generate(
            block, attention_mask=real, max_new_tokens=n_new, pad_token_id=pad, **drawn
        )
    ends = model.module.generation_config.eos_token_id
    stops = set(ends if isinstance(ends, list) else [ends])
    return [
        np.array(prompt + _until(made[row, width:].tolist(), stops), dtype=np.int32)
        for row, prompt in enumerate(ids)
    ]


def _until(answer: list[int], stops: set[int | None]) -> list[int]:
    for place, token in enumerate(answer):
        if token in stops:
            return answer[: place + 1]
    return answer
