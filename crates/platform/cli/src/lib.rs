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

use clap::{Arg, ArgAction};

pub use access::{Access, Connection, DEFAULT_DATA_DIR, Place};
pub use choose::follow;
pub use error::CliError;
pub use exec::capture;
pub use local::{SOCKET, ask, hand_over, socket_path};
pub use manifests::parse as parse_manifests;
pub use print::say;
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
    #[command(after_help = "Examples:\n  fram top node\n  fram top pod -A --sort-by=memory")]
    Top(TopCommand),
    /// Follows and steers updates of workloads.
    #[command(after_help = "Examples:\n  fram rollout status deployment/web\n  fram rollout undo deployment/web")]
    Rollout(RolloutCommand),
    /// Manages the images of this machine's node.
    #[command(after_help = "Examples:\n  docker save app:1 | fram image import -\n  fram image list")]
    Image(ImageCommand),
    /// Shows how the cluster fares: health and age of its components, memory of fram and of what holds its pods.
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

/// The code of a command that said less than it should have: that of a process that SIGPIPE has ended.
const CLOSED: u8 = 128 + 13;

impl Command {
    /// Whether a reader who has seen enough has had all that the command was for.
    fn only_reads(&self) -> bool {
        match self {
            Self::Get(_) | Self::Describe(_) | Self::Logs(_) | Self::Top(_) | Self::Status(_) => true,
            Self::Rollout(rollout) => matches!(rollout.own, rollout::Rollout::History(_)),
            Self::Image(image) => matches!(image.own, image::Image::List { .. }),
            // What is waited for has not come about when the waiting is broken off.
            Self::Apply(_) | Self::Delete(_) | Self::Exec(_) | Self::PortForward(_) | Self::Scale(_) | Self::Wait(_) => false,
        }
    }
}

/// What Go's strconv.ParseBool takes for a truth value, which is what kubectl's flags take.
fn truth(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("it is true or false".into()),
    }
}

/// Lets each switch of a command say which way it is put: `--watch=false` beside `--watch`, as kubectl's do.
pub fn with_truth_values(command: clap::Command) -> clap::Command {
    let switch = |arg: Arg| {
        if !matches!(arg.get_action(), ArgAction::SetTrue) {
            return arg;
        }
        let arg = if arg.get_default_values().is_empty() { arg.default_value("false") } else { arg };
        let arg = arg.action(ArgAction::Set).num_args(0..=1).require_equals(true).default_missing_value("true");
        arg.value_parser(truth).value_name("BOOL").hide_default_value(true)
    };
    command.mut_args(switch).mut_subcommands(with_truth_values)
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
        Ok(()) => ExitCode::SUCCESS,
        Err(CliError::OutputClosed) if command.only_reads() => ExitCode::SUCCESS,
        Err(CliError::OutputClosed) => ExitCode::from(CLOSED),
        Err(error) => {
            print::note(&print::escaped(&error.to_string()));
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

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches, Parser};

    use super::*;

    #[derive(Parser, Debug)]
    struct Program {
        #[command(subcommand)]
        command: Command,
    }

    fn parse(line: &str) -> Result<String, clap::error::ErrorKind> {
        let matches = with_truth_values(Program::command()).try_get_matches_from(std::iter::once("fram").chain(line.split_whitespace()));
        let program = matches.and_then(|mut m| Program::from_arg_matches_mut(&mut m)).map_err(|e| e.kind())?;
        Ok(format!("{:?}", program.command))
    }

    #[test]
    fn switches_take_truth_values_as_kubectls_do() {
        let cases = [
            ("delete pod a --ignore-not-found=true", "ignore_not_found: true"),
            ("delete pod a", "ignore_not_found: false"),
            ("delete pod a", "wait: true"),
            ("delete pod a --wait=false", "wait: false"),
            ("delete pod a --wait", "wait: true"),
            ("get pods --no-headers=T -w", "no_headers: true"),
            ("get pods -w=false", "watch: false"),
            ("get pods -Aw", "watch: true"),
            ("logs a --all-containers=true", "all_containers: true"),
            ("logs -f a", "target: Some(\"a\")"),
            ("apply --server-side=true -f a.yaml,b.yaml", "files: [\"a.yaml\", \"b.yaml\"]"),
            ("exec -it a -- sh", "tty: true"),
            ("exec -it a -- sh", "stdin: true"),
            ("exec -ti a -c b -- sh", "container: Some(\"b\")"),
            ("describe pod a --show-events=false", "show_events: false"),
            ("rollout status deploy/a --watch=false", "watch: false"),
            ("rollout status deploy/a", "watch: true"),
        ];
        for (line, expect) in cases {
            let read = parse(line).unwrap();
            assert!(read.contains(expect), "{line}: {read}");
        }
        assert_eq!(parse("get pods --watch=maybe").unwrap_err(), clap::error::ErrorKind::ValueValidation);
        assert_eq!(parse("delete pod a --now --grace-period=3").unwrap_err(), clap::error::ErrorKind::ArgumentConflict);
    }

    #[test]
    fn commands_that_change_or_wait_for_things_do_not_only_read() {
        let only_reads = |line: &str| {
            let words = std::iter::once("fram").chain(line.split_whitespace());
            Program::try_parse_from(words).unwrap().command.only_reads()
        };
        for line in ["get pods", "logs a", "describe pod a", "status", "rollout history deploy/a", "image list"] {
            assert!(only_reads(line), "{line}");
        }
        for line in
            ["apply -f a", "delete pod a", "wait --for=delete pod/a", "rollout restart deploy/a", "image rm a", "scale rs/a --replicas=1"]
        {
            assert!(!only_reads(line), "{line}");
        }
    }
}
