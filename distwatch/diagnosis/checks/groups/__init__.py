"""group.*: process groups and parallel layouts that differ between ranks, or are used wrongly."""
