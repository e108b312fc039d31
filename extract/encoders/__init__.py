"""Frozen encoders. The only folder of the project that imports jax, open_clip or transformers."""
