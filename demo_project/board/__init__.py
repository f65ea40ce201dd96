"""A board of live prices, in any number of browsers: the records of a topic of another program."""
