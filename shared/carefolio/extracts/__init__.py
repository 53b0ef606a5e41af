"""EMIS extracts as they are run: agreements, fetching, loading step by step, what waits for a person."""
