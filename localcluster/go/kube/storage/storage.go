// Package storage gives claims of the class "local" a directory of the node, and takes it away with them.
//
// It is what every cluster's default StorageClass does in the simplest way. Everybody on the node may write the directory (hostPath knows no fsGroup): the
// cluster is one developer's, and ends with everything in it.
package storage

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// Provisioner is the name that the StorageClass carries.
const Provisioner = "veilpod.dev/local"

const bound = 10 * time.Second

type provisioner struct {
	client kubernetes.Interface
	root   string
}

// Main watches claims and volumes. -root is the directory that holds the volumes' directories.
func Main(args []string) error {
	flags := flag.NewFlagSet("storage", flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "kubeconfig that may manage persistent volumes and watch claims")
	root := flags.String("root", "", "directory of the volumes")
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
	p := &provisioner{client: client, root: *root}
	// A resync repeats what failed: creating what exists and deleting what is gone are both fine.
	factory := informers.NewSharedInformerFactory(client, bound)
	claims, volumes := factory.Core().V1().PersistentVolumeClaims().Informer(), factory.Core().V1().PersistentVolumes().Informer()
	if _, err := claims.AddEventHandler(each(p.provision)); err != nil {
		return err
	}
	if _, err := volumes.AddEventHandler(each(p.reclaim)); err != nil {
		return err
	}
	stop := make(chan struct{})
	factory.Start(stop)
	for kind, ok := range factory.WaitForCacheSync(stop) {
		if !ok {
			return fmt.Errorf("cannot list %v", kind)
		}
	}
	select {}
}

// each calls do for every object that is new or has changed.
func each[T any](do func(context.Context, T) error) cache.ResourceEventHandler {
	handle := func(object any) {
		typed, ok := object.(T)
		if !ok {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), bound)
		defer cancel()
		if err := do(ctx, typed); err != nil {
			log.Printf("tried again soon: %v", err)
		}
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: handle, UpdateFunc: func(_, new any) { handle(new) }}
}

func (p *provisioner) provision(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	ours := claim.Annotations["volume.kubernetes.io/storage-provisioner"] == Provisioner
	if !ours || claim.Status.Phase != corev1.ClaimPending || claim.Spec.VolumeName != "" {
		return nil
	}
	name := "pvc-" + string(claim.UID)
	directory := filepath.Join(p.root, name)
	if err := os.MkdirAll(directory, 0o777); err != nil {
		return err
	}
	if err := os.Chmod(directory, 0o777); err != nil { // the umask has cut what MkdirAll asked for
		return err
	}
	kind := corev1.HostPathDirectory
	volume := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": Provisioner}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      claim.Spec.Resources.Requests,
			AccessModes:                   claim.Spec.AccessModes,
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			StorageClassName:              *claim.Spec.StorageClassName,
			ClaimRef:                      &corev1.ObjectReference{Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID},
			PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: directory, Type: &kind}},
		},
	}
	_, err := p.client.CoreV1().PersistentVolumes().Create(ctx, volume, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func (p *provisioner) reclaim(ctx context.Context, volume *corev1.PersistentVolume) error {
	ours := volume.Annotations["pv.kubernetes.io/provisioned-by"] == Provisioner
	if !ours || volume.Status.Phase != corev1.VolumeReleased {
		return nil
	}
	if err := os.RemoveAll(filepath.Join(p.root, volume.Name)); err != nil {
		return err
	}
	err := p.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
