package main

import (
	"errors"
	"flag"
	"io"
	"log"
	"net"
	"os"
	"time"
)

// forward lets programs on the host reach the API server, whose network namespace has no way in.
//
// A socket belongs to the namespace in which it was opened, whoever holds it later. So the tool opens the listening socket on the host and
// hands it down as a file descriptor, and this process, inside the cluster's namespace, only accepts and dials: no setns, no second process tree
// that could outlive the cluster.
func forward(args []string) error {
	flags := flag.NewFlagSet("forward", flag.ExitOnError)
	fd := flags.Int("listen-fd", 3, "inherited listening socket")
	target := flags.String("target", "", "host:port to dial")
	if err := flags.Parse(args); err != nil {
		return err
	}
	listener, err := net.FileListener(os.NewFile(uintptr(*fd), "listener"))
	if err != nil {
		return err
	}
	for {
		client, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil {
			// Out of file descriptors, most likely: wait for some to come free instead of spinning.
			log.Printf("accept: %v", err)
			time.Sleep(50 * time.Millisecond)
			continue
		}
		go join(client, *target)
	}
}

func join(client net.Conn, target string) {
	defer client.Close()
	server, err := net.DialTimeout("tcp", target, 10*time.Second)
	if err != nil {
		log.Printf("dial: %v", err)
		return
	}
	defer server.Close()
	done := make(chan struct{})
	go func() {
		pump(server, client)
		close(done)
	}()
	pump(client, server)
	<-done
}

// pump copies until the source ends and passes that end on, so that half-closed streams (kubectl exec, port-forward) work.
func pump(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		// The other direction would wait for ever for a peer that is gone.
		to.Close()
		from.Close()
		return
	}
	if half, ok := to.(*net.TCPConn); ok {
		_ = half.CloseWrite()
	}
}
