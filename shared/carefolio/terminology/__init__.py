"""Codes: what they mean, what they are a kind of, which belong together, and what they are called elsewhere."""
