"""Mixtures of experts. Dense layers among them (and shared experts) keep `mlp.hidden`."""

from .dense import LLAMA_PLACES
from .family import Family, Place

MOE = (
    Family(
        name="mixture of experts in Llama's blocks",
        model_types=(
            "mixtral",
            "qwen2_moe",
            "qwen3_moe",
            "olmoe",
            "deepseek_v2",
            "deepseek_v3",
        ),
        places=LLAMA_PLACES,
    ),
    Family(
        name="gpt_oss",
        model_types=("gpt_oss",),
        router="mlp.router",
        places=LLAMA_PLACES,
    ),
    Family(
        name="MoE-X in GPT-2's blocks",
        model_types=("moex",),
        home="moe.moex.network",
        layers="transformer.h",
        embed="transformer.wte",
        final_norm="transformer.ln_f",
        attention="attn",
        router="mlp.router",
        places={
            "attn.out": Place("attn"),
            "resid_mid": Place("ln_2", "input"),
            "mlp.out": Place("mlp"),
        },
    ),
)
