"""One running layer: its states, what it sends, and where what it reads goes."""
