// The Go client of ZooKeeper against a server at HOST:PORT, unmodified.
package main

import (
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/samuel/go-zookeeper/zk"
)

const patience = 30 * time.Second

func check(is bool, what string, found ...interface{}) {
	if !is {
		fmt.Println("FAILED:", what, found)
		os.Exit(1)
	}
}

func ok(err error) {
	check(err == nil, "no error", err)
}

func open() *zk.Conn {
	conn, events, err := zk.Connect([]string{os.Args[1]}, 10*time.Second)
	ok(err)
	go func() {
		for range events {
		}
	}()
	return conn
}

func main() {
	log.SetOutput(io.Discard)
	a, b := open(), open()
	base := fmt.Sprintf("/go-%d", time.Now().UnixNano())
	acl := zk.WorldACL(zk.PermAll)
	_, err := a.Create(base, []byte("1"), 0, acl)
	ok(err)
	data, stat, watch, err := a.GetW(base)
	ok(err)
	check(string(data) == "1" && stat.Version == 0, "data and stat", string(data), stat)
	_, err = b.Set(base, []byte("2"), 0)
	ok(err)
	select {
	case event := <-watch:
		check(event.Type == zk.EventNodeDataChanged, "a change", event)
	case <-time.After(patience):
		check(false, "an event")
	}
	_, err = a.Set(base, nil, 0)
	check(err == zk.ErrBadVersion, "a stale version", err)
	_, err = a.CreateProtectedEphemeralSequential(base+"/s-", nil, acl)
	ok(err)
	children, _, err := b.Children(base)
	ok(err)
	check(len(children) == 1, "one child", children)
	create := &zk.CreateRequest{Path: base + "/m", Acl: acl}
	set := &zk.SetDataRequest{Path: base, Data: []byte("3"), Version: -1}
	_, err = a.Multi(create, set, &zk.CheckVersionRequest{Path: base, Version: 2})
	ok(err)
	again := &zk.CreateRequest{Path: base + "/n", Acl: acl}
	_, err = a.Multi(again, &zk.CheckVersionRequest{Path: base, Version: 7})
	check(err != nil, "a transaction that fails")
	there, _, err := a.Exists(base + "/n")
	ok(err)
	check(!there, "nothing of it happened")
	ok(a.AddAuth("digest", []byte("ann:secret")))
	_, err = a.Create(base+"/own", nil, 0, zk.DigestACL(zk.PermAll, "ann", "secret"))
	ok(err)
	_, _, err = b.Get(base + "/own")
	check(err == zk.ErrNoAuth, "another's znode", err)
	lock(a, b, base+"/lock", acl)
	a.Close()
	b.Close()
	fmt.Println("go-zookeeper: all passed")
}

func lock(a, b *zk.Conn, path string, acl []zk.ACL) {
	mine, other := zk.NewLock(a, path, acl), zk.NewLock(b, path, acl)
	ok(mine.Lock())
	got := make(chan error)
	go func() { got <- other.Lock() }()
	select {
	case <-got:
		check(false, "one holder")
	case <-time.After(200 * time.Millisecond):
	}
	ok(mine.Unlock())
	select {
	case err := <-got:
		ok(err)
	case <-time.After(patience):
		check(false, "the lock in turn")
	}
	ok(other.Unlock())
}
