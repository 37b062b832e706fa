"""Simulators with exact answers beside them: what the book's experiments run on."""
