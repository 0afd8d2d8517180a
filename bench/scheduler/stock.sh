#!/usr/bin/env bash
# A stock control plane with a kube-scheduler for the load program, in the foreground; kube-apiserver, etcd and kube-scheduler have to
# be on the PATH, and openssl. stock.sh DIRECTORY: as bench/api/stock.sh.
set -euo pipefail
mkdir -p "$1"
cat > "$1/scheduler.yaml" <<C
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection: {leaderElect: false}
clientConnection: {kubeconfig: "$1/admin.kubeconfig", qps: 5000, burst: 5000}
C
{
  # It ends where there is no server yet.
  until kube-scheduler --config "$1/scheduler.yaml" --secure-port 18259 --cert-dir "$1/scheduler"; do sleep 0.5; done
} &
exec bash "$(dirname "${BASH_SOURCE[0]}")/../api/stock.sh" "$1"
