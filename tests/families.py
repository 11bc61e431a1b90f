"""Tiny random models of every listed family, built from configurations."""

import os
from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from fluoroscope.moe.moex.network import MoexConfig

DEVICE = os.environ.get("FLUOROSCOPE_TEST_DEVICE", "cpu")
"""Where tiny models lie: `cuda` runs the suite's library code on a GPU (see CONTRIBUTING)."""
COMMON: dict[str, Any] = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
}
GQA: dict[str, Any] = {**COMMON, "num_key_value_heads": 2}
MOE: dict[str, Any] = {
    **GQA,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
}
DEEPSEEK: dict[str, Any] = {
    **COMMON, "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 24, "n_shared_experts": 1, "first_k_dense_replace": 1,
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 8, "n_group": 1, "topk_group": 1,
}  # fmt: skip
GPT2: dict[str, Any] = {"vocab_size": 260, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128,
        "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258}  # fmt: skip

TINY_CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: hf.LlamaConfig(**GQA),
    "mistral": lambda: hf.MistralConfig(**GQA, sliding_window=4),
    "smollm3": lambda: hf.SmolLM3Config(**GQA),
    "qwen2": lambda: hf.Qwen2Config(**GQA),
    "qwen3": lambda: hf.Qwen3Config(**GQA),
    "gemma2": lambda: hf.Gemma2Config(**GQA, head_dim=8),
    "gemma3": lambda: hf.Gemma3TextConfig(**GQA, head_dim=8),
    "phi3": lambda: hf.Phi3Config(**GQA),
    "gpt2": lambda: hf.GPT2Config(**GPT2),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**COMMON),
    "gpt_neox sequential": lambda: hf.GPTNeoXConfig(**COMMON, use_parallel_residual=False),
    "opt": lambda: hf.OPTConfig(
        vocab_size=260, hidden_size=32, ffn_dim=48, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=128, word_embed_proj_dim=32, dropout=0.0, attention_dropout=0.0,
        bos_token_id=256, eos_token_id=257, pad_token_id=258,
    ),
    "olmo2": lambda: hf.Olmo2Config(**GQA),
    "falcon": lambda: hf.FalconConfig(**COMMON, parallel_attn=True, bias=False),
    "falcon new": lambda: hf.FalconConfig(
        **COMMON, new_decoder_architecture=True, num_kv_heads=2, bias=False
    ),
    "falcon sequential": lambda: hf.FalconConfig(
        **COMMON, parallel_attn=False, multi_query=False, bias=False
    ),
    "falcon alibi": lambda: hf.FalconConfig(
        **COMMON, parallel_attn=False, multi_query=False, alibi=True, bias=False
    ),
    "starcoder2": lambda: hf.Starcoder2Config(**GQA, residual_dropout=0.0, embedding_dropout=0.0),
    "stablelm": lambda: hf.StableLmConfig(**COMMON, num_key_value_heads=4),
    "stablelm parallel": lambda: hf.StableLmConfig(
        **COMMON, num_key_value_heads=4, use_parallel_residual=True
    ),
    "mixtral": lambda: hf.MixtralConfig(**GQA, num_local_experts=4, num_experts_per_tok=2),
    "qwen2_moe": lambda: hf.Qwen2MoeConfig(**MOE, shared_expert_intermediate_size=24),
    "qwen3_moe": lambda: hf.Qwen3MoeConfig(**MOE),
    "olmoe": lambda: hf.OlmoeConfig(**GQA, num_experts=4, num_experts_per_tok=2),
    "deepseek_v2": lambda: hf.DeepseekV2Config(**DEEPSEEK),
    "deepseek_v3": lambda: hf.DeepseekV3Config(**DEEPSEEK),
    "gpt_oss": lambda: hf.GptOssConfig(
        **GQA, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=4
    ),
    "moex": lambda: MoexConfig(
        **GPT2, num_experts=4, num_experts_per_tok=2, expert_size=24, initializer_range=0.08
    ),
    "mamba2": lambda: hf.Mamba2Config(
        vocab_size=260, hidden_size=32, num_hidden_layers=3, num_heads=8, head_dim=8, expand=2,
        state_size=8, n_groups=1, chunk_size=4, bos_token_id=256, eos_token_id=257,
        pad_token_id=258,
    ),
    "bamba": lambda: hf.BambaConfig(
        **GQA, mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8, mamba_expand=2, mamba_n_groups=1,
        mamba_chunk_size=4, attn_layer_indices=[1],
    ),
    "lfm2": lambda: hf.Lfm2Config(
        **GQA, layer_types=["conv", "full_attention", "conv"], block_multiple_of=8
    ),
}  # fmt: skip

DENSE = ("llama", "qwen3", "gemma2", "gpt2", "gpt_neox", "olmo2")
MIXTURES = (
    "mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v3", "gpt_oss",
    "moex",
)  # fmt: skip

UNLISTED: dict[str, Callable[[], PretrainedConfig]] = {
    "cohere": lambda: hf.CohereConfig(**GQA),
    "phi": lambda: hf.PhiConfig(**COMMON),
    "olmo": lambda: hf.OlmoConfig(**GQA),
    "glm": lambda: hf.GlmConfig(**GQA, head_dim=8),
    "exaone4": lambda: hf.Exaone4Config(**GQA),
    "nemotron": lambda: hf.NemotronConfig(**GQA),
}


def tiny_module(family: str, *, seed: int = 0, **overrides: object) -> PreTrainedModel:
    """A tiny model with random weights, float32, in evaluation mode."""
    config = {**TINY_CONFIGS, **UNLISTED}[family]()
    for name, value in overrides.items():
        setattr(config, name, value)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = AutoModelForCausalLM.from_config(config)
        for parameter in module.parameters():
            if parameter.ndim > 1 or not parameter.any():
                torch.nn.init.normal_(parameter, std=0.08)
    return module.eval().to(DEVICE)
