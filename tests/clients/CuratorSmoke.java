import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.api.transaction.CuratorTransactionResult;
import org.apache.curator.framework.recipes.atomic.DistributedAtomicLong;
import org.apache.curator.framework.recipes.barriers.DistributedBarrier;
import org.apache.curator.framework.recipes.barriers.DistributedDoubleBarrier;
import org.apache.curator.framework.recipes.cache.CuratorCache;
import org.apache.curator.framework.recipes.cache.CuratorCacheListener;
import org.apache.curator.framework.recipes.cache.PathChildrenCache;
import org.apache.curator.framework.recipes.cache.PathChildrenCacheEvent;
import org.apache.curator.framework.recipes.cache.TreeCache;
import org.apache.curator.framework.recipes.leader.LeaderLatch;
import org.apache.curator.framework.recipes.leader.LeaderSelector;
import org.apache.curator.framework.recipes.leader.LeaderSelectorListenerAdapter;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.framework.recipes.locks.InterProcessReadWriteLock;
import org.apache.curator.framework.recipes.locks.InterProcessSemaphoreV2;
import org.apache.curator.framework.recipes.locks.Lease;
import org.apache.curator.framework.recipes.nodes.GroupMember;
import org.apache.curator.framework.recipes.nodes.PersistentNode;
import org.apache.curator.framework.recipes.queue.SimpleDistributedQueue;
import org.apache.curator.framework.recipes.shared.SharedCount;
import org.apache.curator.framework.recipes.watch.PersistentWatcher;
import org.apache.curator.retry.ExponentialBackoffRetry;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.data.Stat;

/** Curator's recipes against a server at HOST:PORT, unmodified. */
public class CuratorSmoke {
    private static final int PATIENCE_S = 30;
    private static String address;
    private static String base;

    private interface Part { void run() throws Exception; }

    private static CuratorFramework open() throws Exception {
        CuratorFramework client = CuratorFrameworkFactory.newClient(
            address, 10_000, 10_000, new ExponentialBackoffRetry(100, 5));
        client.start();
        check(client.blockUntilConnected(PATIENCE_S, TimeUnit.SECONDS), "connected");
        return client;
    }

    private static void check(boolean is, String what) {
        if (!is) throw new AssertionError(what);
    }

    private static void part(String name, Part part) throws Exception {
        part.run();
        System.out.println("ok " + name);
    }

    private static void eventually(String what, java.util.concurrent.Callable<Boolean> is) throws Exception {
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(PATIENCE_S);
        while (!is.call()) {
            check(System.nanoTime() < end, what);
            Thread.sleep(10);
        }
    }

    public static void main(String[] arguments) throws Exception {
        address = arguments[0];
        base = "/curator-" + UUID.randomUUID();
        try (CuratorFramework a = open(); CuratorFramework b = open()) {
            part("znodes", () -> znodes(a));
            part("lock", () -> lock(a, b));
            part("read-write lock and semaphore", () -> otherLocks(a, b));
            part("leader latch", () -> leaderLatch(a, b));
            part("leader selector", () -> leaderSelector(a, b));
            part("barrier", () -> barrier(a, b));
            part("double barrier", () -> doubleBarrier(a, b));
            part("path children cache", () -> pathChildrenCache(a, b));
            part("tree cache", () -> treeCache(a, b));
            part("curator cache", () -> curatorCache(a, b));
            part("counters", () -> counters(a, b));
            part("group members", () -> group(a, b));
            part("queue", () -> queue(a, b));
            part("persistent watcher", () -> persistentWatcher(a, b));
            part("namespace", () -> namespace(a));
            part("lost session", () -> lostSession(a));
            a.delete().deletingChildrenIfNeeded().forPath(base);
        }
        System.out.println("Curator: all passed");
    }

