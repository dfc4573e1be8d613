"""Videos: reading, writing and joining them, and how steady their frames are."""
