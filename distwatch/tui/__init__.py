"""The terminal view of one run, live or replayed. The only importer of Textual."""
