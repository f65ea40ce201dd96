"""Names, topics, records, and messages as bytes. Pure; nothing here does I/O."""
