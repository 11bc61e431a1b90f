"""Showing: one self-contained HTML page from one run file."""
