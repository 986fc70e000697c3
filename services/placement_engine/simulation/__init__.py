"""Offline replays of published traces: what a policy would have done. No service runs, nothing is stored."""
