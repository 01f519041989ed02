"""Looks from outside at processes, endpoints and clusters, journaled as events."""
