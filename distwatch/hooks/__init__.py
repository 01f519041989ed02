"""How to patch: after import, with undo, and with exactly one call of the original. Knows no library."""
