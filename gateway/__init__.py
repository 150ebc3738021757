"""A webhook delivery gateway: events go in, signed webhooks come out, every attempt is on record.

In process:

    async with Gateway.open(load_settings()) as gateway:
        await gateway.publish(Event(type="invoice.paid", data={"id": "in_1"}, organization_id="acme"))
"""

from typing import TYPE_CHECKING

from gateway.version import VERSION as __version__  # noqa: N811 - the name that Python knows it by

if TYPE_CHECKING:
    from gateway.app import Gateway
    from gateway.model import Event, Mode
    from gateway.settings import Settings
    from gateway.settings import load as load_settings

__all__ = ["Event", "Gateway", "Mode", "Settings", "__version__", "load_settings"]


def __getattr__(name: str) -> object:
    """Loads what is asked for, and nothing before: `gateway --version` needs none of it."""
    from importlib import import_module  # noqa: PLC0415 - on demand is the point

    places = {
        "Gateway": ("gateway.app", "Gateway"),
        "Event": ("gateway.model", "Event"),
        "Mode": ("gateway.model", "Mode"),
        "Settings": ("gateway.settings", "Settings"),
        "load_settings": ("gateway.settings", "load"),
    }
    if name not in places:
        raise AttributeError(f"module 'gateway' has no attribute {name!r}")
    module, attribute = places[name]
    return getattr(import_module(module), attribute)
