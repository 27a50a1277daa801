"""Floor 5: the live service: REST, WebSocket, health, metrics, and what stands behind them."""
