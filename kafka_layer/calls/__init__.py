"""The calls of a layer, with an event loop and without one."""
