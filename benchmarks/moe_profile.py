"""What profiling experts costs beside a bare forward pass, and that its memory does not grow.

Run: python benchmarks/moe_profile.py [rounds]
"""

from __future__ import annotations

import sys
import warnings

import torch
import transformers as hf
from common import console, header, interleaved, show

from fluoroscope.moe.profile import profile_experts
from fluoroscope.moe.statistics import expert_statistics
from fluoroscope.probes import wrap_model
from fluoroscope.probes.readings import Texts

N_TEXTS, LENGTH = 4, 256


def model():
    """A Qwen3-MoE of 8 layers, 32 experts of 256 neurons, 4 active, width 512; random weights."""
    torch.manual_seed(0)
    config = hf.Qwen3MoeConfig(
        vocab_size=2048, hidden_size=512, intermediate_size=1024, num_hidden_layers=8,
        num_attention_heads=8, num_key_value_heads=4, head_dim=64, num_experts=32,
        num_experts_per_tok=4, moe_intermediate_size=256,
    )  # fmt: skip
    return wrap_model(hf.AutoModelForCausalLM.from_config(config).eval(), name="Qwen3-MoE, random")


def texts(n: int) -> Texts:
    """Random texts of one length."""
    ids = torch.randint(0, 2048, (n, LENGTH), generator=torch.Generator().manual_seed(1)).numpy()
    return Texts(tuple(ids), tuple(str(i) for i in range(n)))


@torch.no_grad()
def main() -> None:
    """Time and measure."""
    warnings.simplefilter("ignore")
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    opened, some = model(), texts(N_TEXTS)

    def forward() -> None:
        for _, ids in some.batches():
            opened(ids, use_cache=False)

    def eager() -> None:
        before = opened.module.config._experts_implementation or "eager"
        opened.module.set_experts_implementation("eager")
        forward()
        opened.module.set_experts_implementation(before)

    def statistics() -> None:
        with expert_statistics(opened):
            forward()

    contestants = {
        "bare forward": forward,
        "bare forward, eager experts": eager,
        "statistics alone": statistics,
        "profile (statistics, residual sizes)": lambda: profile_experts(opened, some),
    }
    header("Profiling experts", model=opened.name, texts=f"{N_TEXTS} x {LENGTH}", rounds=rounds)
    work = N_TEXTS * LENGTH
    times = interleaved(contestants, rounds=rounds)
    show(times, work=work, unit="tokens", against="bare forward")
    for n in (4, 16):
        with expert_statistics(opened) as found:
            for _, ids in texts(n).batches():
                opened(ids, use_cache=False)
        held = sum(v.numel() * v.element_size() for v in vars(found).values() if torch.is_tensor(v))
        console.print(f"{n * LENGTH} tokens: {held / 1e3:.1f} kB of statistics held")


if __name__ == "__main__":
    main()
