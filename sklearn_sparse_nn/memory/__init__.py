"""The dense phase, kept: as bytes, in a store, by a key."""
