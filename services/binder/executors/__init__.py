"""Executors, one module each. `binder.bootstrap` holds the table of their names."""
