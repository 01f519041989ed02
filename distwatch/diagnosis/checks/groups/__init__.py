"""group.*: process groups and parallel layouts that differ, or are used wrongly."""
