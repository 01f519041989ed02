"""What a viewer is told of a run: a picture of its state, then what changes."""