    private static void znodes(CuratorFramework a) throws Exception {
        a.create().creatingParentContainersIfNeeded().forPath(base + "/z/a", "1".getBytes());
        Stat stat = new Stat();
        check(new String(a.getData().storingStatIn(stat).forPath(base + "/z/a")).equals("1"), "data");
        a.setData().withVersion(stat.getVersion()).forPath(base + "/z/a", "2".getBytes());
        String protectedPath = a.create().withProtection()
            .withMode(CreateMode.EPHEMERAL_SEQUENTIAL).forPath(base + "/z/p-");
        check(protectedPath.contains("_c_"), protectedPath);
        a.create().withTtl(60_000).withMode(CreateMode.PERSISTENT_WITH_TTL).forPath(base + "/z/ttl");
        List<CuratorTransactionResult> results = a.transaction().forOperations(
            a.transactionOp().check().forPath(base + "/z/a"),
            a.transactionOp().create().forPath(base + "/z/t"),
            a.transactionOp().setData().forPath(base + "/z/t", "3".getBytes()),
            a.transactionOp().delete().forPath(base + "/z/ttl"));
        check(results.size() == 4, "four results");
        check(a.getACL().forPath(base + "/z/a").size() == 1, "an open acl");
        check(a.getConfig().forEnsemble() != null, "getConfig");
        a.sync().forPath(base);
        a.create().orSetData().forPath(base + "/z/a", "4".getBytes());
    }

    private static void lock(CuratorFramework a, CuratorFramework b) throws Exception {
        AtomicInteger inside = new AtomicInteger();
        AtomicInteger count = new AtomicInteger();
        ExecutorService pool = Executors.newFixedThreadPool(6);
        List<Future<?>> running = new ArrayList<>();
        for (int thread = 0; thread < 6; thread++) {
            InterProcessMutex mutex = new InterProcessMutex(thread % 2 == 0 ? a : b, base + "/lock");
            running.add(pool.submit(() -> {
                for (int turn = 0; turn < 5; turn++) {
                    check(mutex.acquire(PATIENCE_S, TimeUnit.SECONDS), "acquired");
                    check(inside.incrementAndGet() == 1, "alone inside");
                    count.incrementAndGet();
                    inside.decrementAndGet();
                    mutex.release();
                }
                return null;
            }));
        }
        for (Future<?> one : running) one.get(PATIENCE_S, TimeUnit.SECONDS);
        pool.shutdown();
        check(count.get() == 30, "thirty turns");
    }

    private static void otherLocks(CuratorFramework a, CuratorFramework b) throws Exception {
        InterProcessReadWriteLock left = new InterProcessReadWriteLock(a, base + "/rw");
        InterProcessReadWriteLock right = new InterProcessReadWriteLock(b, base + "/rw");
        left.readLock().acquire();
        check(right.readLock().acquire(PATIENCE_S, TimeUnit.SECONDS), "two readers");
        check(!right.writeLock().acquire(300, TimeUnit.MILLISECONDS), "no writer beside readers");
        left.readLock().release();
        right.readLock().release();
        check(right.writeLock().acquire(PATIENCE_S, TimeUnit.SECONDS), "a writer");
        right.writeLock().release();
        InterProcessSemaphoreV2 semaphore = new InterProcessSemaphoreV2(a, base + "/semaphore", 2);
        Lease first = semaphore.acquire(), second = semaphore.acquire();
        check(semaphore.acquire(300, TimeUnit.MILLISECONDS) == null, "no third lease");
        semaphore.returnLease(first);
        Lease third = semaphore.acquire(PATIENCE_S, TimeUnit.SECONDS);
        check(third != null, "a lease again");
        semaphore.returnLease(second);
        semaphore.returnLease(third);
    }

    private static void leaderLatch(CuratorFramework a, CuratorFramework b) throws Exception {
        LeaderLatch first = new LeaderLatch(a, base + "/latch", "a");
        LeaderLatch second = new LeaderLatch(b, base + "/latch", "b");
        first.start();
        check(first.await(PATIENCE_S, TimeUnit.SECONDS), "the first leads");
        second.start();
        eventually("two participants", () -> first.getParticipants().size() == 2);
        check(!second.hasLeadership() && second.getLeader().getId().equals("a"), "one leader");
        first.close();
        check(second.await(PATIENCE_S, TimeUnit.SECONDS), "then the second");
        second.close();
    }

