package storage

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func claim(provisioner string) *corev1.PersistentVolumeClaim {
	class := "local"
	annotations := map[string]string{"volume.kubernetes.io/storage-provisioner": provisioner}
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "c", UID: "1", Annotations: annotations},
		Spec:       corev1.PersistentVolumeClaimSpec{StorageClassName: &class},
		Status:     corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
}

func TestAClaimGetsADirectoryAndLosesItWithItsVolume(t *testing.T) {
	ctx := context.Background()
	p := &provisioner{client: fake.NewClientset(), root: t.TempDir()}
	for range 2 { // a resync repeats it
		if err := p.provision(ctx, claim(Provisioner)); err != nil {
			t.Fatal(err)
		}
	}
	volume, err := p.client.CoreV1().PersistentVolumes().Get(ctx, "pvc-1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	directory := filepath.Join(p.root, "pvc-1")
	if _, err := os.Stat(directory); err != nil || volume.Spec.HostPath.Path != directory {
		t.Fatalf("%v, %v", err, volume.Spec.HostPath)
	}
	volume.Status.Phase = corev1.VolumeReleased
	for range 2 {
		if err := p.reclaim(ctx, volume); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(directory); !os.IsNotExist(err) {
		t.Fatalf("the directory is still there: %v", err)
	}
}

func TestWhatIsNotOursIsLeftAlone(t *testing.T) {
	ctx := context.Background()
	p := &provisioner{client: fake.NewClientset(), root: t.TempDir()}
	if err := p.provision(ctx, claim("somebody.else/storage")); err != nil {
		t.Fatal(err)
	}
	volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pvc-1"}, Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeReleased}}
	if err := os.Mkdir(filepath.Join(p.root, "pvc-1"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := p.reclaim(ctx, volume); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(p.root)
	if err != nil || len(left) != 1 {
		t.Fatalf("%v, %v", left, err)
	}
}
