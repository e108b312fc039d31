"""Decoding ahead of the encoders, in processes of its own: from jobs to items and windows, in an order that is sure."""
