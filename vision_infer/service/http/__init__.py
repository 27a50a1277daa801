"""The HTTP server of the service: ASGI application, authentication, limits, and the OpenAPI document."""
