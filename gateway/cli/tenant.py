"""Whose data a command is about."""

import click
import msgspec


class TenantChoice(msgspec.Struct, frozen=True):
    """What --organization and --mode said. An API key of an organization needs neither."""

    organization: str | None = None
    mode: str | None = None

    def fields(self, *, required: bool) -> dict[str, str]:
        """The request's `organizationId` and `mode`. Raises a usage error when *required* and no organization was named."""
        if self.organization is None:
            if required or self.mode is not None:
                raise click.UsageError("name the organization with --organization, and with --mode whether it is live or sandbox")
            return {}
        return {"organizationId": self.organization, "mode": self.mode or "live"}
