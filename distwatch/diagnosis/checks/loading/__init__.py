"""load.*: models that stop loading, or came to lie where they will not work."""
