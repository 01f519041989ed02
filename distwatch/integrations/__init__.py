"""What to patch, read and initialize: one file a library, declared in the registry."""
