// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {INodeRegistry} from "./interfaces/INodeRegistry.sol";

/// @title The register contract and the onion directory.
/// @notice Holds no money. The guardian can suspend a node and lift the suspension, nothing else.
/// @dev Caveats:
/// - A proof of possession is not checked here (no Ed25519 in the EVM): it is in the event, and readers must check it before they
///   use a key. An entry without a valid proof is to be read as absent.
/// - `updatedAt` moves with every act of the owner and is the heartbeat; an act of the guardian does not move it.
/// - A capacity is its owner's word. TaskScheduler holds a computing server to it; nobody measures a relay's, so whoever weighs relays by it
///   must bound what a claim brings.
/// - Anybody may register a resource under any name. A name is a hint; (owner, name) is the identity.
contract NodeRegistry is INodeRegistry {
    /*//////////////////////////////////////////////////////////////
                                 ERRORS
    //////////////////////////////////////////////////////////////*/

    error CallAsGuardian();
    error CallAsOwner();
    error RegisterNodeFirst(uint32 id);
    error ChooseRoles();
    error GiveCapacity();
    error SetCapacityForComputeOrRelayOnly();
    error ReduceCapacity();
    error GiveKeys();
    error GiveEndpoint();
    error ShortenEndpoint(uint256 maxLength);
    error NodeRetired(uint32 id);
    error NodeSuspended(uint32 id);
    error SuspendNodeFirst(uint32 id);
    error NodeNotActive(uint32 id, Status status);
    error NodeLacksRole(uint32 id, uint8 role);
    error ChooseOwnersStatus();
    error KeyEpochsExhausted();
    error RevokeResourceFirst(bytes32 id);
    error AddResourceFirst(bytes32 id);
    error ChooseNameOfLength(uint256 minLength, uint256 maxLength);
    error ChooseSize();

    /*//////////////////////////////////////////////////////////////
                                CONSTANTS
    //////////////////////////////////////////////////////////////*/

    uint8 private constant USER = 1;
    uint8 private constant STORAGE = 2;
    uint8 private constant COMPUTE = 4;
    uint8 private constant RELAY = 8;
    uint8 private constant PROVIDER = 16;

    uint8 private constant ALL_ROLES = 31;
    /// Roles that somebody dials. A computing server is never dialled, so that its place need not be published.
    uint8 private constant DIALLED_ROLES = STORAGE | RELAY | PROVIDER;

    uint256 private constant MAX_ENDPOINT = 64; // "[ipv6]:port" is 47
    uint256 private constant MAX_NAME = 64;

    /// Where members of a node's first word begin.
    uint256 private constant ROLES = 160;
    uint256 private constant STATUS = 168;
    uint256 private constant KEY_EPOCH = 176;
    uint256 private constant CAPACITY = 192;
    uint256 private constant UPDATED_AT = 216;

    /*//////////////////////////////////////////////////////////////
                                 STORAGE
    //////////////////////////////////////////////////////////////*/

    /// Four words for an endpoint of up to 31 bytes; everything that changes often is in the first.
    struct Node {
        address owner;
        uint8 roles;
        Status status;
        uint16 keyEpoch;
        uint24 capacity;
        uint40 updatedAt;
        bytes32 identityKey;
        bytes32 onionKey;
        string endpoint;
    }

    struct StoredResource {
        address owner;
        uint32 node;
        uint56 size;
        bool revoked;
        bytes32 digest;
        string name;
    }

    /// @notice May suspend nodes here and stop new requests in TaskScheduler. Never touches money or channels.
    address public immutable guardian;

    uint32 public nodeCount;
    mapping(uint32 id => Node) private nodes;
    mapping(bytes32 id => StoredResource) private resources;
    mapping(bytes32 nameHash => bytes32[]) private named;

    constructor(address guardian_) {
        guardian = guardian_;
    }

    /*//////////////////////////////////////////////////////////////
                                  NODES
    //////////////////////////////////////////////////////////////*/

    /// @inheritdoc INodeRegistry
    function register(
        uint8 roles,
        uint32 capacity,
        bytes32 identityKey,
        bytes32 onionKey,
        string calldata endpoint,
        bytes32[2] calldata proof
    ) external returns (uint32 id) {
        _checkRoles(roles);
        _checkCapacity(roles, capacity);
        if (identityKey == 0) revert GiveKeys();
        if (onionKey == 0) revert GiveKeys();
        _checkEndpoint(roles, endpoint);

        unchecked {
            id = ++nodeCount; // four thousand million nodes cannot be paid for
        }
        Node storage n = nodes[id];
        uint256 head = uint160(msg.sender) | (uint256(roles) << ROLES) | (uint256(Status.Active) << STATUS)
            | (1 << KEY_EPOCH) | (uint256(capacity) << CAPACITY);
        _setHead(n, head);
        n.identityKey = identityKey;
        n.onionKey = onionKey;
        _setFirstEndpoint(n, endpoint);

        emit NodeRegistered(id, msg.sender, onionKey, proof);
    }

    /// @inheritdoc INodeRegistry
    function rotateKey(uint32 id, bytes32 onionKey, bytes32[2] calldata proof) external {
        (Node storage n, uint256 head) = _owned(id);
        if (onionKey == 0) revert GiveKeys();
        uint16 keyEpoch = uint16(head >> KEY_EPOCH);
        if (keyEpoch == type(uint16).max) revert KeyEpochsExhausted();

        unchecked {
            // Below the greatest, so nothing is carried into the next member.
            ++keyEpoch;
            _setHead(n, head + (1 << KEY_EPOCH));
        }
        n.onionKey = onionKey;

        emit NodeKey(id, keyEpoch, onionKey, proof);
    }

    /// @inheritdoc INodeRegistry
    function setEndpoint(uint32 id, string calldata endpoint) external {
        (Node storage n, uint256 head) = _owned(id);
        _checkEndpoint(n.roles, endpoint);

        n.endpoint = endpoint;
        _setHead(n, head);

        emit NodeEndpoint(id, endpoint);
    }

    /// @inheritdoc INodeRegistry
    function setCapacity(uint32 id, uint32 capacity) external {
        (Node storage n, uint256 head) = _owned(id);
        _checkCapacity(uint8(head >> ROLES), capacity);

        _setHead(n, (head & ~(uint256(type(uint24).max) << CAPACITY)) | (uint256(capacity) << CAPACITY));

        emit NodeCapacity(id, capacity);
    }

    /// @inheritdoc INodeRegistry
    function setStatus(uint32 id, Status status) external {
        (Node storage n, uint256 head) = _owned(id);
        if (status == Status.None || status == Status.Suspended) revert ChooseOwnersStatus();
        // A suspended node may leave, and nothing else, until the guardian lifts the suspension.
        if (n.status == Status.Suspended && status != Status.Retired) revert NodeSuspended(id);

        _setHead(n, (head & ~(uint256(0xff) << STATUS)) | (uint256(status) << STATUS));

        emit NodeStatus(id, status);
    }

    /// @inheritdoc INodeRegistry
    function setSuspended(uint32 id, bool suspended) external {
        if (msg.sender != guardian) revert CallAsGuardian();
        Node storage n = _existing(id);
        if (n.status == Status.Retired) revert NodeRetired(id);
        if (!suspended && n.status != Status.Suspended) revert SuspendNodeFirst(id);

        // Lifting does not activate: only the owner knows whether the node is up.
        Status status = suspended ? Status.Suspended : Status.Offline;
        n.status = status;

        emit NodeStatus(id, status);
    }

    /// @inheritdoc INodeRegistry
    function heartbeat(uint32 id) external {
        (Node storage n, uint256 head) = _owned(id);
        _setHead(n, head);
    }

    /*//////////////////////////////////////////////////////////////
                                RESOURCES
    //////////////////////////////////////////////////////////////*/

    /// @inheritdoc INodeRegistry
    function addResource(uint32 nodeId, string calldata name, bytes32 digest, uint64 size)
        external
        returns (bytes32 id)
    {
        uint256 length = bytes(name).length;
        if (length == 0 || length > MAX_NAME) revert ChooseNameOfLength(1, MAX_NAME);
        if (size == 0 || size > type(uint56).max) revert ChooseSize();
        Node storage n = _existing(nodeId);
        if (n.roles & STORAGE == 0) revert NodeLacksRole(nodeId, STORAGE);
        if (n.status == Status.Retired) revert NodeRetired(nodeId);

        id = keccak256(abi.encode(msg.sender, name));
        bytes32 nameHash = keccak256(bytes(name));
        StoredResource storage r = resources[id];
        // A revoked entry may be listed anew (new content, other store); its name is already in the list.
        if (r.owner == address(0)) named[nameHash].push(id);
        else if (!r.revoked) revert RevokeResourceFirst(id);

        resources[id] = StoredResource({
            owner: msg.sender, node: nodeId, size: uint56(size), revoked: false, digest: digest, name: name
        });

        emit ResourceAdded(id, nameHash, msg.sender, nodeId, digest, size, name);
    }

    /// @inheritdoc INodeRegistry
    function revokeResource(bytes32 id) external {
        StoredResource storage r = resources[id];
        if (r.owner != msg.sender) revert CallAsOwner();
        if (r.revoked) revert AddResourceFirst(id);

        r.revoked = true;

        emit ResourceRevoked(id);
    }

    /*//////////////////////////////////////////////////////////////
                                  VIEWS
    //////////////////////////////////////////////////////////////*/

    /// @inheritdoc INodeRegistry
    function node(uint32 id) external view returns (NodeView memory) {
        return _view(id);
    }

    /// @inheritdoc INodeRegistry
    function ownerOf(uint32 id) external view returns (address) {
        return nodes[id].owner;
    }

    /// @inheritdoc INodeRegistry
    function page(uint8 roles, uint32 from, uint32 count) external view returns (NodeView[] memory found) {
        uint256 first = from == 0 ? 1 : from;
        uint256 end = uint256(from) + count;
        if (end > uint256(nodeCount) + 1) end = uint256(nodeCount) + 1;
        if (first >= end) return found;

        found = new NodeView[](end - first);
        uint256 length;
        for (uint256 id = first; id < end; ++id) {
            if (nodes[uint32(id)].roles & roles != 0) found[length++] = _view(uint32(id));
        }
        assembly ("memory-safe") {
            mstore(found, length) // shrink to what matched
        }
    }

    /// @inheritdoc INodeRegistry
    function resource(bytes32 id) external view returns (Resource memory) {
        StoredResource storage r = resources[id];
        return
            Resource({owner: r.owner, node: r.node, revoked: r.revoked, digest: r.digest, size: r.size, name: r.name});
    }

    /// @inheritdoc INodeRegistry
    function resourcesNamed(string calldata name) external view returns (bytes32[] memory) {
        return named[keccak256(bytes(name))];
    }

    /// @inheritdoc INodeRegistry
    function requireActive(uint32 id, uint8 role) external view returns (address owner, uint32 capacity) {
        Node storage n = _existing(id);
        if (n.status != Status.Active) revert NodeNotActive(id, n.status);
        if (n.roles & role != role) revert NodeLacksRole(id, role);
        return (n.owner, n.capacity);
    }

    /*//////////////////////////////////////////////////////////////
                                INTERNALS
    //////////////////////////////////////////////////////////////*/

    function _existing(uint32 id) private view returns (Node storage n) {
        n = nodes[id];
        if (n.owner == address(0)) revert RegisterNodeFirst(id);
    }

    /// @dev The caller's node. A retired node is final: its history must keep meaning what it meant.
    function _owned(uint32 id) private view returns (Node storage n, uint256 head) {
        n = nodes[id];
        assembly ("memory-safe") {
            head := sload(n.slot)
        }
        if (head == 0) revert RegisterNodeFirst(id);
        if (uint160(head) != uint160(msg.sender)) revert CallAsOwner();
        if (uint8(head >> STATUS) == uint8(Status.Retired)) revert NodeRetired(id);
    }

    /// @dev Writes a node's first word whole (member by member the compiler writes it several times), with the time: the heartbeat.
    function _setHead(Node storage n, uint256 head) private {
        head = uint216(head) | (block.timestamp << UPDATED_AT);
        assembly ("memory-safe") {
            sstore(n.slot, head)
        }
    }

    /// @dev As `n.endpoint = endpoint`, for a place that was never written: most fit the one word that Solidity gives a short string.
    function _setFirstEndpoint(Node storage n, string calldata endpoint) private {
        if (bytes(endpoint).length > 31) {
            n.endpoint = endpoint;
            return;
        }
        string storage place = n.endpoint;
        assembly ("memory-safe") {
            // What follows a short string in calldata is not its own.
            let rest := sub(256, shl(3, endpoint.length))
            let word := shl(rest, shr(rest, calldataload(endpoint.offset)))
            sstore(place.slot, or(word, shl(1, endpoint.length)))
        }
    }

    function _view(uint32 id) private view returns (NodeView memory v) {
        Node storage n = nodes[id];
        if (n.owner == address(0)) return v;
        return NodeView({
            id: id,
            owner: n.owner,
            roles: n.roles,
            status: n.status,
            keyEpoch: n.keyEpoch,
            updatedAt: n.updatedAt,
            capacity: n.capacity,
            identityKey: n.identityKey,
            onionKey: n.onionKey,
            endpoint: n.endpoint
        });
    }

    function _checkRoles(uint8 roles) private pure {
        unchecked {
            if (uint256(roles) - 1 >= ALL_ROLES) revert ChooseRoles();
        }
    }

    /// @dev A computing server without a place is none; a relay may claim nothing; others have nothing to count.
    function _checkCapacity(uint8 roles, uint32 capacity) private pure {
        if (capacity == 0) {
            if (roles & COMPUTE != 0) revert GiveCapacity();
            return;
        }
        if (roles & (COMPUTE | RELAY) == 0) revert SetCapacityForComputeOrRelayOnly();
        if (capacity > type(uint24).max) revert ReduceCapacity();
    }

    function _checkEndpoint(uint8 roles, string calldata endpoint) private pure {
        uint256 length = bytes(endpoint).length;
        if (length == 0) {
            if (roles & DIALLED_ROLES != 0) revert GiveEndpoint();
        }
        if (length > MAX_ENDPOINT) revert ShortenEndpoint(MAX_ENDPOINT);
    }
}
