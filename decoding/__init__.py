"""Engines: everything that turns a prompt into tokens under the same hooks."""
