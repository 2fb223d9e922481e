"""A network and a clock of its own: asyncio protocols, unchanged, on hosts that exist in memory only.

    with virtual.network(latency=lambda a, b: 0.02) as net:      # a loop whose time is virtual
        relay, client = net.host("10.1.0.1"), net.host("10.2.0.1", rate=12.5e6)
        relay.start(serve())                                     # a task that runs on that host
        net.run(client.start(fetch()))

Time passes only when nothing is left to do at the present moment, so an hour of waiting takes no time, and the same program does the same
things at the same moments in every run: `net.digest()` is over every delivery. Hosts have a line with a rate each way, shared by their
connections in turn, and a processor with a price per byte. The method is that of discrete-event simulators of networks; the code that runs
is the product's.
"""

from tests.support.virtual.hosts import Host, Network, network
from tests.support.virtual.loop import NothingLeft, VirtualLoop

__all__ = ["Host", "Network", "NothingLeft", "VirtualLoop", "network"]
