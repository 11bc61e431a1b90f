"""Small sequence-to-sequence models: causal LM, regularised encoder-decoder, PALM (2304.04052)."""

from .comparison import (
    CONSTRUCTIONS,
    SourceRecall,
    TrainingOptions,
    compare_constructions,
    train,
)
from .layers import Memory, Seq2Seq, Seq2SeqOptions
from .lm import CausalLM
from .palm import PartialAttentionLM
from .red import CONSTRAINTS, RegularisedEncoderDecoder
from .tasks import Batch, TaskOptions, draw

__all__ = [
    "CONSTRAINTS",
    "CONSTRUCTIONS",
    "Batch",
    "CausalLM",
    "Memory",
    "PartialAttentionLM",
    "RegularisedEncoderDecoder",
    "Seq2Seq",
    "Seq2SeqOptions",
    "SourceRecall",
    "TaskOptions",
    "TrainingOptions",
    "compare_constructions",
    "draw",
    "train",
]
