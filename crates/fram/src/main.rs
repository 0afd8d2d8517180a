//! The program: reads its command line, starts what it names, says what was started, waits, drains.

mod agent;
mod api_flags;
mod cli;
mod components;
mod control_plane;
mod desk;
mod down;
mod etcd_flags;
mod heap;
mod manager_flags;
mod mux;
mod networks;
mod node;
mod own_defaults;
mod parts;
mod preflight;
mod runtime;
mod scheduler_flags;
mod signer;
mod store;
mod token;
mod tunnels;
mod up;

use fram_runtime::oci;

#[global_allocator]
static HEAP: heap::Heap = heap::Heap;

fn main() -> std::process::ExitCode {
    // A shim is not this program's child in anything but name: it starts before any thread or runtime does.
    let all: Vec<std::ffi::OsString> = std::env::args_os().collect();
    if all.get(1).is_some_and(|a| a == "shim") {
        fram_runtime::shim::main(&all[2..]);
    }
    // Nor has an OCI runtime any, since it makes processes of itself.
    let is_oci_runtime = all.first().is_some_and(|name| std::path::Path::new(name).file_name().is_some_and(|name| name == oci::PROGRAM));
    if is_oci_runtime {
        // It calls itself by both names.
        let words: Vec<_> = all.iter().take(1).chain(all.iter().skip(1).skip_while(|word| *word == "oci")).cloned().collect();
        return oci::main(&words);
    }
    if all.get(1).is_some_and(|a| a == "oci") {
        return oci::main(&all[1..]);
    }
    if all.get(1).is_some_and(|a| a == heap::COMMAND) {
        return heap::main().map_or(std::process::ExitCode::FAILURE, |()| std::process::ExitCode::SUCCESS);
    }
    let arguments = match cli::Cli::read(all) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    match arguments.run() {
        Ok(code) => code,
        Err(error) => {
            // Where standard error is closed, nobody wants to be told.
            let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("fram: {error:#}\n"));
            std::process::ExitCode::FAILURE
        }
    }
}
