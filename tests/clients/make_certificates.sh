#!/usr/bin/env bash
# An authority, a node's and a client's certificate, for tests: make_certificates.sh DIRECTORY
set -euo pipefail
mkdir -p "$1"
cd "$1"
request() { # name, subject
  openssl req -newkey rsa:2048 -nodes -keyout "$1.key" -out "$1.csr" -subj "$2" 2>/dev/null
}
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 3 -subj "/CN=Test authority" 2>/dev/null
request node "/CN=localhost"
request client "/O=Example/CN=smoke"
openssl x509 -req -in node.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 3 -out node.pem 2>/dev/null \
  -extfile <(printf 'subjectAltName=DNS:localhost,IP:127.0.0.1')
openssl x509 -req -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 3 -out client.pem 2>/dev/null \
  -extfile <(printf 'extendedKeyUsage=clientAuth')
chmod 600 ./*.key
