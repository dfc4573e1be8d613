"""The one prompt that Difix is trained with and run with."""

PROMPT = "remove degradation"
