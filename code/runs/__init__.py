"""A run on disk: its folder and lock, state, weights, record, metrics and pictures."""
