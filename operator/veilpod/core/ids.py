"""Names of things that would otherwise all be bytes, ints and strings."""

from typing import NewType

TaskId = NewType("TaskId", bytes)  # 32 bytes, TaskScheduler's id
ChannelId = NewType("ChannelId", bytes)  # 32 bytes, keccak256(a, b, terms)
NodeId = NewType("NodeId", int)  # entry of NodeRegistry, from 1
ResourceId = NewType("ResourceId", bytes)  # 32 bytes, keccak256(owner, name)
Address = NewType("Address", str)  # EIP-55 checksummed
ServerIndex = NewType("ServerIndex", int)  # position of a computing server in the flattened roles
PodUid = NewType("PodUid", str)
