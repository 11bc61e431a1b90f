"""An encoder-decoder model behind the interface of a causal one.

The text is the source and, behind it, the output; the prompt of an engine is the source. Reading the
prompt runs the encoder once and the decoder on its start token, so that the row of logits after the
prompt is the first output token's; whatever follows passes the decoder alone. Every engine that drafts
single continuations then serves encoder-decoder models as it is: `aggressive`, whose source is the
prompt, becomes the paper's input-guided Aggressive Decoding, and `gad` the generalised one.

What does not carry over: branching drafts (the decoder takes positions from its cache; such engines
refuse), and sites other than `logits`, since the rows of source and output pass different layers. The
length of source and output together is bounded by the decoder's positions.
"""

from __future__ import annotations

import copy
from typing import Any
from weakref import WeakKeyDictionary

from jaxtyping import Int64
from torch import Tensor, nn
from transformers import (
    Cache,
    DynamicCache,
    EncoderDecoderCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutputWithPast

from ...probes import Model
from ...probes.errors import UnsupportedArchitectureError
from ...probes.ports import ModulePort
from ...probes.sites import Site, SiteMap


class AsCausal(PreTrainedModel):
    """The causal face of an encoder-decoder module, which it shares.

    Args:
        module: BART, T5, Marian and their like.

    Raises:
        UnsupportedArchitectureError: It has no encoder, or does not say what its decoder starts with.
    """

    _supports_sdpa = True

    def __init__(self, module: PreTrainedModel) -> None:
        given: Any = module.config
        if not given.is_encoder_decoder or given.decoder_start_token_id is None:
            raise UnsupportedArchitectureError(
                f"{type(module).__name__} must be an encoder-decoder model with a "
                "decoder_start_token_id in its configuration; open causal models with open_model."
            )
        config = copy.deepcopy(given)
        config.is_encoder_decoder = False
        config.num_hidden_layers = getattr(
            given, "num_decoder_layers", getattr(given, "decoder_layers", given.num_hidden_layers)
        )
        super().__init__(config)
        self.inner = module
        self._start = int(given.decoder_start_token_id)
        self._encoded: WeakKeyDictionary[Cache, tuple[BaseModelOutput, Cache]] = WeakKeyDictionary()
        self.generation_config = copy.deepcopy(module.generation_config)

    def get_output_embeddings(self) -> nn.Module:
        """The unembedding."""
        return self.inner.get_output_embeddings()  # type: ignore[return-value]

    def forward(
        self,
        input_ids: Int64[Tensor, "1 positions"],
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        logits_to_keep: int = 0,
        **options: Any,
    ) -> CausalLMOutputWithPast:
        """The source, if the cache holds nothing yet; else more of the output.

        Args:
            input_ids: Source or output tokens.
            past_key_values: The decoder's own keys and values; None for a cache of its own.
            attention_mask: Not supported: a mask of four axes means a branching draft.
            logits_to_keep: Last rows returned; 0 for all. A source has one row: the first token's.
            options: Of the module.

        Raises:
            ValueError: A mask was given.
        """
        if attention_mask is not None:
            raise ValueError("an encoder-decoder model reads single continuations only")
        cache = DynamicCache() if past_key_values is None else past_key_values
        inner: Any = self.inner
        if cache.get_seq_length() == 0:
            encoded = inner.get_encoder()(input_ids)
            self._encoded[cache] = (encoded, DynamicCache())
            input_ids = input_ids.new_full((1, 1), self._start)
        encoded, across = self._encoded[cache]
        options.pop("use_cache", None)
        output = inner(
            encoder_outputs=encoded,
            decoder_input_ids=input_ids,
            past_key_values=EncoderDecoderCache(cache, across),
            use_cache=True,
            **options,
        )
        return CausalLMOutputWithPast(
            logits=output.logits[:, -logits_to_keep:], past_key_values=cache
        )


def open_seq2seq(
    module: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    name: str = "encoder-decoder",
) -> Model:
    """An encoder-decoder module as a model that engines decode with; prompts are sources.

    Args:
        module: The module, in evaluation mode.
        tokenizer: Of source and output, if text is to be used.
        name: What to call it.

    Raises:
        UnsupportedArchitectureError: It is no encoder-decoder model.
    """
    face = AsCausal(module).eval()
    weight = face.get_output_embeddings().weight
    assert isinstance(weight, Tensor)
    logits = Site("logits", "logits", None, ModulePort(face, "output", "logits"), len(weight))
    n_layers = int(face.config.num_hidden_layers)
    return Model(face, tokenizer, SiteMap([logits], n_layers=n_layers), name=name)
