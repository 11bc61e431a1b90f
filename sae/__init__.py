"""Taking apart: sparse autoencoders and superposition."""
