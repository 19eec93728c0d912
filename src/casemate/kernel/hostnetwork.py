"""The host's name and address, kept in its state for the next start."""

from __future__ import annotations

from casemate.errors import HostError
from casemate.formats.hostsettings import SIZE_LIMIT, HostNetwork, parse_network, write_network
from casemate.kernel.files import write_file
from casemate.kernel.home import Home

NAME = "network.json"
"""File in the state."""


def read_network(home: Home) -> HostNetwork:
    """Return the host's network; that of a host that nobody configured where none is kept.

    Raises FormatError, HostError: what is kept cannot be read.
    """
    try:
        with (home.state / NAME).open("rb") as stream:
            return parse_network(stream.read(SIZE_LIMIT + 1))
    except FileNotFoundError:
        return HostNetwork()
    except OSError as error:
        raise HostError(
            f"the network's settings cannot be read: {error.strerror}", component=NAME
        ) from error


def keep_network(home: Home, network: HostNetwork) -> None:
    """Keep the network for the next start."""
    write_file(home.state / NAME, write_network(network))
