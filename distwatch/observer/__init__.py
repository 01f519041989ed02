"""The node daemon: follows a run's processes, looks from outside, judges, keeps, serves."""
