"""How viewers show a state: pure functions that the TUI and the reports share."""
