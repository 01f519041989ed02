"""One file for each view: pure functions from a picture of the run to lines of text."""
