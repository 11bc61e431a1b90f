"""Engines that draft: one file per paper, each a drafter, its options and its registration."""
