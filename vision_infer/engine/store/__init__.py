"""The engine cache: compiled engines and their passports on the disk."""
