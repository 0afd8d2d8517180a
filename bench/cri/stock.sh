#!/usr/bin/env bash
# A stock containerd for the load program, in the foreground; containerd, runc and crun have to be on the PATH, and Debian's CNI plugins.
# A root without CAP_SYS_RESOURCE may not lower a process' oom_score_adj, so that pods keep what they inherit.
# stock.sh DIRECTORY: keeps everything there; containerd.sock in it is the CRI's socket. Its handlers are runc and crun, and fram where
# FRAM_OCI names the program fram-oci. What it mounts is in a mount namespace that ends with it.
set -euo pipefail
mkdir -p "$1/cni"
cd "$1"
handler() { # name, program
  printf '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.%s]\nruntime_type = "io.containerd.runc.v2"\n' "$1"
  printf '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.%s.options]\nBinaryName = "%s"\n' "$1" "$2"
}
{
  cat <<C
version = 2
root = "$PWD/root"
state = "$PWD/state"
[grpc]
address = "$PWD/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "$PWD/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "${REGISTRY:-127.0.0.1:5099}/pause:1"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "$PWD/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "runc"
C
  handler runc "$(command -v runc)"
  handler crun "$(command -v crun)"
  if [[ -n ${FRAM_OCI:-} ]]; then handler fram "$FRAM_OCI"; fi
} > config.toml
cat > cni/10-bench.conflist <<C
{"cniVersion": "0.4.0", "name": "bench", "plugins": [
  {"type": "bridge", "bridge": "bench0", "isGateway": true, "ipMasq": false,
   "ipam": {"type": "host-local", "dataDir": "$PWD/ipam", "ranges": [[{"subnet": "10.89.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
C
# crun takes a unified hierarchy beside those of version 1 for version 2.
exec unshare --mount bash -c '! mountpoint -q /sys/fs/cgroup/unified || umount -l /sys/fs/cgroup/unified; exec containerd --config config.toml'
