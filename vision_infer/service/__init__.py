"""Floor 5: the live service: REST, WebSocket, health, metrics, and the streams that they control.

``serving.py`` starts and stops the parts of ``vision-infer serve``: HTTP server, engine, streams. ``service.py`` runs the streams
without HTTP. ``backend.py`` is the interface through which the HTTP routes use it.
"""
