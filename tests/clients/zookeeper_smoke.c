/* ZooKeeper's C client against a server at HOST:PORT, unmodified. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zookeeper/zookeeper.h>

enum { PATIENCE_MS = 30000 };

static volatile int is_connected;
static volatile int is_changed;

static void check(int is, const char *what) {
    if (!is) {
        printf("FAILED: %s\n", what);
        exit(1);
    }
}

static void ok(int code, const char *what) {
    if (code != ZOK) {
        printf("FAILED: %s: %s\n", what, zerror(code));
        exit(1);
    }
}

static void wait_for(volatile int *flag, const char *what) {
    for (int waited_ms = 0; !*flag && waited_ms < PATIENCE_MS; waited_ms += 10) usleep(10000);
    check(*flag, what);
}

static void on_session(zhandle_t *zh, int type, int state, const char *path, void *context) {
    (void)zh, (void)path, (void)context;
    if (type == ZOO_SESSION_EVENT && state == ZOO_CONNECTED_STATE) is_connected = 1;
}

static void on_change(zhandle_t *zh, int type, int state, const char *path, void *context) {
    (void)zh, (void)state, (void)path, (void)context;
    if (type == ZOO_CHANGED_EVENT) is_changed = 1;
}

int main(int count, char **arguments) {
    check(count == 2, "an address as argument");
    zoo_set_debug_level(ZOO_LOG_LEVEL_ERROR);
    zhandle_t *zh = zookeeper_init(arguments[1], on_session, 10000, 0, 0, 0);
    wait_for(&is_connected, "a session");
    char base[64], path[128], made[128], data[64];
    int length = sizeof data;
    struct Stat stat;
    struct String_vector names;
    struct ACL_vector acl;
    snprintf(base, sizeof base, "/c-%d", getpid());
    ok(zoo_create(zh, base, "1", 1, &ZOO_OPEN_ACL_UNSAFE, 0, made, sizeof made), "create");
    ok(zoo_wget(zh, base, on_change, 0, data, &length, &stat), "get");
    check(length == 1 && data[0] == '1', "data");
    ok(zoo_set2(zh, base, "2", 1, 0, &stat), "set");
    check(stat.version == 1, "a version");
    wait_for(&is_changed, "an event");
    check(zoo_set(zh, base, "3", 1, 0) == ZBADVERSION, "a stale version");
    snprintf(path, sizeof path, "%s/s-", base);
    int flags = ZOO_EPHEMERAL | ZOO_SEQUENCE;
    ok(zoo_create(zh, path, 0, -1, &ZOO_OPEN_ACL_UNSAFE, flags, made, sizeof made), "sequential");
    ok(zoo_get_children2(zh, base, 0, &names, &stat), "children");
    check(names.count == 1 && stat.numChildren == 1, "one child");
    snprintf(path, sizeof path, "%s/m", base);
    zoo_op_t ops[2];
    zoo_op_result_t results[2];
    zoo_create_op_init(&ops[0], path, "m", 1, &ZOO_OPEN_ACL_UNSAFE, 0, made, sizeof made);
    zoo_check_op_init(&ops[1], base, 7);
    check(zoo_multi(zh, 2, ops, results) == ZBADVERSION, "a transaction that fails");
    check(zoo_exists(zh, path, 0, &stat) == ZNONODE, "nothing of it happened");
    zoo_check_op_init(&ops[1], base, 1);
    ok(zoo_multi(zh, 2, ops, results), "a transaction");
    ok(zoo_add_auth(zh, "digest", "ann:secret", 10, 0, 0), "auth");
    ok(zoo_get_acl(zh, base, &acl, &stat), "acl");
    check(acl.count == 1, "one entry");
    ok(zoo_delete(zh, path, -1), "delete");
    ok(zookeeper_close(zh), "close");
    printf("C client: all passed\n");
    return 0;
}
