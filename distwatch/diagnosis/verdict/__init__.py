"""From findings to one verdict: what explains what, and what is worth another look."""
