"""What the chapters alone need: the style of their figures, tables, and stored results."""
