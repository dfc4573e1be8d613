"""Difix on plain frames and videos: `ns-difix enhance`. Light: video coding and the network load when they are used."""
