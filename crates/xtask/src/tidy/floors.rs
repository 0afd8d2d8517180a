//! The direction of dependencies: core, then control and node side by side, then the program, which alone sees all.

use cargo_metadata::{DependencyKind, Metadata, Package};

/// The floor of a crate, from its folder; None for the program and the chores.
fn floor(package: &Package) -> Option<String> {
    let path = package.manifest_path.as_str();
    ["core", "control", "node", "platform"].into_iter().find(|f| path.contains(&format!("/crates/{f}/"))).map(String::from)
}

/// Whether a crate of one floor may use a crate of another.
fn allowed(from: &str, to: &str) -> bool {
    from == to || to == "core" && matches!(from, "control" | "node" | "platform")
}

pub(super) fn check(metadata: &Metadata) -> Vec<String> {
    let mut problems = Vec::new();
    for package in &metadata.packages {
        let Some(from) = floor(package) else { continue };
        for dependency in package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal) {
            let Some(used) = metadata.packages.iter().find(|p| p.name.as_str() == dependency.name) else { continue };
            match floor(used) {
                Some(to) if allowed(&from, &to) => {}
                Some(to) => problems.push(format!("{} ({from}) depends on {} ({to}): dependencies go down only", package.name, used.name)),
                None => problems.push(format!("{} depends on {}, which stands above it", package.name, used.name)),
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::allowed;

    #[test]
    fn dependencies_go_down_only() {
        assert!(allowed("node", "core") && allowed("control", "control"));
        assert!(!allowed("core", "node") && !allowed("node", "control") && !allowed("control", "node"));
    }
}
