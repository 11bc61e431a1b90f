"""Readings: what captured states say (lenses, massive activations, sinks, probes, loss)."""
