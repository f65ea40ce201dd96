"""Replays to channels what they missed, from memory or from the log."""
