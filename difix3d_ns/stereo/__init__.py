"""Start points from the photos: plane-sweep stereo, a check between photos, and what fills the unmatched pixels."""
