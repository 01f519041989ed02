"""From findings to one verdict: which finding explains which, and what is worth another look."""
