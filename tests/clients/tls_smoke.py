"""Every face over TLS, with the clients that are installed here.

    python3 tls_smoke.py DIRECTORY PORT_OFFSET

DIRECTORY holds ca.pem, and client.pem and client.key signed by it. The node shows a certificate for localhost that
ca.pem signed, and has ca.pem as tls_client_ca.
"""

import importlib.util
import socket
import ssl
import sys
import urllib.request

DIRECTORY, OFFSET = sys.argv[1], int(sys.argv[2])
CA, CERTIFICATE, KEY = (f"{DIRECTORY}/{name}" for name in ("ca.pem", "client.pem", "client.key"))


def context():
    made = ssl.create_default_context(cafile=CA)
    made.load_cert_chain(CERTIFICATE, KEY)
    return made


def http():
    with urllib.request.urlopen(f"https://localhost:{8443 + OFFSET}/healthz", context=context()) as answer:
        assert answer.read() == b"ok\n"


def zookeeper():
    from kazoo.client import KazooClient
    from kazoo.security import ACL, Id

    client = KazooClient(
        f"localhost:{2281 + OFFSET}", use_ssl=True, ca=CA, certfile=CERTIFICATE, keyfile=KEY, verify_certs=True
    )
    client.start(timeout=15)
    subject = "CN=smoke,O=Example"
    client.create("/tls", b"", acl=[ACL(31, Id("x509", subject))])
    assert client.get_acls("/tls")[0][0].id.id == subject
    plain = KazooClient(f"localhost:{2181 + OFFSET}")
    plain.start(timeout=15)
    try:
        plain.get("/tls")
        raise AssertionError("the ACL does not hold")
    except Exception as error:
        assert type(error).__name__ == "NoAuthError", error
    client.delete("/tls")
    plain.stop()
    client.stop()


def redis():
    import redis as library

    client = library.Redis(
        "localhost", 6380 + OFFSET, ssl=True, ssl_ca_certs=CA, ssl_certfile=CERTIFICATE, ssl_keyfile=KEY
    )
    value = b"x" * 1_000_000
    client.set("tls", value)
    assert client.get("tls") == value
    client.delete("tls")


def postgres():
    import psycopg

    connection = psycopg.connect(
        f"host=localhost port={5432 + OFFSET} user=smoke dbname=smoke sslmode=verify-full "
        f"sslrootcert={CA} sslcert={CERTIFICATE} sslkey={KEY}"
    )
    assert connection.execute("SELECT 40 + 2").fetchone() == (42,)
    connection.close()


def kafka():
    from kafka import KafkaConsumer, KafkaProducer

    settings = dict(
        bootstrap_servers=f"localhost:{9093 + OFFSET}",
        security_protocol="SSL",
        ssl_cafile=CA,
        ssl_certfile=CERTIFICATE,
        ssl_keyfile=KEY,
        ssl_check_hostname=False,
    )
    producer = KafkaProducer(**settings)
    producer.send("tls-smoke", b"encrypted").get(timeout=15)
    producer.close()
    consumer = KafkaConsumer("tls-smoke", auto_offset_reset="earliest", consumer_timeout_ms=15_000, **settings)
    assert next(iter(consumer)).value == b"encrypted"
    consumer.close()


def strangers_are_refused():
    """Without a certificate of its own a client gets nowhere."""
    bare = ssl.create_default_context(cafile=CA)
    for port in (2281, 6380, 9093, 8443):
        try:
            with socket.create_connection(("localhost", port + OFFSET), timeout=15) as plain:
                with bare.wrap_socket(plain, server_hostname="localhost") as encrypted:
                    encrypted.settimeout(15)
                    encrypted.sendall(b"\0" * 4)
                    assert not encrypted.recv(1), "an answer without a certificate"
        except (ssl.SSLError, ConnectionError):
            pass


for check, library in (
    (http, None),
    (strangers_are_refused, None),
    (zookeeper, "kazoo"),
    (redis, "redis"),
    (postgres, "psycopg"),
    (kafka, "kafka"),
):
    if library is None or importlib.util.find_spec(library):
        check()
        print(f"{check.__name__}: ok")
    else:
        print(f"{check.__name__}: skipped, {library} is not installed")
