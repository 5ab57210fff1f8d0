"""Saved results in, plots and one HTML page out."""
