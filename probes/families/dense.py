"""Dense transformers."""

from transformers import PretrainedConfig

from .family import Family, Place

LLAMA_PLACES = {
    "attn.out": Place("self_attn"),
    "resid_mid": Place("post_attention_layernorm", "input"),
    "mlp.hidden": Place("mlp.down_proj", "input"),
    "mlp.out": Place("mlp"),
}
"""Pre-norm blocks with a gated MLP; most families since Llama."""

SANDWICH_PLACES = {
    "attn.out": Place("post_attention_layernorm"),
    "resid_mid": Place("pre_feedforward_layernorm", "input"),
    "mlp.hidden": Place("mlp.down_proj", "input"),
    "mlp.out": Place("post_feedforward_layernorm"),
}
"""Norms before and after each half (Gemma 2 and 3)."""


def _parallel_residual(config: PretrainedConfig) -> frozenset[str]:
    return frozenset({"resid_mid"} if config.use_parallel_residual else ())


def _parallel_falcon(config: PretrainedConfig) -> frozenset[str]:
    parallel = config.parallel_attn or config.new_decoder_architecture
    return frozenset({"resid_mid"} if parallel else ())


def _post_norm_opt(config: PretrainedConfig) -> frozenset[str]:
    # OPT-350m norms the sum, so nothing that a module sees is added to the stream as it is.
    return frozenset() if config.do_layer_norm_before else frozenset({"resid_mid"})


DENSE = (
    Family(
        name="llama",
        model_types=("llama", "mistral", "ministral", "smollm3", "qwen2", "qwen3", "phi3"),
        places=LLAMA_PLACES,
    ),
    Family(
        name="gemma",
        model_types=("gemma2", "gemma3_text"),
        places=SANDWICH_PLACES,
    ),
    Family(
        name="gemma3 inside its multimodal wrapper",
        model_types=("gemma3",),
        layers="model.language_model.layers",
        embed="model.language_model.embed_tokens",
        final_norm="model.language_model.norm",
        places=SANDWICH_PLACES,
    ),
    Family(
        name="olmo2",
        model_types=("olmo2", "olmo3"),
        places={
            "attn.out": Place("post_attention_layernorm"),
            "resid_mid": Place("mlp", "input"),
            "mlp.hidden": Place("mlp.down_proj", "input"),
            "mlp.out": Place("post_feedforward_layernorm"),
        },
    ),
    Family(
        name="gpt2",
        model_types=("gpt2",),
        layers="transformer.h",
        embed="transformer.wte",
        final_norm="transformer.ln_f",
        attention="attn",
        places={
            "attn.out": Place("attn"),
            "resid_mid": Place("ln_2", "input"),
            "mlp.hidden": Place("mlp.c_proj", "input"),
            "mlp.out": Place("mlp"),
        },
    ),
    Family(
        name="gpt_neox",
        model_types=("gpt_neox",),
        layers="gpt_neox.layers",
        embed="gpt_neox.embed_in",
        final_norm="gpt_neox.final_layer_norm",
        attention="attention",
        places={
            "attn.out": Place("attention"),
            "resid_mid": Place("post_attention_layernorm", "input"),
            "mlp.hidden": Place("mlp.dense_4h_to_h", "input"),
            "mlp.out": Place("mlp"),
        },
        missing=_parallel_residual,
    ),
    Family(
        name="opt",
        model_types=("opt",),
        layers="model.decoder.layers",
        embed="model.decoder.embed_tokens",
        final_norm="model.decoder.final_layer_norm",
        places={
            "attn.out": Place("self_attn"),
            "resid_mid": Place("final_layer_norm", "input", flat=True),
            "mlp.hidden": Place("fc2", "input", flat=True),
            "mlp.out": Place("fc2", flat=True),
        },
        missing=_post_norm_opt,
    ),
    Family(
        name="falcon",
        model_types=("falcon",),
        layers="transformer.h",
        embed="transformer.word_embeddings",
        final_norm="transformer.ln_f",
        attention="self_attention",
        places={
            "attn.out": Place("self_attention"),
            "resid_mid": Place("post_attention_layernorm", "input"),
            "mlp.hidden": Place("mlp.dense_4h_to_h", "input"),
            "mlp.out": Place("mlp"),
        },
        missing=_parallel_falcon,
    ),
    Family(
        name="starcoder2",
        model_types=("starcoder2",),
        places={**LLAMA_PLACES, "mlp.hidden": Place("mlp.c_proj", "input")},
    ),
    Family(
        name="stablelm",
        model_types=("stablelm",),
        places=LLAMA_PLACES,
        missing=_parallel_residual,
    ),
)
