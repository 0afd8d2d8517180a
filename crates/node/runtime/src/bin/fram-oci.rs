//! The OCI command line alone, for tests and for whoever wants it as a small binary of its own; the program itself enters
//! `fram_runtime::oci::main` through `fram oci`, or where it is called by this name.

fn main() -> std::process::ExitCode {
    let mut words: Vec<std::ffi::OsString> = std::env::args_os().collect();
    // As the program calls itself.
    if words.get(1).is_some_and(|word| word == "oci") {
        words.remove(1);
    }
    fram_runtime::oci::main(&words)
}