    private static void leaderSelector(CuratorFramework a, CuratorFramework b) throws Exception {
        AtomicInteger leading = new AtomicInteger();
        CountDownLatch led = new CountDownLatch(6);
        List<LeaderSelector> selectors = new ArrayList<>();
        for (CuratorFramework client : List.of(a, b)) {
            LeaderSelector selector = new LeaderSelector(client, base + "/select", new LeaderSelectorListenerAdapter() {
                @Override public void takeLeadership(CuratorFramework ignored) throws Exception {
                    check(leading.incrementAndGet() == 1, "one leader");
                    Thread.sleep(5);
                    leading.decrementAndGet();
                    led.countDown();
                }
            });
            selector.autoRequeue();
            selector.start();
            selectors.add(selector);
        }
        check(led.await(PATIENCE_S, TimeUnit.SECONDS), "leadership goes round");
        for (LeaderSelector selector : selectors) selector.close();
    }

    private static void barrier(CuratorFramework a, CuratorFramework b) throws Exception {
        DistributedBarrier left = new DistributedBarrier(a, base + "/barrier");
        DistributedBarrier right = new DistributedBarrier(b, base + "/barrier");
        left.setBarrier();
        check(!right.waitOnBarrier(300, TimeUnit.MILLISECONDS), "held back");
        ExecutorService pool = Executors.newSingleThreadExecutor();
        Future<Boolean> passed = pool.submit(() -> right.waitOnBarrier(PATIENCE_S, TimeUnit.SECONDS));
        left.removeBarrier();
        check(passed.get(PATIENCE_S, TimeUnit.SECONDS), "passed");
        pool.shutdown();
    }

    private static void doubleBarrier(CuratorFramework a, CuratorFramework b) throws Exception {
        AtomicInteger inside = new AtomicInteger();
        ExecutorService pool = Executors.newFixedThreadPool(4);
        List<Future<?>> running = new ArrayList<>();
        for (int member = 0; member < 4; member++) {
            CuratorFramework client = member % 2 == 0 ? a : b;
            running.add(pool.submit(() -> {
                DistributedDoubleBarrier barrier = new DistributedDoubleBarrier(client, base + "/double", 4);
                inside.incrementAndGet();
                check(barrier.enter(PATIENCE_S, TimeUnit.SECONDS), "entered");
                check(inside.get() == 4, "all are in");
                check(barrier.leave(PATIENCE_S, TimeUnit.SECONDS), "left");
                return null;
            }));
        }
        for (Future<?> one : running) one.get(PATIENCE_S, TimeUnit.SECONDS);
        pool.shutdown();
    }

    @SuppressWarnings("deprecation")
    private static void pathChildrenCache(CuratorFramework a, CuratorFramework b) throws Exception {
        String path = base + "/children";
        a.create().forPath(path);
        a.create().forPath(path + "/before", "0".getBytes());
        BlockingQueue<String> events = new LinkedBlockingQueue<>();
        try (PathChildrenCache cache = new PathChildrenCache(b, path, true)) {
            cache.getListenable().addListener((client, event) -> {
                if (event.getData() != null) events.add(event.getType() + " " + event.getData().getPath());
            });
            cache.start(PathChildrenCache.StartMode.BUILD_INITIAL_CACHE);
            check(cache.getCurrentData().size() == 1, "what was there");
            a.create().forPath(path + "/x", "1".getBytes());
            expect(events, PathChildrenCacheEvent.Type.CHILD_ADDED + " " + path + "/x");
            a.setData().forPath(path + "/x", "2".getBytes());
            expect(events, PathChildrenCacheEvent.Type.CHILD_UPDATED + " " + path + "/x");
            a.delete().forPath(path + "/x");
            expect(events, PathChildrenCacheEvent.Type.CHILD_REMOVED + " " + path + "/x");
        }
    }

