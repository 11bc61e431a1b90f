"""MoE-X: mixtures of experts made interpretable, their baselines and what they are measured by."""
