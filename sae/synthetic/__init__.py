"""Data whose truth is known: the hierarchical tree benchmark."""
