"""The terminal's view of one run: live and replay alike. The only importer of Textual."""
