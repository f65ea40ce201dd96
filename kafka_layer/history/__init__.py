"""The messages that the log holds, for applications that ask for them."""
