"""A chat that shows the layer at work: several daphne workers, one port, Kafka between them."""
