"""The subprotocol ``kafka-layer.v1``, by which browsers keep their position."""
