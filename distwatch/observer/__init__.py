"""The node daemon: follows a run's processes, probes them from outside, judges, records, serves."""
