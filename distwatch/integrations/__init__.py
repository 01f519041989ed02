"""What to patch, read and initialize: one file for each library, declared in the registry."""
