"""Database, messaging, files, secrets, settings, telemetry: the only place that names a vendor."""
