"""One running layer: its states, its senders, and the routing of its records."""
