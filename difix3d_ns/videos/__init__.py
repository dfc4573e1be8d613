"""Videos: reading, writing and joining, and measuring and reducing flicker."""
