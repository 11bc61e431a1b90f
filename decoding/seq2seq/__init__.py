"""Encoder-decoder models as targets, and drafters that write a block of their output at once."""

from .causal import AsCausal, open_seq2seq
from .nar import BlockWriter, BlockWriterOptions, open_block_writer, save_block_writer
from .numerals import Numerals
from .teach import TeachOptions, teach_block_writer, teach_target

__all__ = [
    "AsCausal",
    "BlockWriter",
    "BlockWriterOptions",
    "Numerals",
    "TeachOptions",
    "open_block_writer",
    "open_seq2seq",
    "save_block_writer",
    "teach_block_writer",
    "teach_target",
]
