"""The members of a worker channel's consumer group, and the positions that they commit."""
