"""The exemplar memory: what is kept of the old data, and how it is chosen."""
