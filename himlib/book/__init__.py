"""What the chapters alone need: the style of their figures, and stored results."""
