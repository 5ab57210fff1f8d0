"""One verb of the command line a file: its arguments, and the call of the function that does it.

These modules import nothing heavy at their top, so that ``--help`` answers at once.
"""
