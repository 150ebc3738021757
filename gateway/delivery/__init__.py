"""Deliveries out: lanes, attempts, what an answer means, retries, and the health of endpoints."""
