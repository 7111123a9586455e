package server

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"ctd/auth"
)

func TestSetSocketMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ctd.sock")
	l, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, tt := range []struct {
		name string
		cfg  auth.Config
		want fs.FileMode
	}{
		{"nobody is named", auth.DefaultConfig(), 0o660},
		{"a local user", auth.Config{Peers: []auth.Peer{{User: "jane"}}}, 0o666},
		{"nobody again, after a reload", auth.Config{Users: []auth.User{{Name: "jane"}}}, 0o660},
		{"a proxy's user", auth.Config{Proxy: auth.Proxy{UnixUsers: []string{"www-data"}}}, 0o666},
		{"a proxy that calls by TCP", auth.Config{Proxy: auth.Proxy{Addresses: []string{"192.0.2.1"}}}, 0o660},
	} {
		if err := setSocketMode(&Config{Socket: path, Auth: tt.cfg}); err != nil {
			t.Fatal(err)
		}
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != tt.want {
			t.Errorf("%s: %v, %v; want %v", tt.name, fi.Mode().Perm(), err, tt.want)
		}
	}
	if err := setSocketMode(&Config{Socket: path + "x"}); err != nil {
		t.Errorf("where there is none: %v", err)
	}
}
