"""Information: what hidden states hold of the tokens to come (arXiv 2507.19247), with its
corrections.

Finite kernels and sources with known answers (`kernel`, `sources`, `toys`), the entropy of
predictions (`entropy`), usable information of layers (`probes`, `draft_head`), the head's geometry
(`head_geometry`), the likeness of contexts (`alignment`), and one reading over a run file
(`reading`).
"""