    private static void expect(BlockingQueue<String> events, String expected) throws Exception {
        String event = events.poll(PATIENCE_S, TimeUnit.SECONDS);
        check(expected.equals(event), "expected " + expected + ", found " + event);
    }

    @SuppressWarnings("deprecation")
    private static void treeCache(CuratorFramework a, CuratorFramework b) throws Exception {
        String path = base + "/tree";
        a.create().creatingParentsIfNeeded().forPath(path + "/a/b/c", "1".getBytes());
        try (TreeCache cache = new TreeCache(b, path)) {
            cache.start();
            eventually("the tree is known", () -> cache.getCurrentData(path + "/a/b/c") != null);
            a.create().creatingParentsIfNeeded().forPath(path + "/d/e", "2".getBytes());
            eventually("what came", () -> cache.getCurrentData(path + "/d/e") != null);
            a.setData().forPath(path + "/a/b/c", "3".getBytes());
            eventually("what changed", () -> new String(cache.getCurrentData(path + "/a/b/c").getData()).equals("3"));
            a.delete().deletingChildrenIfNeeded().forPath(path + "/a");
            eventually("what went", () -> cache.getCurrentData(path + "/a/b") == null);
        }
    }

    private static void curatorCache(CuratorFramework a, CuratorFramework b) throws Exception {
        String path = base + "/cache";
        List<String> events = Collections.synchronizedList(new ArrayList<>());
        try (CuratorCache cache = CuratorCache.build(b, path)) {
            CountDownLatch ready = new CountDownLatch(1);
            cache.listenable().addListener(CuratorCacheListener.builder()
                .forCreates(node -> events.add("+" + node.getPath()))
                .forChanges((before, after) -> events.add("=" + after.getPath()))
                .forDeletes(node -> events.add("-" + node.getPath()))
                .forInitialized(ready::countDown).build());
            cache.start();
            check(ready.await(PATIENCE_S, TimeUnit.SECONDS), "initialized");
            // One after the other: what changes again before the cache has looked is told once.
            a.create().forPath(path, new byte[0]);
            eventually("created: " + events, () -> events.contains("+" + path));
            a.create().forPath(path + "/x", new byte[0]);
            eventually("created below: " + events, () -> events.contains("+" + path + "/x"));
            a.setData().forPath(path + "/x", "1".getBytes());
            eventually("changed: " + events, () -> events.contains("=" + path + "/x"));
            a.delete().forPath(path + "/x");
            eventually("deleted: " + events, () -> events.contains("-" + path + "/x"));
        }
    }

    private static void counters(CuratorFramework a, CuratorFramework b) throws Exception {
        ExponentialBackoffRetry retry = new ExponentialBackoffRetry(10, 20);
        DistributedAtomicLong left = new DistributedAtomicLong(a, base + "/long", retry);
        DistributedAtomicLong right = new DistributedAtomicLong(b, base + "/long", retry);
        for (int turn = 0; turn < 5; turn++) {
            check(left.increment().succeeded() && right.increment().succeeded(), "counted");
        }
        check(left.get().postValue() == 10, "ten");
        try (SharedCount mine = new SharedCount(a, base + "/count", 0);
             SharedCount other = new SharedCount(b, base + "/count", 0)) {
            mine.start();
            other.start();
            mine.setCount(7);
            eventually("seven", () -> other.getCount() == 7);
        }
    }

    private static void group(CuratorFramework a, CuratorFramework b) throws Exception {
        try (GroupMember left = new GroupMember(a, base + "/group", "left");
             PersistentNode node = new PersistentNode(a, CreateMode.EPHEMERAL, false, base + "/node", new byte[0])) {
            left.start();
            node.start();
            check(node.waitForInitialCreate(PATIENCE_S, TimeUnit.SECONDS), "created");
            b.delete().forPath(base + "/node");
            eventually("created again", () -> b.checkExists().forPath(base + "/node") != null);
            GroupMember right = new GroupMember(b, base + "/group", "right");
            right.start();
            eventually("two members", () -> left.getCurrentMembers().size() == 2);
            right.close();
            eventually("one member", () -> left.getCurrentMembers().size() == 1);
        }
    }

