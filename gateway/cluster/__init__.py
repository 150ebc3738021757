"""A node among the others on one store: which endpoints it serves, and what it hears of what the others do."""
