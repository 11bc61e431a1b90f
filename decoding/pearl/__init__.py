"""PEARL (2408.11850): the draft writes while the target reads; neither waits for the other.

Every round runs both at once. The target reads what is pending, one row per token, and the draft writes
`window` more tokens behind it. *Pre-verify*: nothing is pending but the newest token of the text, and
its row decides about the first token of the new window, before any of them was read. *Post-verify*: the
rows of the pending tokens decide about them and about the first new one. If all pass, the rest of the
window is pending and the next round is a post-verify; else the target's own token follows, both drop
the rest, and the next round is a pre-verify. The first token of a window thus becomes text before the
target reads it: it is an accepted token of the trace, and among the step's nodes are those read only.

A round takes the longer of the two; a text of acceptance a gets
(1 / (1 - a)) / (1 + a / (1 - a^window)) tokens per pass of the target. It pays where draft and target
share no processor: on two GPUs, or on cores that the target leaves idle. See `Pearl.explain`.

Deviations from the published code: one side decides and tells the other (there both draw from
re-seeded generators, and the first test of a post-verify round reuses the uniform of the round before:
off by up to 0.08 in total variation for pairs of tokens); token ids travel as integers; nothing
unverified is returned at the end; where rounding leaves no residual, the target's law is drawn from.
"""

from .advice import explain, tokens_per_pass
from .engine import Pearl, PearlOptions
from .rounds import PearlState, Round

__all__ = ["Pearl", "PearlOptions", "PearlState", "Round", "explain", "tokens_per_pass"]
