// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title The directory of everybody who serves: relays, stores, mailboxes, computing servers, and the data they hold.
/// @notice Register contract and onion directory in one. Readers take whole pages only: a partial read leaks interest.
interface INodeRegistry {
    enum Status {
        None,
        Active,
        Draining,
        Offline,
        Suspended,
        Retired
    }

    /// @param capacity of a computing server: the sandboxes it accepts at a time, at least 1. Of a relay that does not compute: the
    /// bandwidth its owner claims, in KiB (1,024 bytes) a second, 0 for no claim. 0 for all others. Below 2^24, which is 16 GiB a second.
    /// @param identityKey Ed25519, signs the proofs of possession. Never changes for a node.
    /// @param onionKey X25519: the ntor key of a relay, the sealing key of a store, mailbox or computing server.
    /// @param endpoint "ip:port", never a DNS name. Empty for a computing server: it is never dialled.
    struct NodeView {
        uint32 id;
        address owner;
        uint8 roles;
        Status status;
        uint32 keyEpoch;
        uint40 updatedAt;
        uint32 capacity;
        bytes32 identityKey;
        bytes32 onionKey;
        string endpoint;
    }

    struct Resource {
        address owner;
        uint32 node;
        bool revoked;
        bytes32 digest; // SHA-256 of the sealed (encrypted) object as it rests in the store
        uint64 size; // of the sealed object, bytes
        string name;
    }

    /// @param proof Ed25519 signature of the identity key over keccak256(abi.encode("veilpod.node.v1", owner, onionKey, keyEpoch, registry, chainid)); checked off chain.
    /// NodeRegistered carries that of epoch 1, NodeKey that of each later one.
    event NodeRegistered(uint32 indexed id, address indexed owner, bytes32 onionKey, bytes32[2] proof);
    event NodeKey(uint32 indexed id, uint32 indexed keyEpoch, bytes32 onionKey, bytes32[2] proof);
    event NodeStatus(uint32 indexed id, Status status);
    event NodeEndpoint(uint32 indexed id, string endpoint);
    event NodeCapacity(uint32 indexed id, uint32 capacity);
    event ResourceAdded(
        bytes32 indexed id,
        bytes32 indexed nameHash,
        address indexed owner,
        uint32 node,
        bytes32 digest,
        uint64 size,
        string name
    );
    event ResourceRevoked(bytes32 indexed id);

    /// Roles that are dialled (STORAGE, RELAY, PROVIDER) need an endpoint of 1 to 64 bytes; COMPUTE needs a capacity, RELAY may
    /// have one, others have none.
    /// Role bits: USER 1, STORAGE 2, COMPUTE 4, RELAY 8, PROVIDER 16 (a requester's mailbox).
    function register(
        uint8 roles,
        uint32 capacity,
        bytes32 identityKey,
        bytes32 onionKey,
        string calldata endpoint,
        bytes32[2] calldata proof
    ) external returns (uint32 id);
    function rotateKey(uint32 id, bytes32 onionKey, bytes32[2] calldata proof) external;
    function setEndpoint(uint32 id, string calldata endpoint) external;
    /// By the rule of `register`. Sandboxes that a server has taken stay, also when they are more than it now accepts.
    function setCapacity(uint32 id, uint32 capacity) external;
    function setStatus(uint32 id, Status status) external; // owner: Active, Draining, Offline, Retired
    function setSuspended(uint32 id, bool suspended) external; // guardian only; lifting leaves the node Offline
    function heartbeat(uint32 id) external;

    /// The data owner is msg.sender; id = keccak256(abi.encode(owner, name)). The node must have the storage role. A revoked id may be
    /// added anew (other content, other store).
    function addResource(uint32 node, string calldata name, bytes32 digest, uint64 size) external returns (bytes32 id);
    function revokeResource(bytes32 id) external;

    function nodeCount() external view returns (uint32);
    function guardian() external view returns (address);
    function node(uint32 id) external view returns (NodeView memory);
    /// Zero for an unknown id. Never changes for a node, whatever its status.
    function ownerOf(uint32 id) external view returns (address);
    /// Nodes with any of `roles`, ids in [from, from+count); ids start at 1.
    function page(uint8 roles, uint32 from, uint32 count) external view returns (NodeView[] memory);
    function resource(bytes32 id) external view returns (Resource memory);
    /// Every resource registered under this name, by any owner: the reader decides what an ambiguous name means.
    function resourcesNamed(string calldata name) external view returns (bytes32[] memory);
    /// For the scheduler: reverts unless the node is Active with this role; returns owner and capacity.
    function requireActive(uint32 id, uint8 role) external view returns (address owner, uint32 capacity);
}
