//! What the words of the command line do: runc's output and exit codes.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command as Program, ExitCode};

use clap::Parser;
use fram_cri::LinuxContainerResources;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::create::{self, Creation};
use super::exec::{self, Execution};
use super::foreground::{self, Console};
use super::record::{Containers, Record, Status};
use super::words::{Command, Create, Exec, Format, Global, Handed, Line, Run, Update};
use super::{OciError, at, features, hooks, lifecycle, system};
use crate::shim::clock;

pub(super) fn main(words: &[OsString]) -> ExitCode {
    let line = match Line::try_parse_from(words) {
        Ok(line) => line,
        Err(error) => {
            // Where nobody reads it, it need not be said.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match run(&line) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            tell(&line.global, "error", &error.to_string());
            // Those that wait for a process tell its own failures from the runtime's by 255, as with runc.
            let waits = matches!(&line.command, Command::Exec(_) | Command::Run(_));
            if waits { ExitCode::from(255) } else { ExitCode::FAILURE }
        }
    }
}

/// On standard error and in the log.
fn tell(global: &Global, level: &str, message: &str) {
    let time = clock::rfc3339_nano(clock::now());
    let _ = writeln!(io::stderr(), "fram oci: {message}");
    let line = match global.log_format {
        Format::Json => json!({ "level": level, "msg": message, "time": time }).to_string(),
        _ => format!("time={time:?} level={level} msg={message:?}"),
    };
    let log = global.log.as_ref().and_then(|path| OpenOptions::new().create(true).append(true).open(path).ok());
    if let Some(mut log) = log {
        let _ = writeln!(log, "{line}");
    }
}

fn run(line: &Line) -> Result<u8, OciError> {
    let global = &line.global;
    if global.systemd_cgroup {
        return Err(OciError::Unsupported("--systemd-cgroup is not supported: cgroups are made without systemd"));
    }
    if global.rootless == "true" {
        return Err(OciError::Unsupported("--rootless=true is not supported: containers are made as root"));
    }
    if matches!(&line.command, Command::Create(_) | Command::Run(_) | Command::Exec(_)) {
        create::seal(&std::env::args_os().collect::<Vec<_>>())?;
    }
    let containers = Containers::new(&global.root)?;
    let warn = |warnings: Vec<String>| warnings.iter().for_each(|warning| tell(global, "warning", warning));
    match &line.command {
        Command::Create(create) => create::create(&containers, &create.id, &creation(create, create.handed.console_socket.clone()))?,
        Command::Start { id } => warn(lifecycle::start(&containers, id)?),
        Command::Run(run) => return run_container(&containers, run, warn),
        Command::State { id } => print(&state(&containers.load(id)?))?,
        Command::Kill { all, id, signal } => lifecycle::signal(&containers, id, parse_signal(signal)?, *all)?,
        Command::Delete { force, id } => warn(lifecycle::delete(&containers, id, *force)?),
        Command::Exec(exec) => return exec_process(&containers, exec),
        Command::List { format, quiet } => list(&containers.list()?, *format, *quiet)?,
        Command::Ps { format, id, options } => ps(&lifecycle::processes(&containers, id)?, *format, options)?,
        Command::Pause { id } => lifecycle::pause(&containers, id)?,
        Command::Resume { id } => lifecycle::resume(&containers, id)?,
        Command::Update(update) => lifecycle::update(&containers, &update.id, &wanted(update)?)?,
        Command::Features => print(&features::features(lifecycle::cgroups().ok().as_ref()))?,
        Command::Spec { bundle } => write_specification(bundle.as_deref().unwrap_or(Path::new(".")))?,
        Command::Checkpoint { .. } | Command::Restore { .. } => {
            return Err(OciError::Unsupported("checkpoints are not supported: this runtime does not drive criu"));
        }
        Command::RunHooks => hooks::run_planned()?,
    }
    Ok(0)
}

