"""Trains Difix on pairs of degraded renders and photos."""
