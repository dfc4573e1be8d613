"""Images of a scene: photos as training reads them, and metrics of renders against photos."""
