"""Aligned references: training photos warped to where a render shows what they show."""
