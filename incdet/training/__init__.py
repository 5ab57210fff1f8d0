"""The loop, its schedules and batches, and the four steps of an increment."""
