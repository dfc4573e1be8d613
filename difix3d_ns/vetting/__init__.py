"""Vetting of fixed views: how reliable the network is, which views teach and how much each pixel counts."""