/// For a process that is elsewhere while it is made.
fn creation(create: &Create, console_socket: Option<PathBuf>) -> Creation {
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let given = create.handed.clone();
    let handed = Handed { console_socket: console_socket.map(absolute), pid_file: given.pid_file.map(absolute), ..given };
    Creation { bundle: create.bundle.clone(), handed, no_pivot: create.no_pivot }
}

fn run_container(containers: &Containers, run: &Run, warn: impl Fn(Vec<String>)) -> Result<u8, OciError> {
    let id = &run.create.id;
    let console = match (wants_terminal(&run.create.bundle), &run.create.handed.console_socket) {
        (true, None) if !run.detach => Some(Console::listen()?),
        _ => None,
    };
    let socket = console.as_ref().map(|console| console.path.clone()).or_else(|| run.create.handed.console_socket.clone());
    create::create(containers, id, &creation(&run.create, socket))?;
    let finish = || {
        let terminal = console.map(Console::accept).transpose()?;
        warn(lifecycle::start(containers, id)?);
        if run.detach {
            return Ok(0);
        }
        foreground::wait(containers.load(id)?.pid, terminal)
    };
    let code = finish();
    if (!run.detach && !run.keep) || code.is_err() {
        warn(lifecycle::delete(containers, id, true)?);
    }
    code
}

/// Whoever cannot read it is told by the creation.
fn wants_terminal(bundle: &Path) -> bool {
    let read = fs::read(bundle.join("config.json")).ok().and_then(|json| serde_json::from_slice::<Value>(&json).ok());
    read.is_some_and(|specification| specification["process"]["terminal"] == true)
}

fn exec_process(containers: &Containers, exec: &Exec) -> Result<u8, OciError> {
    let from_file = |path: &PathBuf| serde_json::from_slice::<Value>(&fs::read(path).ok()?).ok();
    let tty = exec.process.as_ref().map_or(exec.tty, |path| from_file(path).is_some_and(|process| process["terminal"] == true));
    let console = if tty && exec.handed.console_socket.is_none() && !exec.detach { Some(Console::listen()?) } else { None };
    let mut handed = exec.handed.clone();
    if let Some(console) = &console {
        handed.console_socket = Some(console.path.clone());
    }
    let execution = Execution {
        process: exec.process.clone(),
        args: exec.args.clone(),
        cwd: exec.cwd.clone(),
        env: exec.env.clone(),
        tty: exec.tty,
        user: exec.user.clone(),
        additional_gids: exec.additional_gids.clone(),
        capabilities: exec.cap.clone(),
        no_new_privs: exec.no_new_privs,
        ignore_paused: exec.ignore_paused,
        handed,
    };
    let pid = exec::exec(containers, &exec.id, &execution)?;
    if exec.detach {
        return Ok(0);
    }
    let terminal = console.map(Console::accept).transpose().inspect_err(|_| exec::abandon(pid))?;
    foreground::wait(pid, terminal)
}

