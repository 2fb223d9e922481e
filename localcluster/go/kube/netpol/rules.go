package netpol

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// peerMatch is one way in which a rule names its peers: an nft expression over the peer's address (empty: any address), and the pods it stands for,
// by which a named port of an egress rule is resolved.
type peerMatch struct {
	expr string
	pods []Pod
}

// renderRule returns the matches, each ending in a space, of which any one allows the packet.
func (s State) renderRule(namespace string, pod Pod, way direction, r rule) []string {
	var lines []string
	for _, peers := range s.peerMatches(namespace, way, r.peers) {
		if len(r.ports) == 0 {
			lines = append(lines, peers.expr)
		}
		for _, port := range r.ports {
			lines = append(lines, portLines(pod, way, peers, port)...)
		}
	}
	return lines
}

func (s State) peerMatches(namespace string, way direction, peers []networkingv1.NetworkPolicyPeer) []peerMatch {
	if len(peers) == 0 {
		return []peerMatch{{pods: s.Pods}}
	}
	var found []peerMatch
	for _, peer := range peers {
		if peer.IPBlock != nil {
			if expr, ok := blockExpr(way, peer.IPBlock); ok {
				found = append(found, peerMatch{expr: expr})
			}
		} else if pods := s.podsOf(namespace, peer); len(pods) > 0 {
			found = append(found, peerMatch{expr: podsExpr(way, pods), pods: pods})
		}
	}
	return found
}

// podsOf: without a namespaceSelector the policy's own namespace is meant.
func (s State) podsOf(namespace string, peer networkingv1.NetworkPolicyPeer) []Pod {
	var found []Pod
	for _, pod := range s.Pods {
		inNamespace := pod.Namespace == namespace
		if peer.NamespaceSelector != nil {
			inNamespace = matches(peer.NamespaceSelector, s.Namespaces[pod.Namespace])
		}
		if inNamespace && matches(peer.PodSelector, pod.Labels) {
			found = append(found, pod)
		}
	}
	return found
}

func podsExpr(way direction, pods []Pod) string {
	var ips []string
	for _, pod := range pods {
		ips = append(ips, pod.IP.String())
	}
	slices.Sort(ips)
	return fmt.Sprintf("%s { %s } ", way.peer, strings.Join(slices.Compact(ips), ", "))
}

// blockExpr leaves IPv6 out: that traffic never gets this far.
func blockExpr(way direction, block *networkingv1.IPBlock) (string, bool) {
	cidr, err := netip.ParsePrefix(block.CIDR)
	if err != nil || !cidr.Addr().Is4() {
		return "", false
	}
	expr := fmt.Sprintf("%s %s ", way.peer, cidr.Masked())
	for _, text := range block.Except {
		except, err := netip.ParsePrefix(text)
		if err != nil {
			return "", false
		}
		// One comparison each: an nft set refuses overlapping exceptions, the API does not.
		expr += fmt.Sprintf("%s != %s ", way.peer, except.Masked())
	}
	return expr, true
}

func portLines(pod Pod, way direction, peers peerMatch, port networkingv1.NetworkPolicyPort) []string {
	protocol := corev1.ProtocolTCP
	if port.Protocol != nil {
		protocol = *port.Protocol
	}
	proto := strings.ToLower(string(protocol))
	switch {
	case port.Port == nil:
		return []string{fmt.Sprintf("%smeta l4proto %s ", peers.expr, proto)}
	case port.Port.Type == intstr.Int && port.EndPort != nil:
		return []string{fmt.Sprintf("%s%s dport %d-%d ", peers.expr, proto, port.Port.IntVal, *port.EndPort)}
	case port.Port.Type == intstr.Int:
		return []string{fmt.Sprintf("%s%s dport %d ", peers.expr, proto, port.Port.IntVal)}
	}
	return namedPortLines(pod, way, peers, proto, port.Port.StrVal)
}

// namedPortLines resolves a name at the receiving end: the pod itself for ingress, each peer for egress. What no pod declares matches nothing.
func namedPortLines(pod Pod, way direction, peers peerMatch, proto, name string) []string {
	var lines []string
	if way == ingress {
		for _, number := range declared(pod, proto, name) {
			lines = append(lines, fmt.Sprintf("%s%s dport %d ", peers.expr, proto, number))
		}
		return lines
	}
	for _, peer := range peers.pods {
		for _, number := range declared(peer, proto, name) {
			lines = append(lines, fmt.Sprintf("%s %s %s dport %d ", way.peer, peer.IP, proto, number))
		}
	}
	return lines
}

func declared(pod Pod, proto, name string) []int32 {
	var numbers []int32
	for _, port := range pod.Ports {
		if port.Name == name && (strings.EqualFold(string(port.Protocol), proto) || port.Protocol == "" && proto == "tcp") {
			numbers = append(numbers, port.ContainerPort)
		}
	}
	return numbers
}
