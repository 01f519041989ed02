"""How viewers show a state: pure functions shared by the TUI and the reports."""
