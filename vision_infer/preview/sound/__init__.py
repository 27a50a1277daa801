"""The sound of live video: negotiated, encoded where a browser cannot play it, and sent in step with the video."""
