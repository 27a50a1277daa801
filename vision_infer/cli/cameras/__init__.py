"""The commands for the cameras of a configuration file."""
