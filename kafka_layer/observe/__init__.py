"""Observers of what happens in a server: counters, the log, Django's signals."""
