"""Cleans image files and videos with Difix: `ns-difix enhance`. Video coding and the network load when first used."""
