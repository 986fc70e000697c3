"""Backends: how one model comes to run on unlike accelerators."""
