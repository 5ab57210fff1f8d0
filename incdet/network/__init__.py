"""The detector: a batch of images in, head outputs and detections out."""
