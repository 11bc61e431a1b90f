"""A block writer: an encoder-decoder that fills a row of masks behind a prefix, all at once.

The drafter of generalised Aggressive Decoding (2205.10350, section 4; 2203.16487): a transformer whose
decoder looks at the source, at the output so far and at every mask, without causal order, and predicts
the tokens at the masks in one pass. With `rounds` above one the least sure of them are masked again and
predicted anew (mask-predict, 1904.09324).

Deviations: pre-norm layers of torch's own `nn.Transformer` (there: BERT's); a mask embedding of its own
instead of the unknown token.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64
from safetensors.torch import save_file
from torch import Tensor, nn

from ...probes import Model
from ...probes.errors import OptionError
from ...probes.runfile.atomic import replacing
from ..errors import DraftError
from ..students.student import opened

MASK = -1
"""Stands for the mask among token ids."""
PAD = -2
"""Fills up shorter rows; nobody looks at it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockWriterOptions:
    """Shape of a `BlockWriter` (the paper: 6 + 6 layers of width 512 with 8 heads)."""

    d_model: int = 96
    """Width."""
    n_heads: int = 4
    """Attention heads."""
    d_mlp: int = 192
    """Width inside the MLPs."""
    n_encoder: int = 2
    """Encoder layers."""
    n_decoder: int = 2
    """Decoder layers."""
    max_positions: int = 128
    """Longest source, and longest output with its masks."""
    dropout: float = 0.1
    """While it is taught."""

    def __post_init__(self) -> None:
        for name in ("d_model", "n_heads", "d_mlp", "n_encoder", "n_decoder", "max_positions"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.d_model % self.n_heads:
            raise OptionError(
                f"d_model must be a multiple of n_heads, got {self.d_model} and {self.n_heads}."
            )


class BlockWriter(nn.Module):
    """Fills masks.

    Args:
        d_vocab: Tokens, the target's.
        options: Its shape.
    """

    name = "block writer"

    def __init__(self, d_vocab: int, options: BlockWriterOptions | None = None) -> None:
        super().__init__()
        self.d_vocab = d_vocab
        self.options = o = options or BlockWriterOptions()
        shape = {"dropout": o.dropout, "activation": "gelu", "batch_first": True}
        self.tokens = nn.Embedding(d_vocab + 1, o.d_model)  # the last one is the mask
        self.source_places = nn.Embedding(o.max_positions, o.d_model)
        self.output_places = nn.Embedding(o.max_positions, o.d_model)
        encoder = nn.TransformerEncoderLayer(
            o.d_model, o.n_heads, o.d_mlp, norm_first=True, **shape
        )
        decoder = nn.TransformerDecoderLayer(
            o.d_model, o.n_heads, o.d_mlp, norm_first=True, **shape
        )
        self.encoder = nn.TransformerEncoder(
            encoder, o.n_encoder, nn.LayerNorm(o.d_model), enable_nested_tensor=False
        )
        self.decoder = nn.TransformerDecoder(decoder, o.n_decoder, nn.LayerNorm(o.d_model))
        for table in (self.tokens, self.source_places, self.output_places):
            nn.init.normal_(table.weight, std=0.02)

    def encode(
        self, source: Int64[Tensor, "batch source"]
    ) -> tuple[Float[Tensor, "batch source d_model"], Bool[Tensor, "batch source"]]:
        """States of the source, and where it is padding."""
        padding = source == PAD
        states = self._embed(source, self.source_places)
        return self.encoder(states, src_key_padding_mask=padding), padding

    def forward(
        self,
        memory: tuple[Float[Tensor, "batch source d_model"], Bool[Tensor, "batch source"]],
        output: Int64[Tensor, "batch output"],
    ) -> Float[Tensor, "batch output d_vocab"]:
        """Logits at every place of an output with masks in it."""
        states, padding = memory
        made = self.decoder(
            self._embed(output, self.output_places),
            states,
            tgt_key_padding_mask=output == PAD,
            memory_key_padding_mask=padding,
        )
        return nn.functional.linear(made, self.tokens.weight[: self.d_vocab])

    @torch.inference_mode()
    def write(
        self,
        memory: tuple[Float[Tensor, "1 source d_model"], Bool[Tensor, "1 source"]],
        prefix: Sequence[int],
        length: int,
        *,
        rounds: int = 1,
    ) -> tuple[list[int], list[float]]:
        """A block of tokens after `prefix`, and how sure each is.

        Args:
            memory: Of the source, see `encode`.
            prefix: Output so far.
            length: Tokens to write; fewer where positions end.
            rounds: Passes; after each but the last, the least sure tokens are masked again, linearly
                fewer every time.
        """
        length = min(length, self.options.max_positions - len(prefix))
        if length < 1:
            return [], []
        row = torch.tensor([[*prefix, *[MASK] * length]], device=memory[0].device)
        trust = torch.zeros(length, device=row.device)
        masked = torch.ones(length, dtype=torch.bool, device=row.device)
        for done in range(1, rounds + 1):
            probs = self(memory, row)[0, len(prefix) :].softmax(-1)
            best = probs.max(-1)
            trust = torch.where(masked, best.values, trust)
            block = torch.where(masked, best.indices, row[0, len(prefix) :])
            row[0, len(prefix) :] = block
            n_again = length * (rounds - done) // rounds
            masked = torch.zeros_like(masked)
            if n_again:
                masked[trust.topk(n_again, largest=False).indices] = True
                row[0, len(prefix) :] = torch.where(masked, MASK, block)
        return row[0, len(prefix) :].tolist(), trust.tolist()

    def _embed(self, ids: Tensor, places: nn.Embedding) -> Tensor:
        known = torch.where(ids == MASK, self.d_vocab, ids.clamp(min=0))
        return self.tokens(known) + places.weight[: ids.shape[1]]


def save_block_writer(writer: BlockWriter, file: Path, target: Model) -> None:
    """Write a block writer and what it belongs to; the file appears whole or not at all."""
    facts = {
        "options": json.dumps(asdict(writer.options)),
        "d_vocab": str(writer.d_vocab),
        "target": target.name,
        "target_digest": target.weights_digest,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as path:
        save_file({k: v.contiguous() for k, v in writer.state_dict().items()}, path, facts)


def open_block_writer(target: Model, file: Path | str) -> BlockWriter:
    """Open the block writer of a target.

    Raises:
        DraftError: There is no such file, it holds something else, or it is another model's.
    """
    path = Path(file)
    if not path.is_file():
        raise DraftError(f"No block writer at {path.name}; `teach_block_writer` makes one.")
    with opened(path) as held:
        facts = held.metadata() or {}
        if "options" not in facts or "d_vocab" not in facts:
            raise DraftError(f"{path.name} holds no block writer.")
        if facts.get("target_digest") != target.weights_digest:
            raise DraftError(
                f"{path.name} writes for {facts.get('target', 'another model')} with other weights "
                f"than {target.name}. Teach one for it: `teach_block_writer`."
            )
        options = BlockWriterOptions(**json.loads(facts["options"]))
        writer = BlockWriter(int(facts["d_vocab"]), options)
        writer.load_state_dict({name: held.get_tensor(name) for name in held.keys()})  # noqa: SIM118
    return writer.to(target.device).eval()
