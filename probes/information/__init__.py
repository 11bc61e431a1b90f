"""Information: what hidden states hold of the tokens to come (arXiv 2507.19247).

Finite kernels and sources with known answers (`kernel`, `sources`, `toys`), the entropy of
predictions (`entropy`), usable information of layers (`usable`, `readout`), other estimators of it
(`model_law`, `plug_in`, `kernel_estimators`), the head's geometry (`head_geometry`), the likeness of
contexts (`alignment`), and readings over a run file.
"""
