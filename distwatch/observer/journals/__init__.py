"""A run on disk: takes in rings and pulses, writes and reads journals."""