    private static void queue(CuratorFramework a, CuratorFramework b) throws Exception {
        SimpleDistributedQueue from = new SimpleDistributedQueue(a, base + "/queue");
        SimpleDistributedQueue to = new SimpleDistributedQueue(b, base + "/queue");
        for (int number = 0; number < 5; number++) from.offer(new byte[] {(byte) number});
        for (int number = 0; number < 5; number++) check(to.take()[0] == number, "in order");
        check(to.poll(100, TimeUnit.MILLISECONDS) == null, "empty");
    }

    private static void persistentWatcher(CuratorFramework a, CuratorFramework b) throws Exception {
        BlockingQueue<String> events = new LinkedBlockingQueue<>();
        a.create().forPath(base + "/watched");
        try (PersistentWatcher watcher = new PersistentWatcher(b, base + "/watched", true)) {
            CountDownLatch ready = new CountDownLatch(1);
            watcher.getResetListenable().addListener(ready::countDown);
            watcher.getListenable().addListener(event -> {
                if (event.getPath() != null) events.add(event.getType() + " " + event.getPath());
            });
            watcher.start();
            check(ready.await(PATIENCE_S, TimeUnit.SECONDS), "set");
            for (String name : List.of("x", "y")) {
                a.create().forPath(base + "/watched/" + name);
                expect(events, "NodeCreated " + base + "/watched/" + name);
            }
        }
        b.watchers().removeAll().quietly().forPath(base + "/watched");
    }

    private static void namespace(CuratorFramework a) throws Exception {
        CuratorFramework inside = a.usingNamespace(base.substring(1) + "/space");
        inside.create().creatingParentsIfNeeded().forPath("/n/m");
        check(a.checkExists().forPath(base + "/space/n/m") != null, "below the namespace");
        // The client's own chroot, below a znode that must be there.
        try (CuratorFramework rooted = CuratorFrameworkFactory.newClient(
                address + base + "/space", new ExponentialBackoffRetry(100, 5))) {
            rooted.start();
            check(rooted.getChildren().forPath("/n").equals(List.of("m")), "below the chroot");
            String path = rooted.create().withMode(CreateMode.PERSISTENT_SEQUENTIAL).forPath("/n/s-");
            check(path.equals("/n/s-0000000001"), path);
        }
    }

    /** Another connection takes the session and ends it, as an expiry does. */
    private static void lostSession(CuratorFramework a) throws Exception {
        try (CuratorFramework victim = open()) {
            victim.create().withMode(CreateMode.EPHEMERAL).forPath(base + "/mine");
            CountDownLatch lost = new CountDownLatch(1), back = new CountDownLatch(1);
            victim.getConnectionStateListenable().addListener((client, state) -> {
                switch (state) {
                    case LOST: lost.countDown(); break;
                    case RECONNECTED: back.countDown(); break;
                    default: break;
                }
            });
            org.apache.zookeeper.ZooKeeper own = victim.getZookeeperClient().getZooKeeper();
            CountDownLatch connected = new CountDownLatch(1);
            org.apache.zookeeper.ZooKeeper thief = new org.apache.zookeeper.ZooKeeper(
                address, 10_000, event -> {
                    if (event.getState() == org.apache.zookeeper.Watcher.Event.KeeperState.SyncConnected) {
                        connected.countDown();
                    }
                }, own.getSessionId(), own.getSessionPasswd());
            check(connected.await(PATIENCE_S, TimeUnit.SECONDS), "the session moves");
            thief.close();
            check(lost.await(PATIENCE_S, TimeUnit.SECONDS), "told that the session is lost");
            check(back.await(PATIENCE_S, TimeUnit.SECONDS), "connected anew");
            eventually("the ephemeral is gone", () -> a.checkExists().forPath(base + "/mine") == null);
        }
    }
}
