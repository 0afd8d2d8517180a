//! The shim alone, for tests and for whoever wants it as a small binary of its own; the program itself enters
//! `fram_runtime::shim::main` through `fram shim`.

fn main() {
    let args: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    fram_runtime::shim::main(&args)
}
