"""Cleaning renders: the fixer protocol, Difix as a fixer, and the choice of the reference photo."""
