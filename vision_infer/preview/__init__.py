"""Floor 4: live video for browsers over WebRTC (WHEP): the camera's own packets where possible, else one encoder per stream.

``sound/`` adds the sound of cameras to it.
"""
