"""Which setting is named when an address cannot be listened on."""

import pytest

from gateway.api.listener import bind_tcp
from gateway.errors import SettingsError


@pytest.mark.parametrize("host", ["192.0.2.1", "nobody.invalid", "a..b", "x" * 70])
def test_an_address_that_is_not_the_machines_is_the_hosts_fault(host: str):
    """Another machine's address, and a name of none."""
    with pytest.raises(SettingsError, match=r"^http\.host: cannot listen on "):
        bind_tcp(host, 0)


def test_a_port_that_is_taken_is_the_ports_fault():
    with bind_tcp("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=r"^http\.port: cannot listen on 127\.0\.0\.1 port "):
            bind_tcp("127.0.0.1", port)
