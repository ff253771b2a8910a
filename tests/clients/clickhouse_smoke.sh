#!/usr/bin/env bash
# A ClickHouse server whose replicated tables meet in the ZooKeeper face at HOST:PORT.
set -euo pipefail
host="${1%:*}"
port="${1##*:}"
work="$(mktemp -d)"
base=$((30000 + RANDOM % 20000))
mkdir "$work/data" "$work/tmp"
cat >"$work/config.xml" <<XML
<yandex>
  <logger><level>warning</level><console>1</console></logger>
  <listen_host>127.0.0.1</listen_host>
  <http_port>$base</http_port><tcp_port>$((base + 1))</tcp_port>
  <interserver_http_port>$((base + 2))</interserver_http_port>
  <interserver_http_host>127.0.0.1</interserver_http_host>
  <path>$work/data/</path><tmp_path>$work/tmp/</tmp_path>
  <mark_cache_size>5368709</mark_cache_size>
  <users_config>users.xml</users_config>
  <default_profile>default</default_profile><default_database>default</default_database>
  <zookeeper><node index="1"><host>$host</host><port>$port</port></node></zookeeper>
</yandex>
XML
cat >"$work/users.xml" <<XML
<yandex>
  <profiles><default/></profiles><quotas><default/></quotas>
  <users><default>
    <password></password><networks><ip>127.0.0.1</ip></networks>
    <profile>default</profile><quota>default</quota>
  </default></users>
</yandex>
XML
(cd "$work" && exec clickhouse-server --config-file=config.xml >"$work/output" 2>&1) &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
ask() { clickhouse-client --host 127.0.0.1 --port "$((base + 1))" -n -q "$1"; }
for _ in $(seq 200); do
  ask "select 1" >/dev/null 2>&1 && break
  kill -0 "$server" || { cat "$work/output" >&2; exit 1; }
  sleep 0.1
done
at="/clickhouse-smoke-$$"
for replica in r1 r2; do
  ask "create table $replica (d Date, k UInt64) engine=ReplicatedMergeTree('$at', '$replica', d, k, 8192)"
done
ask "insert into r1 values ('2020-01-01', 1), ('2020-01-01', 2)"
ask "insert into r2 values ('2020-01-01', 3)"
for replica in r1 r2; do
  for _ in $(seq 300); do
    found="$(ask "select count(), sum(k) from $replica")"
    [ "$found" = "3	6" ] && break
    sleep 0.1
  done
  [ "$found" = "3	6" ] || { echo "$replica holds $found" >&2; exit 1; }
done
ask "alter table r1 add column w UInt8; optimize table r2"
[ "$(ask "select max(is_readonly), max(is_session_expired), min(active_replicas) from system.replicas")" = "0	0	2" ]
ask "drop table r1; drop table r2"
echo "ClickHouse: all passed"
