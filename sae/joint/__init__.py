"""A second modality: a small image-text space, and what dictionaries find in it."""
