"""Job logs: who each line is of, and what the lines say about ranks."""
