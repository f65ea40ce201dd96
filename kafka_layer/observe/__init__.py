"""What happened, told to whoever counts, logs or signals it."""
