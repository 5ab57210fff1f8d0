"""What people touch: the command line, runs and their folders."""
