"""Settings of what the service offers in addition to its own API."""
