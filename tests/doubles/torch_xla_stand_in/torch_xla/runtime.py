"""A stand-in: imported, and asked nothing in CPU mode."""
