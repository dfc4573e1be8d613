"""What Difix says when it cannot do its work."""

from __future__ import annotations


class DifixError(ValueError):
    """Something the caller can put right: the message says what is wrong, where, and what to do."""


class DifixResultError(DifixError):
    """The network returned what is no picture: NaN, or black where there was something."""
