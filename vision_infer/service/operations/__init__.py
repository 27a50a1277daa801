"""Operation of the service: logs, metrics, notifications, and explanations of missing results."""
