// Package netpol enforces NetworkPolicy on a one-node cluster whose pod network is routed (CNI plugin ptp).
//
// Every packet of a pod then crosses the node's forward hook, or its input hook when it is for the node itself (the API server, after kube-proxy
// has translated the service's address). One nftables table sits on both and looks each packet's addresses up in two verdict maps: source address
// to the sending pod's egress chain, destination address to the receiving pod's ingress chain. A pod that no policy selects is in neither map and so
// open, as Kubernetes says; what the node itself sends is never filtered, as Kubernetes says too.
//
// The whole table is rendered from scratch (Render, pure) and replaced in one transaction (watch.go): there is no moment with half a policy.
//
// Limits, which are those of most engines: a pod is open until the API server knows its address, and a connection that was allowed when it began
// lives on when a later policy would forbid it.
package netpol

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Table is the name of the nftables table (family inet) that holds the rules.
const Table = "veilpod_netpol"

// Pod is what the rules need to know of a pod that has an address of its own.
type Pod struct {
	Namespace, Name string
	Labels          labels.Set
	IP              netip.Addr
	Ports           []corev1.ContainerPort
}

// State is the cluster at one moment.
type State struct {
	Pods       []Pod
	Namespaces map[string]labels.Set
	Policies   []*networkingv1.NetworkPolicy
}

// direction is one side of the traffic: which address the peer has, and which of a policy's rules speak of it.
type direction struct {
	kind      networkingv1.PolicyType
	own, peer string // nft expressions
	chain     string
}

var (
	ingress = direction{networkingv1.PolicyTypeIngress, "ip daddr", "ip saddr", "ingress"}
	egress  = direction{networkingv1.PolicyTypeEgress, "ip saddr", "ip daddr", "egress"}
)

const header = `table inet %[1]s
delete table inet %[1]s
table inet %[1]s {
	chain forward {
		type filter hook forward priority filter; policy accept;
		jump check
	}
	chain input {
		type filter hook input priority filter; policy accept;
		jump check
	}
	chain check {
		ct state established,related accept
		iifname != "lo" meta nfproto ipv6 counter drop comment "pods have no IPv6 address a policy could name"
		ip saddr vmap @egress
		ip daddr vmap @ingress
	}
`

// Render returns the nft script that replaces the table with the rules for this state. Equal states give equal scripts.
func Render(state State) string {
	slices.SortFunc(state.Pods, func(a, b Pod) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	var script strings.Builder
	fmt.Fprintf(&script, header, Table)
	for _, way := range []direction{egress, ingress} {
		var elements []string
		for n, pod := range state.Pods {
			policies := state.selecting(pod, way)
			if len(policies) == 0 {
				continue
			}
			chain := fmt.Sprintf("%s_%d", way.chain, n)
			elements = append(elements, fmt.Sprintf("%s : jump %s", pod.IP, chain))
			state.renderChain(&script, chain, pod, way, policies)
		}
		fmt.Fprintf(&script, "\tmap %s {\n\t\ttype ipv4_addr : verdict\n", way.chain)
		if len(elements) > 0 {
			fmt.Fprintf(&script, "\t\telements = { %s }\n", strings.Join(elements, ", "))
		}
		script.WriteString("\t}\n")
	}
	script.WriteString("}\n")
	return script.String()
}

func (s State) renderChain(script *strings.Builder, chain string, pod Pod, way direction, policies []*networkingv1.NetworkPolicy) {
	fmt.Fprintf(script, "\tchain %s {\n\t\tcomment \"%s/%s\"\n", chain, pod.Namespace, pod.Name)
	// A pod always reaches itself, also through a service that leads back to it.
	fmt.Fprintf(script, "\t\t%s %s return\n", way.peer, pod.IP)
	for _, policy := range policies {
		for _, rule := range rulesOf(policy, way) {
			for _, line := range s.renderRule(policy.Namespace, pod, way, rule) {
				fmt.Fprintf(script, "\t\t%sreturn\n", line)
			}
		}
	}
	script.WriteString("\t\tcounter drop\n\t}\n")
}

// rule is one ingress or egress rule, without the difference.
type rule struct {
	peers []networkingv1.NetworkPolicyPeer
	ports []networkingv1.NetworkPolicyPort
}

func rulesOf(policy *networkingv1.NetworkPolicy, way direction) []rule {
	var rules []rule
	if way == ingress {
		for _, r := range policy.Spec.Ingress {
			rules = append(rules, rule{r.From, r.Ports})
		}
		return rules
	}
	for _, r := range policy.Spec.Egress {
		rules = append(rules, rule{r.To, r.Ports})
	}
	return rules
}

// selecting returns the policies that isolate the pod in this direction.
func (s State) selecting(pod Pod, way direction) []*networkingv1.NetworkPolicy {
	var found []*networkingv1.NetworkPolicy
	for _, policy := range s.Policies {
		if policy.Namespace == pod.Namespace && applies(policy, way) && matches(&policy.Spec.PodSelector, pod.Labels) {
			found = append(found, policy)
		}
	}
	slices.SortFunc(found, func(a, b *networkingv1.NetworkPolicy) int { return strings.Compare(a.Name, b.Name) })
	return found
}

// applies follows the API: without policyTypes a policy is always about ingress, and about egress if it has egress rules.
func applies(policy *networkingv1.NetworkPolicy, way direction) bool {
	if len(policy.Spec.PolicyTypes) > 0 {
		return slices.Contains(policy.Spec.PolicyTypes, way.kind)
	}
	return way == ingress || len(policy.Spec.Egress) > 0
}

// matches takes nil as "everything"; a selector that cannot be parsed matches nothing, so it can only allow less. (The API server refuses those.)
func matches(selector *metav1.LabelSelector, set labels.Set) bool {
	if selector == nil {
		return true
	}
	parsed, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && parsed.Matches(set)
}
