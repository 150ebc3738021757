"""How fast the gateway is on this machine, as a ratio to a bare loop of POSTs that was measured beside it: `scripts/bench`."""
