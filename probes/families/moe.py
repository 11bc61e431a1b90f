"""Mixtures of experts. Dense layers among them (and shared experts) keep `mlp.hidden`."""

from .dense import LLAMA_PLACES
from .family import Family

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
)
