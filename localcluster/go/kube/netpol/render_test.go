package netpol

import (
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// The end-to-end tests show with real packets that the rules mean what they should. These show which rules are rendered, above all where a
// mistake would open something.

var (
	server = pod("x", "server", "198.18.0.2", corev1.ContainerPort{Name: "web", ContainerPort: 80, Protocol: corev1.ProtocolTCP})
	client = pod("y", "client", "198.18.0.3", corev1.ContainerPort{Name: "web", ContainerPort: 8080})
)

func pod(namespace, name, ip string, ports ...corev1.ContainerPort) Pod {
	return Pod{Namespace: namespace, Name: name, Labels: labels.Set{"pod": name}, IP: netip.MustParseAddr(ip), Ports: ports}
}

func state(policies ...*networkingv1.NetworkPolicy) State {
	namespaces := map[string]labels.Set{"x": {"ns": "x"}, "y": {"ns": "y"}}
	return State{Pods: []Pod{client, server}, Namespaces: namespaces, Policies: policies}
}

func policy(spec networkingv1.NetworkPolicySpec) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "p"}, Spec: spec}
}

func ingressFrom(peers []networkingv1.NetworkPolicyPeer, ports ...networkingv1.NetworkPolicyPort) *networkingv1.NetworkPolicy {
	rule := networkingv1.NetworkPolicyIngressRule{From: peers, Ports: ports}
	return policy(networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{rule}})
}

func egressTo(peers []networkingv1.NetworkPolicyPeer, ports ...networkingv1.NetworkPolicyPort) *networkingv1.NetworkPolicy {
	rule := networkingv1.NetworkPolicyEgressRule{To: peers, Ports: ports}
	types := []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}
	return policy(networkingv1.NetworkPolicySpec{PolicyTypes: types, Egress: []networkingv1.NetworkPolicyEgressRule{rule}})
}

func block(cidr string, except ...string) []networkingv1.NetworkPolicyPeer {
	return []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: cidr, Except: except}}}
}

func selecting(key, value string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
}

func port(value intstr.IntOrString, end *int32, protocol *corev1.Protocol) networkingv1.NetworkPolicyPort {
	return networkingv1.NetworkPolicyPort{Port: &value, EndPort: end, Protocol: protocol}
}

func TestRules(t *testing.T) {
	end, udp := int32(90), corev1.ProtocolUDP
	inY := []networkingv1.NetworkPolicyPeer{{NamespaceSelector: selecting("ns", "y")}}
	nobody := []networkingv1.NetworkPolicyPeer{{PodSelector: selecting("pod", "nobody")}}
	for name, test := range map[string]struct {
		policy *networkingv1.NetworkPolicy
		want   []string // rules of the server's chain besides the one for itself
	}{
		"deny all":                         {policy(networkingv1.NetworkPolicySpec{}), nil},
		"allow all":                        {ingressFrom(nil), []string{"return"}},
		"peers of a namespace":             {ingressFrom(inY), []string{"ip saddr { 198.18.0.3 } return"}},
		"selectors that match no pod":      {ingressFrom(nobody), nil},
		"one port":                         {ingressFrom(nil, port(intstr.FromInt32(80), nil, nil)), []string{"tcp dport 80 return"}},
		"a range of ports":                 {ingressFrom(nil, port(intstr.FromInt32(80), &end, &udp)), []string{"udp dport 80-90 return"}},
		"a protocol":                       {ingressFrom(nil, networkingv1.NetworkPolicyPort{Protocol: &udp}), []string{"meta l4proto udp return"}},
		"a named port of the server":       {ingressFrom(nil, port(intstr.FromString("web"), nil, nil)), []string{"tcp dport 80 return"}},
		"a name with another protocol":     {ingressFrom(nil, port(intstr.FromString("web"), nil, &udp)), nil},
		"a named port of each peer":        {egressTo(inY, port(intstr.FromString("web"), nil, nil)), []string{"ip daddr 198.18.0.3 tcp dport 8080 return"}},
		"a named port and a block":         {egressTo(block("0.0.0.0/0"), port(intstr.FromString("web"), nil, nil)), nil},
		"a block with exceptions":          {egressTo(block("10.1.2.3/8", "10.0.0.0/16")), []string{"ip daddr 10.0.0.0/8 ip daddr != 10.0.0.0/16 return"}},
		"a block of another family":        {egressTo(block("fd00::/8")), nil},
		"a block with a broken exception":  {egressTo(block("10.0.0.0/8", "nonsense")), nil},
		"a selector that cannot be parsed": {ingressFrom([]networkingv1.NetworkPolicyPeer{{PodSelector: broken()}}), nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := chain(t, Render(state(test.policy)), "x/server")
			if strings.Join(got, "\n") != strings.Join(test.want, "\n") {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func broken() *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "pod", Operator: "Perhaps"}}}
}

