"""Experts: routing, super experts, pruning, carving."""
