#!/bin/sh
# Tries a served postgres face with psql: tests/clients/psql_smoke.sh HOST PORT
set -eu
host=$1
port=$2
failures=0

run() {
    psql -X -h "$host" -p "$port" -U proteus -d proteus -v ON_ERROR_STOP=1 "$@" 2>&1
}

# expect WHAT PATTERN PSQL_ARGUMENTS…
expect() {
    what=$1
    pattern=$2
    shift 2
    if output=$(run "$@") && printf '%s\n' "$output" | grep -q -- "$pattern"; then
        echo "ok      $what"
    else
        echo "FAILED  $what: expected '$pattern', got:"
        printf '%s\n' "$output"
        failures=$((failures + 1))
    fi
}

expect 'drop' 'DROP TABLE' -c 'DROP TABLE IF EXISTS smoke_readings'
expect 'create' 'CREATE TABLE' -c "CREATE TABLE smoke_readings (sensor text, hour int, value double precision NOT NULL DEFAULT 0, note varchar(20), PRIMARY KEY (sensor, hour))"
expect 'insert' 'INSERT 0 3' -c "INSERT INTO smoke_readings VALUES ('a', 1, 1.5), ('a', 2, 2.5), ('b', 1, 10)"
expect 'aggregate' 'a      |   2' -c 'SELECT sensor, avg(value) FROM smoke_readings GROUP BY sensor ORDER BY sensor'
expect 'update' 'UPDATE 2' -c "UPDATE smoke_readings SET note = 'x' WHERE sensor = 'a'"
expect 'delete nothing' 'DELETE 0' -c 'DELETE FROM smoke_readings WHERE sensor IN (SELECT sensor FROM smoke_readings WHERE false)'
expect 'transaction' '^ROLLBACK' -c 'BEGIN' -c 'DELETE FROM smoke_readings' -c 'ROLLBACK'
expect 'count' '     3' -c 'SELECT count(*) FROM smoke_readings'
expect '\d' 'public | smoke_readings | table' -c '\d'
expect '\dt' 'public | smoke_readings | table' -c '\dt'
expect '\d table: columns' 'value  | double precision      |           | not null | 0' -c '\d smoke_readings'
expect '\d table: varchar' 'character varying(20)' -c '\d smoke_readings'
expect '\d table: key' '"smoke_readings_pkey" PRIMARY KEY, btree (sensor, hour)' -c '\d smoke_readings'
expect '\d+ table' 'Access method: heap' -c '\d+ smoke_readings'
expect '\d index' 'primary key, btree, for table "public.smoke_readings"' -c '\d smoke_readings_pkey'
expect '\di' 'smoke_readings_pkey' -c '\di'
expect '\l' 'proteus' -c '\l'
expect '\dn' 'public' -c '\dn'
expect '\du' 'proteus' -c '\du'
expect 'version' 'PostgreSQL 15' -c 'SELECT version()'
expect 'cleanup' 'DROP TABLE' -c 'DROP TABLE smoke_readings'

[ "$failures" -eq 0 ]
