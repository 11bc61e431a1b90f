"""Plain decoding against `model.generate`, greedy, the embedded model in float32.

    python benchmarks/decode.py [--rounds N]

`generate` runs on a model opened by plain transformers; ours on a model of its own, whose wide weights
are laid out for decoding (see decoding/layout.py). Traces are always on; capture is a contestant of
its own. The tokens must agree, else the command fails.
"""

from __future__ import annotations

import argparse

import torch
from common import header, interleaved, show

from fluoroscope.decoding import generate
from fluoroscope.probes import open_model

PROMPT = "Once upon a time there was a researcher who wanted to see inside a language model. She"
N_TOKENS = 64


def main() -> None:
    """Run all contestants and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    plain, ours = open_model().module, open_model()
    ids = ours.encode(PROMPT)

    @torch.no_grad()
    def by_generate() -> list[int]:
        options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 2}
        made = plain.generate(ids[None], max_new_tokens=N_TOKENS, **options)
        return made[0, len(ids) :].tolist()

    def by_engine(sites: tuple[str, ...] = ()) -> list[int]:
        made = generate(ours, ids, max_new_tokens=N_TOKENS, ignore_eos=True, sites=sites)
        return list(made[0].token_ids)

    if by_generate() != by_engine():
        raise SystemExit("the two do not give the same tokens")
    header(
        "Plain decoding", prompt=f"{len(ids)} tokens", new=N_TOKENS, batch=1, dtype="float32",
        rounds=rounds,
    )  # fmt: skip
    times = interleaved(
        {
            "model.generate": by_generate,
            "fluoroscope, traced": by_engine,
            "fluoroscope, traced, all resid_post captured": lambda: by_engine((
                "layers.*.resid_post",
            )),
        },
        rounds=rounds,
    )
    show(times, work=N_TOKENS, unit="tokens", against="model.generate")


if __name__ == "__main__":
    main()
