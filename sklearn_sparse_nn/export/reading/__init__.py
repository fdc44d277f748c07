"""A module read as steps: its forward traced, its layers and functions converted."""
