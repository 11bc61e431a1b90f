"""Experiments on superposition; each module is one, run by one command."""
