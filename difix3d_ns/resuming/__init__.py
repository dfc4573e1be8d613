"""Resuming: reading checkpoints, and what a run starts from."""
