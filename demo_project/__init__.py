"""A chat and a board of prices: several daphne workers, one port, Kafka between them."""
