"""The crash campaign: `scripts/crash`."""
