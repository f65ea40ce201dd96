"""What the calls of a layer do, with an event loop and without one."""
