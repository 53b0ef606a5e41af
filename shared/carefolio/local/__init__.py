"""The product on one machine: embedded PostgreSQL, dispatcher, one port. Never in the image."""
