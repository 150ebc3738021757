"""HTTP in: what the API answers, and to whom."""