// chain returns the rules of a pod's chain without the first (itself) and the last (drop), both of which must be there.
func chain(t *testing.T, script, pod string) []string {
	t.Helper()
	_, rest, found := strings.Cut(script, `comment "`+pod+"\"\n")
	if !found {
		t.Fatalf("%s has no chain in\n%s", pod, script)
	}
	body, _, _ := strings.Cut(rest, "\t}\n")
	lines := strings.Split(strings.ReplaceAll(strings.TrimSpace(body), "\t", ""), "\n")
	if last := lines[len(lines)-1]; last != "counter drop" {
		t.Fatalf("the chain ends with %q", last)
	}
	if !strings.HasSuffix(lines[0], "addr 198.18.0.2 return") {
		t.Fatalf("the chain begins with %q", lines[0])
	}
	return lines[1 : len(lines)-1]
}

func TestOnlySelectedPodsAreInTheMaps(t *testing.T) {
	script := Render(state(policy(networkingv1.NetworkPolicySpec{})))
	if strings.Contains(script, client.IP.String()) {
		t.Errorf("a pod without a policy is in\n%s", script)
	}
	if strings.Count(script, "198.18.0.2 : jump") != 1 {
		t.Errorf("a policy without types is about ingress alone:\n%s", script)
	}
}

func TestTypesAreAsTheAPISaysThem(t *testing.T) {
	both := egressTo(nil)
	both.Spec.PolicyTypes = nil
	if script := Render(state(both)); strings.Count(script, "198.18.0.2 : jump") != 2 {
		t.Errorf("without types, egress rules make a policy one about both directions:\n%s", script)
	}
	if script := Render(state(egressTo(nil))); !strings.Contains(script, "198.18.0.2 : jump egress_") || strings.Contains(script, "jump ingress_") {
		t.Errorf("with types, only those count:\n%s", script)
	}
}

func TestTheTableIsReplacedAsAWhole(t *testing.T) {
	script := Render(state())
	if !strings.HasPrefix(script, "table inet "+Table+"\ndelete table inet "+Table+"\ntable inet "+Table+" {") {
		t.Errorf("not one transaction:\n%s", script)
	}
	for _, hook := range []string{"hook forward", "hook input"} {
		if !strings.Contains(script, hook) {
			t.Errorf("no %s", hook)
		}
	}
}

func TestEqualStatesGiveEqualScripts(t *testing.T) {
	one, two := state(ingressFrom(nil)), state(ingressFrom(nil))
	two.Pods[0], two.Pods[1] = two.Pods[1], two.Pods[0]
	if Render(one) != Render(two) {
		t.Error("the order in which pods were listed shows")
	}
}

func TestPodsThatPoliciesDoNotCover(t *testing.T) {
	running := corev1.Pod{Status: corev1.PodStatus{PodIP: "198.18.0.9", Phase: corev1.PodRunning}}
	if _, ok := podOf(&running); !ok {
		t.Error("a running pod is covered")
	}
	for name, change := range map[string]func(*corev1.Pod){
		"on the node's network": func(p *corev1.Pod) { p.Spec.HostNetwork = true },
		"without an address":    func(p *corev1.Pod) { p.Status.PodIP = "" },
		"finished":              func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded },
	} {
		left := running.DeepCopy()
		change(left)
		if _, ok := podOf(left); ok {
			t.Errorf("a pod %s is covered", name)
		}
	}
}
