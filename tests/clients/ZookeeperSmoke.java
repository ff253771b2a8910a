import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.apache.zookeeper.AddWatchMode;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.KeeperException.Code;
import org.apache.zookeeper.Op;
import org.apache.zookeeper.OpResult;
import org.apache.zookeeper.WatchedEvent;
import org.apache.zookeeper.Watcher;
import org.apache.zookeeper.ZooDefs;
import org.apache.zookeeper.ZooKeeper;
import org.apache.zookeeper.data.ACL;
import org.apache.zookeeper.data.Id;
import org.apache.zookeeper.data.Stat;
import org.apache.zookeeper.recipes.lock.LockListener;
import org.apache.zookeeper.recipes.lock.WriteLock;

/**
 * What applications do with ZooKeeper's own client.
 *
 *     java -cp '/usr/share/java/*' ZookeeperSmoke.java 127.0.0.1:2181
 *
 * Each check has a path of its own, which is deleted first.
 */
public class ZookeeperSmoke {
    private static final List<ACL> OPEN = ZooDefs.Ids.OPEN_ACL_UNSAFE;
    private static String address;

    interface Check {
        void run(ZooKeeper zk, String root) throws Exception;
    }

    interface Refused {
        void run() throws Exception;
    }

    public static void main(String[] arguments) throws Exception {
        address = arguments[0];
        check("znodes", ZookeeperSmoke::znodes);
        check("transactions", ZookeeperSmoke::transactions);
        check("access", ZookeeperSmoke::access);
        check("watches", ZookeeperSmoke::watches);
        check("sessions", ZookeeperSmoke::sessions);
        check("pipelines", ZookeeperSmoke::pipelines);
        check("locks", ZookeeperSmoke::locks);
        System.exit(0);
    }

    private static void check(String name, Check check) throws Exception {
        ZooKeeper zk = connect(0, null, null);
        String root = "/java-" + name;
        delete(zk, root);
        zk.create(root, new byte[0], OPEN, CreateMode.PERSISTENT);
        check.run(zk, root);
        delete(zk, root);
        zk.close();
        System.out.println(name + ": ok");
    }

    private static ZooKeeper connect(long id, byte[] password, Watcher watcher) throws Exception {
        CountDownLatch connected = new CountDownLatch(1);
        Watcher both = event -> {
            if (event.getState() == Watcher.Event.KeeperState.SyncConnected
                    || event.getState() == Watcher.Event.KeeperState.Expired) {
                connected.countDown();
            }
            if (watcher != null) {
                watcher.process(event);
            }
        };
        ZooKeeper zk = id == 0
            ? new ZooKeeper(address, 15_000, both)
            : new ZooKeeper(address, 15_000, both, id, password);
        expect(connected.await(15, TimeUnit.SECONDS), "no connection");
        return zk;
    }

