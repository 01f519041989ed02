"""Which run a word of the user's means, and how it is opened: on disk, live or through its root."""
