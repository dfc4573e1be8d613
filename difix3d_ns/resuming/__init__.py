"""Resuming: reading checkpoints, and finding out what a run starts from."""
