"""Vetting a fixed view: how far the network is trusted, which views teach and how much each pixel counts."""