/// A name with or without SIG, or a number.
fn parse_signal(text: &str) -> Result<i32, OciError> {
    let unknown = || OciError::State(format!("unknown signal {text:?}"));
    if let Ok(number) = text.parse::<i32>() {
        // Those of real time have no names here, and podman sends SIGRTMIN+3 to systemd as 37.
        return (1..=libc::SIGRTMAX()).contains(&number).then_some(number).ok_or_else(unknown);
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    name.parse().map(|signal: Signal| signal as i32).map_err(|_| unknown())
}

/// What runc prints: the specification's state, and who made it when and of what.
fn state(record: &Record) -> Value {
    let status = record.status();
    let mut state = record.state(status);
    state["pid"] = if status == Status::Stopped { 0 } else { record.pid }.into();
    state["rootfs"] = json!(record.given.rootfs);
    state["created"] = json!(record.created);
    state["owner"] = json!("root");
    state
}

fn print(value: &Value) -> Result<(), OciError> {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    writeln!(io::stdout(), "{text}").map_err(system("print"))
}

fn list(records: &[Record], format: Format, quiet: bool) -> Result<(), OciError> {
    let mut text = String::new();
    if quiet {
        records.iter().for_each(|record| text += &format!("{}\n", record.id));
    } else if format == Format::Json {
        return print(&records.iter().map(state).collect());
    } else {
        text += "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n";
        for record in records {
            let state = state(record);
            let bundle = record.given.directory.display();
            text += &format!("{}\t{}\t{}\t{bundle}\t{}\troot\n", record.id, state["pid"], record.status().name(), record.created);
        }
    }
    io::stdout().write_all(text.as_bytes()).map_err(system("print"))
}

fn ps(pids: &[i32], format: Format, options: &[String]) -> Result<(), OciError> {
    if format == Format::Json {
        return print(&json!(pids));
    }
    let options = if options.is_empty() { &["-ef".to_owned()] } else { options };
    let shown = Program::new("ps").args(options).output().map_err(system("run ps"))?;
    let text = select(&String::from_utf8_lossy(&shown.stdout), pids);
    io::stdout().write_all(text.ok_or(OciError::Unsupported("ps shows no column PID"))?.as_bytes()).map_err(system("print"))
}

/// The head and the lines of these processes; nothing where there is no column of their numbers.
fn select(table: &str, pids: &[i32]) -> Option<String> {
    let head = table.lines().next()?;
    let column = head.split_whitespace().position(|name| name == "PID")?;
    let number = |line: &str| line.split_whitespace().nth(column).and_then(|field| field.parse().ok());
    let lines = table.lines().skip(1).filter(|line| number(line).is_some_and(|pid| pids.contains(&pid)));
    Some(std::iter::once(head).chain(lines).map(|line| format!("{line}\n")).collect())
}

fn wanted(update: &Update) -> Result<LinuxContainerResources, OciError> {
    if let Some(path) = &update.resources {
        let mut json = Vec::new();
        let read = if path.as_os_str() == "-" {
            io::stdin().read_to_end(&mut json)
        } else {
            fs::File::open(path).and_then(|mut file| file.read_to_end(&mut json))
        };
        read.map_err(at("read", path))?;
        let malformed = |source| OciError::Malformed { path: path.clone(), source };
        return Ok(lifecycle::resources(&serde_json::from_slice(&json).map_err(malformed)?));
    }
    Ok(LinuxContainerResources {
        cpu_period: update.cpu_period,
        cpu_quota: update.cpu_quota,
        cpu_shares: update.cpu_share,
        cpuset_cpus: update.cpuset_cpus.clone(),
        cpuset_mems: update.cpuset_mems.clone(),
        memory_limit_in_bytes: update.memory,
        memory_swap_limit_in_bytes: update.memory_swap,
        pids_limit: update.pids_limit,
        ..LinuxContainerResources::default()
    })
}

fn write_specification(bundle: &Path) -> Result<(), OciError> {
    let path = bundle.join("config.json");
    let text = serde_json::to_string_pretty(&features::specification()).unwrap_or_default();
    // One that is there was written by somebody.
    let mut file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(at("create", &path))?;
    file.write_all(text.as_bytes()).map_err(at("write", &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_named_as_people_do() {
        for text in ["9", "KILL", "SIGKILL", "kill", "sigkill"] {
            assert_eq!(parse_signal(text).unwrap(), libc::SIGKILL, "{text}");
        }
        assert_eq!(parse_signal("37").unwrap(), 37);
        for text in ["0", "-9", "65", "x", "", "999", "SIG"] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }

    #[test]
    fn of_all_processes_those_of_the_container_are_shown() {
        let table = "UID  PID CMD\nroot 1 init\nroot 7 sh 1\n";
        assert_eq!(select(table, &[7]).as_deref(), Some("UID  PID CMD\nroot 7 sh 1\n"));
        assert_eq!(select("a b\n", &[1]), None);
    }
}
