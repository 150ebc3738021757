"""Events in: checked, queued, matched and committed."""
