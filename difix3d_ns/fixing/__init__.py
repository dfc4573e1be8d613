"""Fixing a render: the fixer protocol, Difix as a fixer, and the photo that it is given as reference."""
