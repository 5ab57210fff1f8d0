"""What tools/chaos.py and tools/fuzz.py do to incdet, and how they tell whether it withstood."""
