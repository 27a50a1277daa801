"""The routes of logins, sessions and tokens."""
