"""The page for staff: reports of the servers, the thread that asks for them, and access."""
