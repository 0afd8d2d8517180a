//! Fuzz targets: kubeconfig files, and what servers say in headers.

use fram_fuzz::{Pieces, Target};
use fram_machinery::yaml;

use super::address::Address;
use super::kubeconfig::{Context, File};
use super::warning;

/// Files and certificates are named by a folder that is not there, so that nothing of this machine is read.
fn kubeconfig(input: &[u8]) {
    let mut pieces = Pieces::of(input);
    let mut files = Vec::new();
    for _ in 0..2 {
        if let Ok(value) = yaml::from_str(pieces.text()) {
            files.push(File { value, path: "/nonexistent/config".into() });
        }
    }
    if let Ok(context) = Context::find(&files, None) {
        let _ = context.access.tls(b"h2");
    }
    let _ = Context::find(&files, Some(pieces.text()));
}

fn address(input: &[u8]) {
    let Ok(address) = Address::parse(Pieces::of(input).text()) else { return };
    let _ = address.server_name();
}

fn warnings(input: &[u8]) {
    warning::texts(Pieces::of(input).text());
}

#[test]
fn the_kept_inputs_hold() {
    let target = |name, run, seeds| Target { name, seeds, memory: 400, run };
    let configs: &[&[u8]] =
        &[b"current-context: a\ncontexts:\n- name: a\n  context: {cluster: c, user: u, namespace: n}\nclusters:\n- name: c\n\
        \x20 cluster: {server: 'https://h:1/p', certificate-authority-data: LS0tLS1CRUdJTg==, tls-server-name: x}\nusers:\n- name: u\n\
        \x20 user: {token: t, client-certificate-data: YQ==, client-key-data: YQ==}\n\0a: b"];
    let addresses: &[&[u8]] = &[b"https://[::1]:6443/k8s/c?x", b"http://u@h"];
    let texts: &[&[u8]] = &[b"299 - \"a \\\"b\\\"\", 299 x \"c\" \"date\""];
    let targets = [target("kubeconfig", kubeconfig, configs), target("address", address, addresses), target("warnings", warnings, texts)];
    fram_fuzz::check(env!("CARGO_MANIFEST_DIR"), &targets);
}
