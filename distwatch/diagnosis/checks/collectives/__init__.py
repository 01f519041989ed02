"""collective.*: a rank that is missing in a collective, or calls something else."""
