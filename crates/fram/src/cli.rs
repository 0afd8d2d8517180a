//! The command line.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::api_flags::{ApiFlags, EncryptionFlags};
use crate::etcd_flags::EtcdFlags;
use crate::manager_flags::ManagerFlags;
use crate::networks::Networks;
use crate::scheduler_flags::SchedulerFlags;

const BEGIN: &str = "\
To begin, as root:
  fram up --demo             a cluster, and an application on it
  fram get pods              in a second terminal
  fram COMMAND --help        has examples";

/// Kubernetes, whole, in one program: the cluster, and a client for it.
#[derive(Parser)]
#[command(name = "fram", version, after_help = BEGIN)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a control plane and a node in one process.
    #[command(after_help = "Examples:\n  fram up --demo\n  fram up --data-dir /srv/fram --listen 127.0.0.1:7443")]
    Up(Up),
    /// Runs a control plane that other machines join with `fram agent`, and a node beside it.
    #[command(after_help = "Example:\n  fram server --listen 192.0.2.1:6443")]
    Server(Server),
    /// Runs a node of a cluster elsewhere.
    #[command(after_help = "Example:\n  fram agent --server https://192.0.2.1:6443 --token TOKEN")]
    Agent(Agent),
    /// Runs the container runtime alone, for a stock kubelet, crictl or critest to ask by CRI.
    #[command(after_help = "Example:\n  fram runtime --listen unix:///run/fram/runtime.sock")]
    Runtime(RuntimeArgs),
    /// Runs containers of OCI bundles by runc's command line, for podman, containerd and CRI-O; the same as the program by the name fram-oci.
    #[command(disable_help_flag = true, after_help = "Example:\n  fram oci run --bundle /srv/bundle NAME")]
    Oci {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// Manages the tokens with which nodes join.
    #[command(subcommand, after_help = "Example:\n  fram token create --hours 2")]
    Token(Token),
    /// Looks after the store of a fram that does not run.
    #[command(subcommand, after_help = "Example:\n  fram store check --data-dir /srv/fram")]
    Store(Store),
    /// Ends what a stopped fram left running on this machine.
    #[command(after_help = "Example:\n  fram down --purge")]
    Down(Down),
    #[command(flatten)]
    Client(fram_cli::Command),
    /// Prints a script that completes this program's words in a shell.
    #[command(after_help = "Examples:\n  source <(fram completion bash)\n  fram completion zsh > ~/.zfunc/_fram")]
    Completion {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// What this machine is to the cluster.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Machine {
    /// Where the cluster's data lives.
    #[arg(long, default_value = "/var/lib/fram")]
    pub(crate) data_dir: PathBuf,
    /// The node's address, as other machines and its pods see it; by default the one that packets to the world carry.
    #[arg(long, value_name = "IP", value_parser = node_ip)]
    pub(crate) node_ip: Option<IpAddr>,
    /// The node's name; by default the machine's.
    #[arg(long)]
    pub(crate) node_name: Option<String>,
    /// Parent of everything that is made in cgroups.
    #[arg(long, default_value = "/fram")]
    pub(crate) cgroup_root: String,
    /// The node's KubeletConfiguration (kubelet.config.k8s.io/v1beta1).
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A directory of drop-ins for it: what its .conf files say replaces what the file says, in the order of their names.
    #[arg(long, value_name = "DIR")]
    pub(crate) config_dir: Option<PathBuf>,
    /// Which programs are asked for credentials of registries: a CredentialProviderConfig (kubelet.config.k8s.io/v1).
    #[arg(long, value_name = "FILE", requires = "image_credential_provider_bin_dir")]
    pub(crate) image_credential_provider_config: Option<PathBuf>,
    /// Where these programs are.
    #[arg(long, value_name = "DIR", requires = "image_credential_provider_config")]
    pub(crate) image_credential_provider_bin_dir: Option<PathBuf>,
    /// Mirrors, authorities and headers of registries, as containerd's certs.d has them: DIR/REGISTRY/hosts.toml, and DIR/_default for all
    /// others; read at each pull. By default `registries` in the data directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) registry_config_dir: Option<PathBuf>,
    /// Containers of RuntimeClasses with the handler NAME are made by this OCI runtime, such as runc or crun; may be given several times.
    #[arg(long, value_name = "NAME=PATH", value_parser = runtime_handler)]
    pub(crate) runtime_handler: Vec<(String, PathBuf)>,
    /// Run pods on the container runtime that answers there by CRI, instead of the built-in one.
    #[arg(long, value_name = "unix:///PATH", value_parser = unix_endpoint)]
    pub(crate) container_runtime_endpoint: Option<String>,
    /// Where images are asked for, if not at the runtime's endpoint.
    #[arg(long, value_name = "unix:///PATH", value_parser = unix_endpoint, requires = "container_runtime_endpoint")]
    pub(crate) image_service_endpoint: Option<String>,
    #[command(flatten)]
    pub(crate) networks: Networks,
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Down {
    /// Where the cluster's data lives.
    #[arg(long, default_value = "/var/lib/fram")]
    pub(crate) data_dir: PathBuf,
    /// Parent of everything that was made in cgroups.
    #[arg(long, default_value = "/fram")]
    pub(crate) cgroup_root: String,
    /// Remove the cluster's data too: objects, keys, images, volumes.
    #[arg(long)]
    pub(crate) purge: bool,
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) machine: Machine,
    #[command(flatten)]
    pub(crate) api: ApiFlags,
    #[command(flatten)]
    pub(crate) manager: ManagerFlags,
    #[command(flatten)]
    pub(crate) scheduler: SchedulerFlags,
    /// Where the API is served.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:6443", value_parser = listen)]
    pub(crate) listen: SocketAddr,
    /// Build, deploy and show the example application, and stay up.
    #[arg(long)]
    pub(crate) demo: bool,
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Server {
    #[command(flatten)]
    pub(crate) machine: Machine,
    #[command(flatten)]
    pub(crate) api: ApiFlags,
    #[command(flatten)]
    pub(crate) manager: ManagerFlags,
    #[command(flatten)]
    pub(crate) scheduler: SchedulerFlags,
    /// Where the API is served: an address that agents and pods reach.
    #[arg(long, value_name = "IP:PORT", value_parser = listen)]
    pub(crate) listen: SocketAddr,
    /// Run no node on this machine.
    #[arg(long)]
    pub(crate) no_node: bool,
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Agent {
    #[command(flatten)]
    pub(crate) machine: Machine,
    /// The server: https://IP:PORT.
    #[arg(long)]
    pub(crate) server: String,
    /// A join token, as `fram token create` prints it; needed until the node has its certificate, and again when the server
    /// was made anew.
    #[arg(long)]
    pub(crate) token: Option<String>,
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct RuntimeArgs {
    /// Where the CRI is served: a Unix socket.
    #[arg(long, value_name = "unix:///PATH", default_value = "unix:///run/fram/runtime.sock", value_parser = unix_socket)]
    pub(crate) listen: PathBuf,
    /// Where images, sandboxes and containers live.
    #[arg(long, default_value = "/var/lib/fram")]
    pub(crate) data_dir: PathBuf,
    /// Parent of everything that is made in cgroups.
    #[arg(long, default_value = "/fram")]
    pub(crate) cgroup_root: String,
    /// Mirrors, authorities and headers of registries, as containerd's certs.d has them: DIR/REGISTRY/hosts.toml, and DIR/_default for all
    /// others; read at each pull. By default `registries` in the data directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) registry_config_dir: Option<PathBuf>,
    /// Containers of RuntimeClasses with the handler NAME are made by this OCI runtime, such as runc or crun; may be given several times.
    #[arg(long, value_name = "NAME=PATH", value_parser = runtime_handler)]
    pub(crate) runtime_handler: Vec<(String, PathBuf)>,
    /// The pods' range; otherwise the one that a kubelet gave, and 10.88.0.0/16 until one does.
    #[arg(long, value_name = "CIDR")]
    pub(crate) pod_cidr: Option<String>,
    /// Attach pods by CNI plugins, as the first configuration in this folder says, instead of the built-in network.
    #[arg(long, value_name = "DIR", conflicts_with = "pod_cidr")]
    pub(crate) cni_conf_dir: Option<PathBuf>,
    /// Where CNI plugins are, separated by commas.
    #[arg(long, value_name = "DIR,…", value_delimiter = ',', default_value = "/opt/cni/bin,/usr/lib/cni")]
    pub(crate) cni_bin_dir: Vec<PathBuf>,
}

#[derive(Subcommand, Debug, Clone)]
pub(crate) enum Store {
    /// Reads everything that the store holds on disk, and names what is not as it was written: file, byte, revision and key. Changes
    /// nothing. Fails where there is damage.
    #[command(after_help = "Example:\n  fram store check --data-dir /srv/fram")]
    Check(StoreCheck),
    /// Moves a cluster from one engine to the other: copies all objects between the data directory and an etcd, while no server runs. Where
    /// they go has to be empty; a copy that was cut off is no store, and is made again. What they are copied from stays as it was.
    #[command(
        after_help = "Example:\n  fram store copy --to etcd --etcd-servers https://192.0.2.1:2379 --etcd-cafile ca.crt --etcd-certfile \
        etcd.crt --etcd-keyfile etcd.key"
    )]
    Copy(StoreCopy),
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct StoreCopy {
    /// Where to.
    #[arg(long, value_enum, value_name = "ENGINE")]
    pub(crate) to: Engine,
    /// Where the cluster's data lives.
    #[arg(long, default_value = "/var/lib/fram")]
    pub(crate) data_dir: PathBuf,
    #[command(flatten)]
    pub(crate) etcd: EtcdFlags,
    #[command(flatten)]
    pub(crate) encryption: EncryptionFlags,
}

#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// From the data directory to etcd.
    Etcd,
    /// From etcd to the data directory.
    DataDir,
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct StoreCheck {
    /// Where the cluster's data lives.
    #[arg(long, default_value = "/var/lib/fram")]
    pub(crate) data_dir: PathBuf,
}

#[derive(Subcommand, Debug, Clone)]
pub(crate) enum Token {
    /// Makes a token and prints it.
    #[command(after_help = "Example:\n  fram token create --hours 2")]
    Create(TokenCreate),
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct TokenCreate {
    /// Where the server's data lives.
    #[arg(long, default_value = "/var/lib/fram")]
    pub(crate) data_dir: PathBuf,
    /// For how many hours it lets nodes in.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=8784))]
    pub(crate) hours: u32,
}

/// The network of pods, and with it that of nodes, is IPv4's.
fn node_ip(text: &str) -> Result<IpAddr, String> {
    text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| "an IPv4 address is needed; IPv6 is not there yet".into())
}

fn unix_endpoint(text: &str) -> Result<String, String> {
    unix_socket(text).map(|path| format!("unix://{}", path.display()))
}

fn unix_socket(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text.strip_prefix("unix://").unwrap_or(text));
    if path.is_absolute() { Ok(path) } else { Err("a Unix socket is needed, such as unix:///run/fram/runtime.sock".into()) }
}

fn runtime_handler(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("a name and a path are needed, such as runc=/usr/sbin/runc")?;
    match (name, Path::new(path).is_absolute()) {
        ("" | "fram", _) => Err(format!("{name:?} is the built-in runtime")),
        (_, false) => Err(format!("{path:?} is no absolute path")),
        (name, true) => Ok((name.to_owned(), path.into())),
    }
}

fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse::<SocketAddrV4>().map(SocketAddr::V4).map_err(|_| "an IPv4 address and a port are needed, such as 127.0.0.1:6443".into())
}

/// The program's words; those of the client take kubectl's truth values.
fn words() -> clap::Command {
    let is_clients = |command: &clap::Command| fram_cli::Command::has_subcommand(command.get_name());
    Cli::command().mut_subcommands(|c| if is_clients(&c) { fram_cli::with_truth_values(c) } else { c })
}

impl Cli {
    /// Reads the command line. What cannot be read ends the program with kubectl's code for it.
    pub(crate) fn read(arguments: Vec<OsString>) -> Result<Self, ExitCode> {
        let read = words().try_get_matches_from(arguments).and_then(|mut matches| Self::from_arg_matches_mut(&mut matches));
        read.map_err(|error| {
            // Where nobody reads it, it need not be said.
            let _ = error.print();
            if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        })
    }

    /// What the program's exit code is.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Client(command) => return Ok(fram_cli::run(&command)),
            Command::Completion { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut words(), "fram", &mut script);
                match std::io::Write::write_all(&mut std::io::stdout(), &script) {
                    // Who looked at its beginning only has seen enough.
                    Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
                    written => written.map_err(Into::into),
                }
            }
            Command::Up(up) => crate::up::run(crate::up::Plan::alone(up)),
            Command::Server(server) => crate::up::run(crate::up::Plan::shared(server)?),
            Command::Agent(agent) => crate::agent::run(agent),
            // `main` comes before this; it stands here for the help and for whoever reads the words.
            Command::Oci { words } => {
                let words: Vec<OsString> = std::iter::once("fram oci".into()).chain(words).collect();
                return Ok(fram_runtime::oci::main(&words));
            }
            Command::Runtime(args) => crate::runtime::run(args),
            Command::Token(Token::Create(create)) => crate::token::create(&create),
            Command::Store(Store::Check(check)) => return crate::store::run_check(&check),
            Command::Store(Store::Copy(copy)) => crate::store::run_copy(&copy),
            Command::Down(down) => crate::down::run(down),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Cli, clap::Error> {
        let matches = words().try_get_matches_from(std::iter::once("fram").chain(line.split_whitespace()));
        matches.and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches))
    }

    #[test]
    fn the_words_of_the_program_are_consistent() {
        words().debug_assert();
    }

    #[test]
    fn only_the_clients_switches_take_truth_values() {
        assert!(read("delete pod a --ignore-not-found=true").is_ok() && read("up --demo").is_ok());
        assert!(read("up --demo=true").is_err());
    }

    #[test]
    fn addresses_that_could_not_be_served_are_refused() {
        assert!(read("up --listen 127.0.0.1:7443 --node-ip 192.0.2.1").is_ok());
        for line in ["up --listen [::1]:6443", "server --listen [2001:db8::1]:6443", "up --node-ip 2001:db8::1", "up --listen 6443"] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
