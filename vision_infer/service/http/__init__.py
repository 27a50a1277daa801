"""The web side of the service: ASGI application, authentication, limits, and the API's documents."""
