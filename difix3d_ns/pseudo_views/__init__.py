"""Pseudo views: fixed novel views that training draws, in memory and in the run's folder."""
