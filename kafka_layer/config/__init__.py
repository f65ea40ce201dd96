"""The settings of a layer."""
