"""Access for teams: who sends a request, what it may do, and which cameras it sees."""
