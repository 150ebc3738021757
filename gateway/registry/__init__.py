"""Who wants events and who may ask: endpoints, API keys and organizations, each change of them a `Change`."""
