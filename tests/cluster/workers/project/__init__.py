"""A Django project with one consumer, for ``runworker`` processes that tests start."""
