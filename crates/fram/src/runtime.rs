//! `fram runtime`: the container runtime by itself, behind the socket that stock kubelets, crictl and critest know how to ask.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use fram_cli::say;
use fram_cri::grpc::CriServer;
use fram_grpc::server::{self, ServerOptions};
use fram_network::{NetworkConfig, PodNetwork};
use fram_streaming::{Sessions, StreamServer};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cli::RuntimeArgs;
use crate::node::NodeLock;
use crate::parts::{Parts, Signals};

pub(crate) fn run(args: RuntimeArgs) -> anyhow::Result<()> {
    crate::up::on_threads("runtime", start(args))
}

async fn start(args: RuntimeArgs) -> anyhow::Result<()> {
    let data = &args.data_dir;
    std::fs::create_dir_all(data).with_context(|| format!("cannot create {}", data.display()))?;
    let _lock = NodeLock::take(data)?;
    let config = crate::node::runtime_config(data, &args.cgroup_root, args.runtime_handler.iter().cloned().collect());
    let registries = crate::node::registries(data, args.registry_config_dir.as_deref());
    let (runtime, images) = match args.cni_conf_dir.clone() {
        Some(conf_dir) => {
            let network = crate::node::open_cni(data, conf_dir, args.cni_bin_dir.clone())?;
            crate::node::open_runtime(data, config, registries, Arc::new(network)).await?
        }
        None => {
            let network = open_network(&args, data)?;
            let opened = crate::node::open_runtime(data, config, registries, Arc::new(network.clone())).await?;
            crate::node::release_unknown(&opened.0, &network).await?;
            opened
        }
    };
    let (stop, tasks, mut parts) = (CancellationToken::new(), TaskTracker::new(), Parts::default());
    let runtime = Arc::new(runtime);
    let sessions = Sessions { tasks: tasks.clone(), stop: stop.clone(), idle: None };
    let address = (Ipv4Addr::LOCALHOST, 0).into();
    let (streams, listener) = StreamServer::bind(address, runtime.clone(), sessions).await.context("cannot serve streams")?;
    parts.spawn("the server of streams", streams.clone().run(listener));
    let socket = args.listen.clone();
    let listener = server::listen(&socket)?;
    let service = Arc::new(CriServer { runtime: runtime.clone(), images, streams: Arc::new(streams) });
    parts.spawn("the CRI's socket", server::serve(listener, service, ServerOptions::default(), stop.clone()));
    say(&format!("fram: container runtime ready at unix://{}", socket.display()));

    let mut signals = Signals::listen()?;
    let outcome = tokio::select! {
        biased;
        () = signals.next() => Ok(()),
        error = parts.ended() => Err(error),
    };
    stop.cancel();
    let outcome = parts.end(outcome, &tasks, &mut signals).await;
    // Nobody answers there any more.
    let _gone = std::fs::remove_file(&socket);
    outcome
}

/// The pods' range where nobody has said one.
const POD_CIDR: &str = "10.88.0.0/16";

fn open_network(args: &RuntimeArgs, data: &Path) -> anyhow::Result<PodNetwork> {
    let state_dir = data.join("network");
    // What a kubelet once gave is kept there.
    let pod_cidr = match args.pod_cidr.as_deref() {
        None if state_dir.exists() => None,
        given => Some(given.unwrap_or(POD_CIDR).parse().context("bad --pod-cidr")?),
    };
    PodNetwork::open(NetworkConfig {
        state_dir,
        cluster_cidrs: pod_cidr.into_iter().collect(),
        pod_cidr,
        // A machine without a way to others has pods all the same.
        node_ip: crate::node::primary_address().ok().or(Some(IpAddr::V4(Ipv4Addr::LOCALHOST))),
        mtu: None,
        namespace: None,
    })
    .context("cannot set up the pod network")
}
