"""Live pictures for browsers: WHEP, packets that go through untouched, one encoder for each stream where they cannot."""
