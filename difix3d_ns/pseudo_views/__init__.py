"""Pseudo views: fixed novel views that teach, in memory and in the run's folder."""
