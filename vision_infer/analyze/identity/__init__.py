"""Re-identification: objects that come back get the identity that they had, by their appearance."""
