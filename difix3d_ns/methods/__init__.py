"""What the methods share, whatever represents the scene: photos and fixed views in training, outputs, the pipeline."""
