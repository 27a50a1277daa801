"""Download of models: what can be had, resumable HTTP transfers, and checksums."""
