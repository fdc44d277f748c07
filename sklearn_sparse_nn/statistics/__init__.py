"""What importances know of a net: statistics over rows."""
