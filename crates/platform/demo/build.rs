//! Compiles the example application, whose program is packed into the demo's image. Cargo cannot yet depend on the program
//! of another package (artifact dependencies, RFC 3028), and the application needs nothing but the standard library, so the
//! compiler is called as it is.

use std::path::PathBuf;
use std::process::Command;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let source = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../../examples/hello/src");
    println!("cargo::rerun-if-changed={}", source.display());
    let program = PathBuf::from(std::env::var("OUT_DIR")?).join("hello");
    let mut compiler = Command::new(std::env::var("RUSTC")?);
    compiler.args(["--edition", "2024", "--crate-name", "hello", "--crate-type", "bin", "-Copt-level=s", "-Cstrip=symbols"]);
    compiler.arg("--target").arg(std::env::var("TARGET")?);
    if let Ok(linker) = std::env::var("RUSTC_LINKER") {
        compiler.arg(format!("-Clinker={linker}"));
    }
    let status = compiler.arg(source.join("main.rs")).arg("-o").arg(&program).status()?;
    if !status.success() {
        return Err("the example application does not compile".into());
    }
    Ok(())
}