    private static void delete(ZooKeeper zk, String path) throws Exception {
        if (zk.exists(path, false) != null) {
            for (String child : zk.getChildren(path, false)) {
                delete(zk, path + "/" + child);
            }
            zk.delete(path, -1);
        }
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static void expect(boolean holds, Object what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    private static void expectCode(Code code, Refused refused) throws Exception {
        try {
            refused.run();
        } catch (KeeperException error) {
            expect(error.code() == code, error.code() + " instead of " + code);
            return;
        }
        throw new AssertionError("not refused with " + code);
    }

    private static void znodes(ZooKeeper zk, String root) throws Exception {
        Stat stat = new Stat();
        String path = zk.create(root + "/n-", bytes("x"), OPEN, CreateMode.PERSISTENT_SEQUENTIAL, stat);
        expect(path.equals(root + "/n-0000000000"), path);
        expect(stat.getCzxid() == stat.getMzxid() && stat.getVersion() == 0, stat);
        expect(zk.setData(path, bytes("y"), 0).getVersion() == 1, "version");
        expectCode(Code.BADVERSION, () -> zk.setData(path, bytes("z"), 0));
        expect(Arrays.equals(zk.getData(path, false, stat), bytes("y")), "data");
        zk.create(path + "/ephemeral", null, OPEN, CreateMode.EPHEMERAL);
        expect(zk.getData(path + "/ephemeral", false, stat) == null, "null is not empty data");
        expect(stat.getEphemeralOwner() == zk.getSessionId(), "owner");
        expect(zk.getEphemerals().equals(List.of(path + "/ephemeral")), zk.getEphemerals());
        expect(zk.getAllChildrenNumber(root) == 2, "count");
        zk.create(root + "/container", null, OPEN, CreateMode.CONTAINER, stat);
        expect(stat.getEphemeralOwner() == 0, stat);
        zk.create(root + "/ttl", null, OPEN, CreateMode.PERSISTENT_WITH_TTL, stat, 60_000);
        expect(stat.getEphemeralOwner() == 0, stat);
        expect(zk.getConfig(false, stat) != null, "no configuration");
        expectCode(Code.NOTEMPTY, () -> zk.delete(path, -1));
        expectCode(Code.NONODE, () -> zk.getData(root + "/none", false, null));
        expectCode(Code.NODEEXISTS, () -> zk.create(path, null, OPEN, CreateMode.PERSISTENT));
        expectCode(Code.NOCHILDRENFOREPHEMERALS,
            () -> zk.create(path + "/ephemeral/x", null, OPEN, CreateMode.PERSISTENT));
    }

    private static void transactions(ZooKeeper zk, String root) throws Exception {
        List<OpResult> results = zk.multi(List.of(
            Op.create(root + "/a", bytes("1"), OPEN, CreateMode.PERSISTENT),
            Op.check(root + "/a", 0),
            Op.setData(root + "/a", bytes("2"), 0),
            Op.create(root + "/b", bytes("3"), OPEN, CreateMode.EPHEMERAL)));
        expect(results.size() == 4, results);
        expect(((OpResult.SetDataResult) results.get(2)).getStat().getVersion() == 1, "version");
        List<Op> failing = List.of(
            Op.create(root + "/c", null, OPEN, CreateMode.PERSISTENT), Op.delete(root + "/a", 0));
        try {
            zk.multi(failing);
            throw new AssertionError("not refused");
        } catch (KeeperException.BadVersionException error) {
            OpResult.ErrorResult second = (OpResult.ErrorResult) error.getResults().get(1);
            expect(second.getErr() == Code.BADVERSION.intValue(), second.getErr());
        }
        expect(zk.exists(root + "/c", false) == null, "half a transaction");
        List<OpResult> reads =
            zk.multi(List.of(Op.getData(root + "/a"), Op.getChildren(root), Op.getData(root + "/c")));
        expect(Arrays.equals(((OpResult.GetDataResult) reads.get(0)).getData(), bytes("2")), "data");
        expect(((OpResult.GetChildrenResult) reads.get(1)).getChildren().size() == 2, "children");
        expect(reads.get(2) instanceof OpResult.ErrorResult, "an absent znode was read");
    }

    private static void access(ZooKeeper zk, String root) throws Exception {
        zk.addAuthInfo("digest", bytes("ann:secret"));
        zk.create(root + "/own", bytes("x"), ZooDefs.Ids.CREATOR_ALL_ACL, CreateMode.PERSISTENT);
        ZooKeeper other = connect(0, null, null);
        expectCode(Code.NOAUTH, () -> other.getData(root + "/own", false, null));
        expectCode(Code.NOAUTH, () -> other.setData(root + "/own", bytes("y"), -1));
        expectCode(Code.INVALIDACL,
            () -> other.create(root + "/x", null, ZooDefs.Ids.CREATOR_ALL_ACL, CreateMode.PERSISTENT));
        Stat stat = new Stat();
        List<ACL> acl = new ArrayList<>(zk.getACL(root + "/own", stat));
        acl.add(new ACL(ZooDefs.Perms.READ, new Id("ip", "127.0.0.0/8")));
        expect(zk.setACL(root + "/own", acl, stat.getAversion()).getAversion() == 1, "aversion");
        expect(Arrays.equals(other.getData(root + "/own", false, null), bytes("x")), "by address");
        other.addAuthInfo("digest", bytes("ann:secret"));
        other.setData(root + "/own", bytes("y"), -1);
        expect(other.whoAmI().stream().anyMatch(client -> client.getUser().equals("ann")), "whoAmI");
        other.close();
    }

    private static void watches(ZooKeeper zk, String root) throws Exception {
        BlockingQueue<WatchedEvent> events = new LinkedBlockingQueue<>();
        ZooKeeper watching = connect(0, null, null);
        watching.addWatch(root, events::add, AddWatchMode.PERSISTENT_RECURSIVE);
        watching.exists(root + "/a", event -> events.add(event));
        zk.create(root + "/a", null, OPEN, CreateMode.PERSISTENT);
        zk.create(root + "/a/b", null, OPEN, CreateMode.PERSISTENT);
        zk.setData(root + "/a/b", bytes("x"), -1);
        zk.delete(root + "/a/b", -1);
        List<String> told = new ArrayList<>();
        for (int count = 0; count < 5; count++) {
            WatchedEvent event = events.poll(15, TimeUnit.SECONDS);
            expect(event != null, "events so far: " + told);
            told.add(event.getType() + " " + event.getPath().substring(root.length()));
        }
        told.sort(null);
        expect(told.equals(List.of("NodeCreated /a", "NodeCreated /a", "NodeCreated /a/b",
            "NodeDataChanged /a/b", "NodeDeleted /a/b")), told);
        watching.removeAllWatches(root, Watcher.WatcherType.Any, false);
        WatchedEvent removed = events.poll(15, TimeUnit.SECONDS);
        expect(removed != null, "the client tells of the removal");
        zk.setData(root + "/a", bytes("x"), -1);
        watching.sync(root, (code, path, context) -> { }, null);
        watching.getData(root + "/a", false, null);
        expect(events.isEmpty(), events);
        watching.close();
    }

    private static void sessions(ZooKeeper zk, String root) throws Exception {
        ZooKeeper first = connect(0, null, null);
        first.create(root + "/ephemeral", null, OPEN, CreateMode.EPHEMERAL);
        ZooKeeper second = connect(first.getSessionId(), first.getSessionPasswd(), null);
        expect(second.getSessionId() == first.getSessionId(), "another session");
        expect(second.exists(root + "/ephemeral", false) != null, "its ephemeral is gone");
        CountDownLatch expired = new CountDownLatch(1);
        Watcher watcher = event -> {
            if (event.getState() == Watcher.Event.KeeperState.Expired) {
                expired.countDown();
            }
        };
        byte[] wrong = new byte[16];
        ZooKeeper third = connect(second.getSessionId(), wrong, watcher);
        expect(expired.await(15, TimeUnit.SECONDS), "a wrong password was not refused");
        third.close();
        CountDownLatch gone = new CountDownLatch(1);
        zk.exists(root + "/ephemeral", event -> gone.countDown());
        second.close();
        expect(gone.await(15, TimeUnit.SECONDS), "the ephemeral outlived its session");
        first.close();
    }

    private static void pipelines(ZooKeeper zk, String root) throws Exception {
        int count = 2_000;
        CountDownLatch answered = new CountDownLatch(count);
        List<Integer> codes = new ArrayList<>();
        for (int number = 0; number < count; number++) {
            zk.create(root + "/n-", bytes("x"), OPEN, CreateMode.PERSISTENT_SEQUENTIAL,
                (code, path, context, name) -> {
                    synchronized (codes) {
                        codes.add(code == 0 && name.endsWith(String.format("%010d", codes.size())) ? 0 : -1);
                    }
                    answered.countDown();
                }, null);
        }
        expect(answered.await(60, TimeUnit.SECONDS), "answers are missing");
        expect(codes.stream().allMatch(code -> code == 0), "out of order");
        expect(zk.getChildren(root, false).size() == count, "children");
    }

    private static void locks(ZooKeeper zk, String root) throws Exception {
        ZooKeeper other = connect(0, null, null);
        CountDownLatch acquired = new CountDownLatch(2);
        LockListener listener = new LockListener() {
            public void lockAcquired() {
                acquired.countDown();
            }

            public void lockReleased() { }
        };
        WriteLock first = new WriteLock(zk, root, OPEN, listener);
        WriteLock second = new WriteLock(other, root, OPEN, listener);
        expect(first.lock(), "the first does not hold the lock");
        expect(!second.lock(), "two hold the lock");
        first.unlock();
        expect(acquired.await(15, TimeUnit.SECONDS), "the second never got the lock");
        second.unlock();
        other.close();
    }
}
