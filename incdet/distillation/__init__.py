"""What a teacher is asked, what its answer means for a batch, and what that costs."""
