"""The settings of access for teams."""
