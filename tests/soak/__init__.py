"""A long run with random faults that counts every message: ``python -m tests.soak``.

``python -m tests.soak.recovery`` measures how soon servers get messages again after an outage.
"""
