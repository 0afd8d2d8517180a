#!/usr/bin/env bash
# A stock control plane of kube-apiserver and etcd for the load program, in the foreground; both have to be on the PATH, and openssl.
# stock.sh DIRECTORY: keeps everything there, and goes on with what is there; admin.kubeconfig in it is who may do everything.
set -euo pipefail
mkdir -p "$1/pki"
cd "$1/pki"
if [[ ! -f admin.crt ]]; then
  openssl req -x509 -newkey rsa:2048 -nodes -days 30 -keyout ca.key -out ca.crt -subj /CN=ca 2>/dev/null
  openssl genrsa -out sa.key 2048 2>/dev/null
  certificate() { # name, subject, alternative names
    openssl req -newkey rsa:2048 -nodes -keyout "$1.key" -out "$1.csr" -subj "$2" 2>/dev/null
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out "$1.crt" \
      -extfile <(printf 'extendedKeyUsage=serverAuth,clientAuth\n%s' "${3:+subjectAltName=$3}") 2>/dev/null
  }
  certificate server /CN=kube-apiserver IP:127.0.0.1,DNS:localhost
  certificate admin /O=system:masters/CN=admin ""
  cat > ../admin.kubeconfig <<K
apiVersion: v1
kind: Config
clusters: [{name: stock, cluster: {server: "https://127.0.0.1:18443", certificate-authority: $PWD/ca.crt}}]
users: [{name: admin, user: {client-certificate: $PWD/admin.crt, client-key: $PWD/admin.key}}]
contexts: [{name: stock, context: {cluster: stock, user: admin}}]
current-context: stock
K
  # As Fram records by default: who changed what.
  cat > ../audit.yaml <<P
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: None, verbs: [get, list, watch]}, {level: Metadata}]
P
fi
cd ..
etcd --data-dir etcd --log-level warn --quota-backend-bytes 8000000000 --listen-client-urls http://127.0.0.1:12379 \
  --advertise-client-urls http://127.0.0.1:12379 --listen-peer-urls http://127.0.0.1:12380 \
  --initial-advertise-peer-urls http://127.0.0.1:12380 --initial-cluster default=http://127.0.0.1:12380 &
exec kube-apiserver --etcd-servers http://127.0.0.1:12379 --bind-address 127.0.0.1 --secure-port 18443 --cert-dir certificates \
  --tls-cert-file pki/server.crt --tls-private-key-file pki/server.key --client-ca-file pki/ca.crt --authorization-mode Node,RBAC \
  --enable-admission-plugins NodeRestriction --service-cluster-ip-range 10.96.0.0/16 \
  --service-account-issuer https://kubernetes.default.svc.cluster.local --service-account-key-file pki/sa.key \
  --service-account-signing-key-file pki/sa.key --audit-policy-file audit.yaml --audit-log-path audit.log
