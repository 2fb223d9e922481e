package netpol

import (
	"bytes"
	"flag"
	"fmt"
	"log"
	"net/netip"
	"os"
	"os/exec"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	networklisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	// settle gathers the events of one change (a deployment's pods, say) into one table.
	settle = 20 * time.Millisecond
	// recheck is how soon the off switch is noticed and a failed load repeated.
	recheck = 200 * time.Millisecond
)

type enforcer struct {
	pods       corelisters.PodLister
	namespaces corelisters.NamespaceLister
	policies   networklisters.NetworkPolicyLister
	offSwitch  string
	loaded     string // the script now in the kernel
}

// Main watches pods, namespaces and policies, and keeps the table equal to what they say, for as long as the file named by -off-switch is absent.
// The switch exists for tests: they show what happens on a cluster whose network plugin enforces nothing.
func Main(args []string) error {
	flags := flag.NewFlagSet("netpol", flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "kubeconfig that may list and watch pods, namespaces and network policies")
	offSwitch := flags.String("off-switch", "", "enforce nothing while this file exists")
	if err := flags.Parse(args); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	return newEnforcer(client, *offSwitch)
}

func newEnforcer(client kubernetes.Interface, offSwitch string) error {
	factory := informers.NewSharedInformerFactory(client, 0)
	dirty := make(chan struct{}, 1)
	pods, namespaces := factory.Core().V1().Pods(), factory.Core().V1().Namespaces()
	policies := factory.Networking().V1().NetworkPolicies()
	for _, informer := range []cache.SharedIndexInformer{pods.Informer(), namespaces.Informer(), policies.Informer()} {
		if _, err := informer.AddEventHandler(marker(dirty)); err != nil {
			return err
		}
	}
	stop := make(chan struct{})
	factory.Start(stop)
	// Nothing is loaded before all three are known: half a picture would open pods that a running table still protects.
	for kind, ok := range factory.WaitForCacheSync(stop) {
		if !ok {
			return fmt.Errorf("cannot list %v", kind)
		}
	}
	e := &enforcer{pods: pods.Lister(), namespaces: namespaces.Lister(), policies: policies.Lister(), offSwitch: offSwitch}
	for {
		if err := e.sync(); err != nil {
			log.Printf("rules not loaded, the earlier ones stay: %v", err)
		}
		select {
		case <-dirty:
			time.Sleep(settle)
		case <-time.After(recheck):
		}
	}
}

func marker(dirty chan<- struct{}) cache.ResourceEventHandler {
	mark := func() {
		select {
		case dirty <- struct{}{}:
		default:
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { mark() },
		UpdateFunc: func(any, any) { mark() },
		DeleteFunc: func(any) { mark() },
	}
}

func (e *enforcer) sync() error {
	script := fmt.Sprintf("table inet %[1]s\ndelete table inet %[1]s\n", Table)
	if _, err := os.Stat(e.offSwitch); err != nil {
		state, err := e.observe()
		if err != nil {
			return err
		}
		script = Render(state)
	}
	if script == e.loaded {
		return nil
	}
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin = bytes.NewBufferString(script)
	if output, err := nft.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, output)
	}
	e.loaded = script
	log.Printf("loaded %d bytes of rules", len(script))
	return nil
}

func (e *enforcer) observe() (State, error) {
	state := State{Namespaces: map[string]labels.Set{}}
	namespaces, err := e.namespaces.List(labels.Everything())
	if err != nil {
		return state, err
	}
	for _, namespace := range namespaces {
		state.Namespaces[namespace.Name] = namespace.Labels
	}
	pods, err := e.pods.List(labels.Everything())
	if err != nil {
		return state, err
	}
	for _, pod := range pods {
		if known, ok := podOf(pod); ok {
			state.Pods = append(state.Pods, known)
		}
	}
	state.Policies, err = e.policies.List(labels.Everything())
	return state, err
}

// podOf leaves out pods on the node's own network, which policies do not cover, and finished ones, whose address may already be another's.
func podOf(pod *corev1.Pod) (Pod, bool) {
	ip, err := netip.ParseAddr(pod.Status.PodIP)
	finished := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	if err != nil || !ip.Is4() || pod.Spec.HostNetwork || finished {
		return Pod{}, false
	}
	known := Pod{Namespace: pod.Namespace, Name: pod.Name, Labels: pod.Labels, IP: ip}
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, container := range containers {
			known.Ports = append(known.Ports, container.Ports...)
		}
	}
	return known, true
}
