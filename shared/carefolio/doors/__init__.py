"""What the functions' HTTP doors do with a request: read it, call the library, shape the answer."""
