"""The user's own code: functions that are called with each frame and its result, apart from the threads of all streams."""
