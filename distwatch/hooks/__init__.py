"""How to patch: after import, with undo, calling the original exactly once. Knows no library."""
