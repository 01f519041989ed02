"""The parts of `many_ranks.py`: synthetic nodes, the root under measurement, and a viewer."""
