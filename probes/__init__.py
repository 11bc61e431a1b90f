"""Seeing: open a model, name its sites, capture, store, probe."""
