"""The Gavel trace (OSDI'20): training jobs on a cluster of several device kinds, scheduled in rounds."""
