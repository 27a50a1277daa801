"""The commands and checks of access for teams."""
