"""NetworkPolicy as a table: what is applied, and which connections it must then leave open.

The cases follow the list of Kubernetes' own conformance tests for network plugins (test/e2e/network/netpol), not our enforcer. The world
has three namespaces (x, y, z, labelled ns=x and so on) with two pods each (a, b, labelled pod=a, pod=b); each pod listens on TCP 80 (named
web), TCP 81 (named admin) and UDP 80 (named talk).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

NAMESPACES = ("x", "y", "z")
PODS = ("a", "b")
ANYWHERE = {"cidr": "0.0.0.0/0"}


@dataclasses.dataclass(frozen=True, slots=True)
class Probe:
    """One attempt to connect. Pods are written namespace/name."""

    source: str
    target: str
    port: int
    protocol: str

    @property
    def tcp(self) -> bool:
        return self.protocol == "TCP"


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """Policies, and a rule that says of every connection between two different pods whether it must work."""

    title: str
    policies: tuple[dict[str, Any], ...]
    open: Callable[[Probe], bool]


def policy(name: str, namespace: str = "x", pods: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    types = [kind for key, kind in (("ingress", "Ingress"), ("egress", "Egress")) if key in spec]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": pods or {}, "policyTypes": types, **spec},
    }


def pod(name: str) -> dict[str, Any]:
    return {"matchLabels": {"pod": name}}


def ns(name: str) -> dict[str, Any]:
    return {"matchLabels": {"ns": name}}


def any_of(key: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": "In", "values": list(values)}]}


def port(number: int | str, protocol: str = "TCP", end: int | None = None) -> dict[str, Any]:
    return {"port": number, "protocol": protocol} | ({"endPort": end} if end else {})


def to_x(rule: Callable[[Probe], bool]) -> Callable[[Probe], bool]:
    """Everything is open but what goes to namespace x, of which the rule decides."""
    return lambda probe: not probe.target.startswith("x/") or rule(probe)


def to_xa(rule: Callable[[Probe], bool]) -> Callable[[Probe], bool]:
    return lambda probe: probe.target != "x/a" or rule(probe)


def from_xa(rule: Callable[[Probe], bool]) -> Callable[[Probe], bool]:
    return lambda probe: probe.source != "x/a" or rule(probe)


DENY_INGRESS = policy("deny-ingress", ingress=[])
DENY_EGRESS = policy("deny-egress", egress=[])
DENY_ALL = policy("deny-all", ingress=[], egress=[])

CASES = (
    Case("without a policy everything is open", (), lambda probe: True),
    Case("default deny ingress", (DENY_INGRESS,), to_x(lambda probe: False)),
    Case("default deny egress", (DENY_EGRESS,), lambda probe: not probe.source.startswith("x/")),
    Case("default deny all", (DENY_ALL,), lambda probe: not probe.source.startswith("x/") and not probe.target.startswith("x/")),
    Case(
        "ingress from a pod of the same namespace",
        (policy("p", pods=pod("a"), ingress=[{"from": [{"podSelector": pod("b")}]}]),),
        to_xa(lambda probe: probe.source == "x/b"),
    ),
    Case(
        "ingress from another namespace only",
        (policy("p", pods=pod("a"), ingress=[{"from": [{"namespaceSelector": ns("y")}]}]),),
        to_xa(lambda probe: probe.source.startswith("y/")),
    ),
    Case(
        "ingress by expressions over pods and namespaces",
        (
            policy(
                "p",
                pods=any_of("pod", "a"),
                ingress=[{"from": [{"namespaceSelector": any_of("ns", "y", "z"), "podSelector": any_of("pod", "b", "c")}]}],
            ),
        ),
        to_xa(lambda probe: probe.source in ("y/b", "z/b")),
    ),
    Case(
        "two peers of one rule are an or, two selectors of one peer are an and",
        (policy("p", ingress=[{"from": [{"namespaceSelector": ns("y")}, {"namespaceSelector": ns("z"), "podSelector": pod("a")}]}]),),
        to_x(lambda probe: probe.source in ("y/a", "y/b", "z/a")),
    ),
    Case(
        "an empty pod selector is every pod of the namespace",
        (policy("p", ingress=[{"from": [{"podSelector": {}}]}]),),
        to_x(lambda probe: probe.source.startswith("x/")),
    ),
    Case(
        "an empty namespace selector is every pod of the cluster",
        (policy("p", ingress=[{"from": [{"namespaceSelector": {}}]}]),),
        lambda probe: True,
    ),
    Case(
        "an empty rule allows everybody, an absent peer list too",
        (policy("p", pods=pod("a"), ingress=[{}]), policy("q", pods=pod("b"), ingress=[{"ports": [port(80)]}])),
        lambda probe: probe.target != "x/b" or (probe.tcp and probe.port == 80),
    ),
    Case(
        "ports: only the one that is named, from the namespace that is named",
        (policy("p", ingress=[{"from": [{"namespaceSelector": ns("y")}], "ports": [port(81)]}]),),
        to_x(lambda probe: probe.source.startswith("y/") and probe.tcp and probe.port == 81),
    ),
    Case(
        "a protocol without a port is all of its ports",
        (policy("p", ingress=[{"ports": [{"protocol": "UDP"}]}]),),
        to_x(lambda probe: not probe.tcp),
    ),
    Case("UDP is not TCP", (policy("p", ingress=[{"ports": [port(80, "UDP")]}]),), to_x(lambda probe: not probe.tcp)),
    Case("SCTP is not TCP", (policy("p", ingress=[{"ports": [port(80, "SCTP")]}]),), to_x(lambda probe: False)),
    Case("endPort is included", (policy("p", ingress=[{"ports": [port(79, end=81)]}]),), to_x(lambda probe: probe.tcp)),
    Case(
        "endPort ends there",
        (policy("p", ingress=[{"ports": [port(70, end=80)]}]),),
        to_x(lambda probe: probe.tcp and probe.port == 80),
    ),
    Case("a named port", (policy("p", ingress=[{"ports": [port("admin")]}]),), to_x(lambda probe: probe.tcp and probe.port == 81)),
    Case("a named port has a protocol", (policy("p", ingress=[{"ports": [port("talk")]}]),), to_x(lambda probe: False)),
    Case(
        "a named port of egress is looked up at the other end",
        (policy("p", pods=pod("a"), egress=[{"to": [{"namespaceSelector": ns("y")}], "ports": [port("web")]}]),),
        from_xa(lambda probe: probe.target.startswith("y/") and probe.tcp and probe.port == 80),
    ),
    Case(
        "stacked policies add up",
        (
            DENY_INGRESS,
            policy("p", pods=pod("a"), ingress=[{"from": [{"namespaceSelector": ns("y")}], "ports": [port(80)]}]),
            policy("q", pods=pod("a"), ingress=[{"from": [{"namespaceSelector": ns("z")}], "ports": [port(81)]}]),
        ),
        to_x(
            lambda probe: (
                probe.target == "x/a"
                and probe.tcp
                and ((probe.source[0] == "y" and probe.port == 80) or (probe.source[0] == "z" and probe.port == 81))
            )
        ),
    ),
    Case("an allow-all beats a deny-all", (DENY_INGRESS, policy("p", ingress=[{}])), lambda probe: True),
    Case(
        "egress to a pod of another namespace",
        (policy("p", pods=pod("a"), egress=[{"to": [{"namespaceSelector": ns("y"), "podSelector": pod("a")}]}]),),
        from_xa(lambda probe: probe.target == "y/a"),
    ),
    Case(
        "both ends must agree",
        (
            policy("p", pods=pod("a"), egress=[{"to": [{"namespaceSelector": ns("y")}]}]),
            policy("q", namespace="y", pods=pod("b"), ingress=[{"from": [{"namespaceSelector": ns("z")}]}]),
        ),
        lambda probe: (probe.source != "x/a" or probe.target == "y/a") and (probe.target != "y/b" or (probe.source[0] == "z")),
    ),
    Case(
        "ingress and egress are separate",
        (policy("p", pods=pod("a"), ingress=[{"from": [{"podSelector": pod("b")}]}], egress=[{"to": [{"namespaceSelector": ns("z")}]}]),),
        lambda probe: (probe.target != "x/a" or probe.source == "x/b") and (probe.source != "x/a" or probe.target[0] == "z"),
    ),
    Case("an address block with everything", (policy("p", pods=pod("a"), egress=[{"to": [{"ipBlock": ANYWHERE}]}]),), lambda probe: True),
)
