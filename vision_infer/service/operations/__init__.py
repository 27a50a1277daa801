"""Operation of the service: logs, metrics, notifications, and explanations of what happened."""
