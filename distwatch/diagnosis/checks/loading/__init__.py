"""load.*: models that stop loading, or whose parameters end up where later code cannot use them."""
