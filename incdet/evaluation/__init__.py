"""Detections in, figures out."""
