"""An opened model: the module that runs, its tokenizer, and the names of its sites."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import torch
import transformers
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .digest import tensors_digest
from .errors import ModelError
from .sites import SiteMap, StopForward
from .vocabulary import Vocabulary, read_vocabulary

Backend = Literal["transformers", "transformer_lens", "nnsight"]


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Where a model came from and how it runs, as a run file records it."""

    name: str
    """What the user asked for, without local paths."""
    architecture: str
    model_type: str
    backend: str
    dtype: str
    device: str
    attn_implementation: str
    n_parameters: int
    weights_digest: str
    """SHA-256 of the weights."""
    tokenizer_digest: str | None
    """SHA-256 of the tokenizer's own serialisation; None without a tokenizer."""
    licence: str | None
    config: dict[str, Any]
    versions: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return asdict(self)


class Model:
    """A causal language model, opened for looking inside.

    Args:
        module: The Hugging Face module whose forward pass runs, whatever the backend.
        tokenizer: Its tokenizer, if any.
        sites: Its sites.
        name: What to call it.
        backend: Which library drives it.
        native: The backend's own object; `module` itself for plain transformers.
        call: How a forward pass is run through the backend, returning the model's output.
        weights_digest: SHA-256 of the weights where already known; else computed when asked for.
        licence: Licence of the weights, if known.
    """

    def __init__(
        self,
        module: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        sites: SiteMap,
        *,
        name: str,
        backend: Backend = "transformers",
        native: Any = None,
        call: Callable[..., Any] | None = None,
        weights_digest: str | None = None,
        licence: str | None = None,
    ) -> None:
        self.module, self._tokenizer, self.sites = module, tokenizer, sites
        self.name, self.backend = name, backend
        self.native = module if native is None else native
        self._call = module if call is None else call
        self._weights_digest, self._licence = weights_digest, licence

    def __call__(self, input_ids: Int64[Tensor, "batch positions"], **options: Any) -> Any:
        """One forward pass.

        Args:
            input_ids: Token ids.
            options: Passed on to the module (attention_mask, past_key_values, ...).

        Returns:
            The model's output with `logits`; None when a capture that has all it asked for stopped
            the pass early.
        """
        try:
            return self._call(input_ids.to(self.device), **options)
        except StopForward:
            return None

    def generate(self, *args: Any, **options: Any) -> Any:
        """The Hugging Face module's own `generate`; captures and interventions see it."""
        return self.module.generate(*args, **options)  # type: ignore[operator]

    def encode(self, text: str, *, bos: bool | None = None) -> Int64[Tensor, " tokens"]:
        """Token ids of a text.

        Args:
            text: Any text.
            bos: Whether the beginning-of-sequence token comes first; None does what the tokenizer
                does by default.

        Raises:
            ModelError: There is no tokenizer, or no such token where one is asked for.
        """
        ids = self.tokenizer(text, add_special_tokens=bos is None)["input_ids"]
        if bos:
            if self.tokenizer.bos_token_id is None:
                raise ModelError(
                    f"bos=True needs a beginning-of-sequence token; the tokenizer of {self.name} "
                    "has none. Use bos=False."
                )
            ids = [self.tokenizer.bos_token_id, *ids]
        return torch.tensor(ids, dtype=torch.int64)

    def decode(self, ids: Sequence[int] | Int64[Tensor, " tokens"]) -> str:
        """The text of token ids, special tokens included, spaces as they are."""
        return str(self.tokenizer.decode([int(i) for i in ids], clean_up_tokenization_spaces=False))

    def unembed(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_vocab"]:
        """Logits the model would return were `resid` its last residual stream.

        The final norm, the unembedding and whatever scale or soft cap the architecture has.
        """
        return self.logits_of(self.final_norm(resid))

    def logits_of(self, normed: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_vocab"]:
        """Logits of a stream that has passed the final norm already."""
        config = self.module.config.get_text_config()
        logits = self.unembedding(normed)
        scale, divisor = getattr(config, "logit_scale", None), getattr(config, "logits_scaling", 1)
        if scale is not None:
            logits = logits * scale
        if divisor != 1:
            logits = logits / divisor
        cap = getattr(config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer.

        Raises:
            ModelError: The model was opened without one.
        """
        if self._tokenizer is None:
            raise ModelError(f"{self.name} was opened without a tokenizer; pass ids, not text.")
        return self._tokenizer

    @property
    def has_tokenizer(self) -> bool:
        """Whether there is a tokenizer."""
        return self._tokenizer is not None

    @property
    def final_norm(self) -> nn.Module:
        """The norm before the unembedding."""
        return self.sites["final_norm"].port.module  # type: ignore[attr-defined]

    @property
    def unembedding(self) -> nn.Module:
        """The linear map from the normed residual stream to logits."""
        head = self.module.get_output_embeddings()
        if head is None:
            raise ModelError(f"{self.name} has no unembedding; it is no causal language model.")
        return head

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Bytes of every token, decoded once."""
        return read_vocabulary(self.tokenizer)

    @property
    def config(self) -> Any:
        """The text model's configuration."""
        return self.module.config.get_text_config()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.module.device

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights."""
        return self.module.dtype

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return self.sites.n_layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        width = self.sites["final_norm"].width
        assert width is not None
        return width

    @property
    def d_vocab(self) -> int:
        """Number of logits."""
        width = self.sites["logits"].width
        assert width is not None
        return width

    @property
    def n_heads(self) -> int | None:
        """Attention heads per layer; None without attention."""
        return getattr(self.config, "num_attention_heads", None)

    @property
    def max_positions(self) -> int | None:
        """Longest context the position embedding allows, if it sets one."""
        return getattr(self.config, "max_position_embeddings", None)

    @cached_property
    def weights_digest(self) -> str:
        """SHA-256 of the weights: of their files where opened from files, else of the tensors."""
        return self._weights_digest or tensors_digest(self.module.state_dict().items())

    @property
    def is_from_files(self) -> bool:
        """Whether the digest is that of files, known without reading the weights."""
        return self._weights_digest is not None

    @cached_property
    def tokenizer_digest(self) -> str | None:
        """SHA-256 of the tokenizer's serialisation."""
        if self._tokenizer is None:
            return None
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        text = backend.to_str() if backend else json.dumps(self._tokenizer.get_vocab())
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def info(self) -> ModelInfo:
        """Where the model came from and how it runs."""
        config = json.loads(self.module.config.to_json_string(use_diff=False))
        config.pop("_name_or_path", None)  # a local path says nothing about the model
        return ModelInfo(
            name=self.name,
            architecture=type(self.module).__name__,
            model_type=self.module.config.model_type,
            backend=self.backend,
            dtype=str(self.dtype).removeprefix("torch."),
            device=self.device.type,
            attn_implementation=str(self.module.config._attn_implementation),
            n_parameters=sum(parameter.numel() for parameter in self.module.parameters()),
            weights_digest=self.weights_digest,
            tokenizer_digest=self.tokenizer_digest,
            licence=self._licence,
            config=config,
            versions={
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
        )

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"Model({self.name}: {type(self.module).__name__}, {self.n_layers} layers x "
            f"{self.d_model}, {dtype} on {self.device}, backend {self.backend}, "
            f"{self.config._attn_implementation} attention)"
        )
