"""The control stream: an operator's only way into a process of its own (agent, store, mailbox, relay).

The wire is fixed in docs/protocol/task.md, "Control stream". Two directions on one TLS 1.3 connection: commands with answers from the
operator, numbered events from the server. The connection may break at any byte and both sides may forget it: the client repeats commands
under their old ids, the server answers a repeated id from memory and sends again every event that was not acknowledged. Nothing is lost,
and nothing is done twice by one link; a restarted operator may repeat a command, so each is idempotent.

This module is the door; `control_server` and `control_client` are the two ends, `control_tls` the certificates.
"""

from veilpod.net.control_client import Link, connect
from veilpod.net.control_server import ControlServer, Handler
from veilpod.net.control_tls import control_certificate, tls_key_of

__all__ = ["ControlServer", "Handler", "Link", "connect", "control_certificate", "tls_key_of"]
