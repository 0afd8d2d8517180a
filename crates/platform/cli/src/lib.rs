//! The client: what a user needs to work with a cluster, with kubectl's words, flags and output. It speaks the Kubernetes API
//! like any other client, and to the fram of the same machine over a socket in its data directory.

mod access;
mod apply;
mod choose;
mod delete;
mod describe;
mod discovery;
mod error;
mod exec;
mod forward;
mod get;
mod image;
mod jsonpath;
mod local;
mod logs;
mod manifests;
mod output;
mod pods;
mod print;
mod rollout;
mod scale;
mod status;
mod table;
mod targets;
mod terminal;
mod top;
mod wait;

use std::process::ExitCode;

pub use access::{Access, Connection, DEFAULT_DATA_DIR, Place};
pub use choose::follow;
pub use error::CliError;
pub use exec::capture;
pub use local::{SOCKET, ask, hand_over, socket_path};
pub use manifests::parse as parse_manifests;
pub use rollout::progress;

/// What the client can do.
#[derive(clap::Subcommand, Debug, Clone)]
pub enum Command {
    /// Shows objects: a table, or in another form.
    #[command(
        after_help = "Examples:\n  fram get pods -A -o wide\n  fram get deployment/web -o yaml\n  fram get pods -l app=web -o jsonpath='{.items[*].status.podIP}'\n  fram get pods --watch"
    )]
    Get(With<get::Get>),
    /// Makes objects be as manifests say (server-side apply).
    #[command(after_help = "Examples:\n  fram apply -f app.yaml\n  fram apply -R -f manifests/\n  cat app.yaml | fram apply -f -")]
    Apply(With<apply::Apply>),
    /// Deletes objects, and waits until they are gone.
    #[command(
        after_help = "Examples:\n  fram delete deployment/web service/web\n  fram delete -f app.yaml\n  fram delete pods -l app=web --now"
    )]
    Delete(With<delete::Delete>),
    /// Shows objects as a person reads them, with what happened to them.
    #[command(after_help = "Examples:\n  fram describe pod web-0\n  fram describe nodes")]
    Describe(With<describe::Describe>),
    /// Prints what containers wrote.
    #[command(
        after_help = "Examples:\n  fram logs deployment/web --tail=20 -f\n  fram logs web-0 -c sidecar --previous\n  fram logs -l app=web --prefix"
    )]
    Logs(With<logs::Logs>),
    /// Runs a command in a container.
    #[command(after_help = "Examples:\n  fram exec deployment/web -- ls /\n  fram exec -it web-0 -c app -- sh")]
    Exec(With<exec::Exec>),
    /// Makes ports of a pod reachable on this machine.
    #[command(after_help = "Examples:\n  fram port-forward service/web 8080:80\n  fram port-forward web-0 :5432")]
    PortForward(With<forward::PortForward>),
    /// Says how many replicas there are to be.
    #[command(after_help = "Example:\n  fram scale deployment/web --replicas=5")]
    Scale(With<scale::Scale>),
    /// Waits until objects are as one wants them.
    #[command(
        after_help = "Examples:\n  fram wait --for=condition=Available deployment/web --timeout=60s\n  fram wait --for=jsonpath='{.status.phase}'=Running pod/web-0\n  fram wait --for=delete pod -l app=web"
    )]
    Wait(With<wait::Wait>),
    /// Shows what nodes and pods use.
    Top(TopCommand),
    /// Follows and steers updates of workloads.
    Rollout(RolloutCommand),
    /// Manages the images of this machine's node.
    Image(ImageCommand),
    /// Shows how the cluster fares: health, age and memory of its components.
    #[command(after_help = "Example:\n  fram status")]
    Status(Connection),
}

/// A command's own arguments, and those that say which cluster is meant.
#[derive(clap::Args, Debug, Clone)]
pub struct With<T: clap::Args> {
    #[command(flatten)]
    own: T,
    #[command(flatten)]
    connection: Connection,
}

#[derive(clap::Args, Debug, Clone)]
pub struct RolloutCommand {
    #[command(subcommand)]
    own: rollout::Rollout,
    #[command(flatten)]
    connection: Connection,
}

#[derive(clap::Args, Debug, Clone)]
pub struct TopCommand {
    #[command(subcommand)]
    own: top::Top,
    #[command(flatten)]
    connection: Connection,
}

#[derive(clap::Args, Debug, Clone)]
pub struct ImageCommand {
    #[command(subcommand)]
    own: image::Image,
    #[command(flatten)]
    connection: Connection,
}

/// Runs a command; its code is the program's.
pub fn run(command: &Command) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            print::note(&format!("error: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(perform(command));
    // A read of the terminal cannot be called off; it ends with the process.
    runtime.shutdown_background();
    match outcome {
        Ok(()) | Err(CliError::OutputClosed) => ExitCode::SUCCESS,
        Err(error) => {
            print::note(&error.to_string());
            ExitCode::from(error.code())
        }
    }
}

async fn perform(command: &Command) -> error::Result<()> {
    match command {
        Command::Get(get) => get::run(&Access::open(&get.connection)?, &get.own).await,
        Command::Apply(apply) => apply::run(&Access::open(&apply.connection)?, &apply.own).await,
        Command::Delete(delete) => delete::run(&Access::open(&delete.connection)?, &delete.own).await,
        Command::Describe(describe) => describe::run(&Access::open(&describe.connection)?, &describe.own).await,
        Command::Logs(logs) => logs::run(&Access::open(&logs.connection)?, &logs.own).await,
        Command::Exec(exec) => exec::run(&Access::open(&exec.connection)?, &exec.own).await,
        Command::PortForward(forward) => forward::run(&Access::open(&forward.connection)?, &forward.own).await,
        Command::Scale(scale) => scale::run(&Access::open(&scale.connection)?, &scale.own).await,
        Command::Wait(wait) => wait::run(&Access::open(&wait.connection)?, &wait.own).await,
        Command::Image(image) => {
            let kubeconfig = Access::open(&image.connection).ok().map(|a| a.kubeconfig);
            image::run(&local::data_dir(image.connection.data_dir.as_deref(), kubeconfig.as_deref()), &image.own).await
        }
        Command::Top(top) => top::run(&Access::open(&top.connection)?, &top.own).await,
        Command::Status(connection) => status::run(connection).await,
        Command::Rollout(rollout) => rollout::run(&Access::open(&rollout.connection)?, &rollout.own).await,
    }
}
