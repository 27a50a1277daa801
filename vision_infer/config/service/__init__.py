"""Settings of the service: protocols, result files, telemetry, and others."""
