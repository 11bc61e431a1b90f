"""Whether PEARL pays: its tokens per pass in closed form, and what that gives by measured costs."""

from __future__ import annotations


def tokens_per_pass(acceptance: float, window: int) -> float:
    """Tokens per pass of the target, if every draft token is accepted with the same chance.

    (1 / (1 - a)) / (1 + a / (1 - a^window)), from the state machine; `window` for a = 1.
    """
    if acceptance >= 1:
        return float(window)
    return 1 / (1 - acceptance) / (1 + acceptance / (1 - acceptance**window))


def explain(acceptance: float, window: int, plain_s: float, round_s: float, draft_s: float) -> str:
    """Whether PEARL pays, in words and figures, with draft and target on processors of their own.

    Args:
        acceptance: Chance that a draft token is accepted.
        window: Tokens written per round.
        plain_s: Seconds of a target's pass over one row.
        round_s: Of one over `window` rows.
        draft_s: Of a draft's pass.
    """
    per_round = tokens_per_pass(acceptance, window)
    pearl = per_round / max(round_s, window * draft_s)
    vanilla_s = window * draft_s + round_s
    vanilla = (
        (1 - acceptance ** (window + 1)) / (1 - acceptance) if acceptance < 1 else window + 1.0
    ) / vanilla_s
    verdict = "pays" if pearl > max(vanilla, 1 / plain_s) else "does not pay"
    return (
        f"At an acceptance of {acceptance:.0%} and windows of {window}, PEARL {verdict} here: "
        f"{per_round:.2f} tokens per pass and {pearl:.1f} tokens/s, against {1 / plain_s:.1f} for "
        f"plain decoding and {vanilla:.1f} for drafting and verifying in turn. This takes draft and "
        "target to run side by side undisturbed; where they share cores, memory bandwidth or one GPU, "
        "expect less."
    )
