"""Images of a scene: photos as training sees them, and metrics of renders against them."""
