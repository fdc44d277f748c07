"""The model file: reading, checking, writing."""
