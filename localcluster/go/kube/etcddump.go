package main

import (
	"bufio"
	"context"
	"flag"
	"os"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const dumpPage = 500

// dumpEtcd writes every key and value, raw, one after the other: tests search it for bytes that must never have been stored.
//
// It shows the newest revision. What was overwritten or deleted is still in etcd's own files until compaction; search those too.
func dumpEtcd(args []string) error {
	flags := flag.NewFlagSet("etcd-dump", flag.ExitOnError)
	endpoint := flags.String("endpoint", "https://127.0.0.1:2379", "etcd client URL")
	ca := flags.String("cacert", "", "CA certificate")
	cert := flags.String("cert", "", "client certificate")
	key := flags.String("key", "", "client key")
	if err := flags.Parse(args); err != nil {
		return err
	}
	tlsConfig, err := transport.TLSInfo{TrustedCAFile: *ca, CertFile: *cert, KeyFile: *key}.ClientConfig()
	if err != nil {
		return err
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{*endpoint}, TLS: tlsConfig, DialTimeout: 10 * time.Second})
	if err != nil {
		return err
	}
	defer client.Close()
	return copyAll(client, bufio.NewWriterSize(os.Stdout, 1<<20))
}

func copyAll(client *clientv3.Client, out *bufio.Writer) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	next, revision := "\x00", int64(0)
	for {
		// Every page at the revision of the first: one consistent picture.
		page, err := client.Get(ctx, next, clientv3.WithFromKey(), clientv3.WithLimit(dumpPage), clientv3.WithRev(revision))
		if err != nil {
			return err
		}
		revision = page.Header.Revision
		for _, item := range page.Kvs {
			out.Write(item.Key)
			out.WriteByte('\n')
			out.Write(item.Value)
			out.WriteByte('\n')
			next = string(item.Key) + "\x00"
		}
		if !page.More {
			return out.Flush()
		}
	}
}
