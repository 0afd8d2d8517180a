//! Links the program to a fixed address. Nothing else is generated or probed.

fn main() {
    // A shim is this program, once for each pod, and what a program at a random address relocates when it starts is each process' own
    // memory: 1.8 of the 2.6 MB that a pod costs. Stack, heap, libraries and mappings stay where chance puts them; the reasoning is in
    // ARCHITECTURE.md, under Choices.
    println!("cargo::rustc-link-arg-bins=-no-pie");
    println!("cargo::rerun-if-changed=build.rs");
}
