//! The words of the command line: runc's commands and flags.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::hooks;

/// Runs containers of OCI bundles, as other OCI runtimes do.
#[derive(Parser)]
#[command(name = "fram oci", bin_name = "fram oci", version, disable_help_subcommand = true)]
pub(super) struct Line {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Args)]
pub(super) struct Global {
    /// Where the state of containers is kept.
    #[arg(long, default_value = "/run/fram-oci")]
    pub(super) root: PathBuf,
    /// A file for errors and warnings, beside standard error.
    #[arg(long)]
    pub(super) log: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "text")]
    pub(super) log_format: Format,
    /// Accepted; nothing more is told by it.
    #[arg(long)]
    pub(super) debug: bool,
    /// Refused: cgroups are made without systemd.
    #[arg(long)]
    pub(super) systemd_cgroup: bool,
    /// Accepted as auto or false: containers are made as root.
    #[arg(long, default_value = "auto")]
    pub(super) rootless: String,
    /// Accepted: checkpoints are not made.
    #[arg(long, hide = true)]
    pub(super) criu: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
    Table,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Makes a container of a bundle, up to the moment before its command is executed.
    Create(Create),
    /// Executes the command of a container that was made.
    Start { id: String },
    /// Makes a container, starts it, and waits for its end.
    Run(Run),
    /// Prints the state of a container.
    State { id: String },
    /// Sends a signal to a container's first process, SIGTERM where none is named.
    Kill {
        /// To every process of the container.
        #[arg(long, short)]
        all: bool,
        id: String,
        #[arg(default_value = "SIGTERM")]
        signal: String,
    },
    /// Removes what a container holds.
    Delete {
        /// Kill it where it runs; and it need not be there.
        #[arg(long, short)]
        force: bool,
        id: String,
    },
    /// Runs a further process in a container.
    Exec(Exec),
    /// Lists the containers.
    List {
        #[arg(long, short, value_enum, default_value = "table")]
        format: Format,
        /// Only their ids.
        #[arg(long, short)]
        quiet: bool,
    },
    /// Lists the processes in a container.
    Ps {
        #[arg(long, short, value_enum, default_value = "table")]
        format: Format,
        id: String,
        /// For ps.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Halts all processes of a container.
    Pause { id: String },
    /// Lets them go on.
    Resume { id: String },
    /// Changes the limits of a container.
    Update(Update),
    /// Prints what this runtime can do.
    Features,
    /// Writes a specification to begin with into a bundle.
    Spec {
        #[arg(long, short)]
        bundle: Option<PathBuf>,
    },
    /// Not there: this runtime does not drive criu.
    Checkpoint {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<OsString>,
    },
    /// Not there, for the same reason.
    Restore {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<OsString>,
    },
    #[command(name = hooks::COMMAND, hide = true)]
    RunHooks,
}

/// What goes between a process and who has asked for it.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Handed {
    /// A Unix socket on which the master of the terminal is sent.
    #[arg(long)]
    pub(super) console_socket: Option<PathBuf>,
    /// A file for the number of the process.
    #[arg(long)]
    pub(super) pid_file: Option<PathBuf>,
    /// So many descriptors behind the standard streams are the process' too.
    #[arg(long, default_value_t = 0)]
    pub(super) preserve_fds: i32,
}

#[derive(Args)]
pub(super) struct Create {
    /// The directory with config.json.
    #[arg(long, short, default_value = ".")]
    pub(super) bundle: PathBuf,
    #[command(flatten)]
    pub(super) handed: Handed,
    /// For roots that cannot be pivoted, such as a ramdisk.
    #[arg(long)]
    pub(super) no_pivot: bool,
    /// Accepted: no session keyring is made.
    #[arg(long)]
    pub(super) no_new_keyring: bool,
    pub(super) id: String,
}

#[derive(Args)]
pub(super) struct Run {
    #[command(flatten)]
    pub(super) create: Create,
    /// Do not wait for its end.
    #[arg(long, short)]
    pub(super) detach: bool,
    /// Keep what it holds when it has ended.
    #[arg(long)]
    pub(super) keep: bool,
    /// Accepted: nothing is reaped but the container.
    #[arg(long)]
    pub(super) no_subreaper: bool,
}

#[derive(Args)]
pub(super) struct Exec {
    #[command(flatten)]
    pub(super) handed: Handed,
    /// A file with the process, as the specification has it.
    #[arg(long, short)]
    pub(super) process: Option<PathBuf>,
    /// Do not wait for its end.
    #[arg(long, short)]
    pub(super) detach: bool,
    #[arg(long, short)]
    pub(super) tty: bool,
    #[arg(long)]
    pub(super) cwd: Option<String>,
    #[arg(long, short)]
    pub(super) env: Vec<String>,
    /// UID[:GID]
    #[arg(long, short)]
    pub(super) user: Option<String>,
    #[arg(long, short = 'g')]
    pub(super) additional_gids: Vec<u32>,
    #[arg(long, short)]
    pub(super) cap: Vec<String>,
    #[arg(long)]
    pub(super) no_new_privs: bool,
    #[arg(long)]
    pub(super) ignore_paused: bool,
    pub(super) id: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) args: Vec<String>,
}

#[derive(Args)]
pub(super) struct Update {
    /// A file with the specification's resources; - is the standard input. It takes the place of the other flags.
    #[arg(long, short)]
    pub(super) resources: Option<PathBuf>,
    #[arg(long, default_value_t = 0)]
    pub(super) cpu_period: i64,
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    pub(super) cpu_quota: i64,
    #[arg(long, default_value_t = 0)]
    pub(super) cpu_share: i64,
    #[arg(long, default_value = "")]
    pub(super) cpuset_cpus: String,
    #[arg(long, default_value = "")]
    pub(super) cpuset_mems: String,
    /// Bytes.
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    pub(super) memory: i64,
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    pub(super) memory_swap: i64,
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    pub(super) pids_limit: i64,
    pub(super) id: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_words_are_consistent_and_those_of_runcs_callers_are_understood() {
        Line::command().debug_assert();
        for line in [
            // conmon
            "fram-oci --log-format=json --log /l create --bundle /b --pid-file /p --preserve-fds 1 --no-pivot --no-new-keyring a",
            // go-runc
            "fram-oci --root /r --log /l --log-format json exec --process /p --console-socket /c --detach --pid-file /p a",
            "fram-oci --root /r kill --all a 9",
            "fram-oci kill a KILL",
            "fram-oci delete --force a",
            "fram-oci ps --format json a",
            "fram-oci update --resources - a",
            "fram-oci exec -u 1:2 -e A=b --cwd /x -t a sh -c true",
            "fram-oci update --cpu-quota -1 a",
        ] {
            assert!(Line::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
    }
}
