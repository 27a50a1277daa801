"""Floor 5: the live service: REST, WebSocket, health, metrics, and the streams that they control."""
