"""Training as bytes: snapshots, a store of dense phases, and its keys."""
