#!/bin/sh
# Make what deploy/compose.yaml needs and no repository holds: passwords, the key of assignment ids, and a certificate of an
# authority of its own for trying it out. What is there is kept: put your own tls.crt, tls.key and ca.crt there first.
set -eu
folder=${1:-$(dirname "$0")/secrets}
names=${2:-DNS:localhost,DNS:router-1,DNS:router-2,IP:127.0.0.1}
umask 077
mkdir -p "$folder"
chmod 700 "$folder"
cd "$folder"

random() { openssl rand -hex 24; }

[ -e postgres-password ] || random > postgres-password
[ -e grafana-password ] || random > grafana-password
[ -e assignment.key ] || openssl rand 32 > assignment.key
[ -e pg_service.conf ] || cat > pg_service.conf <<END
[anabranch]
host=postgres
dbname=anabranch
user=anabranch
password=$(cat postgres-password)
END
if [ ! -e tls.crt ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj "/CN=Anabranch trial authority" \
        -keyout ca.key -out ca.crt 2> /dev/null
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=anabranch" -keyout tls.key -out request.pem 2> /dev/null
    printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\n' "$names" > extensions
    openssl x509 -req -in request.pem -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -extfile extensions -out tls.crt 2> /dev/null
    # Nobody signs with it again: to renew, remove tls.crt and run this once more.
    rm -f ca.key ca.srl request.pem extensions
fi
# Containers run as users of their own, and compose hands files over with the permissions they have: the folder, which only
# its owner enters, keeps everybody else away.
chmod 444 postgres-password grafana-password assignment.key pg_service.conf tls.crt tls.key ca.crt
echo "secrets in $(pwd)"
