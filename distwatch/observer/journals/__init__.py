"""A run on disk: rings and pulses are taken in, journals are written and read."""
