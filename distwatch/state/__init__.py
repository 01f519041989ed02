"""The run's state as pure data: events, their bytes, the state they fold into. No I/O, no clock."""
