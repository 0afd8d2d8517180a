//! Settings of the kernel that kubelets count on, and which of them are otherwise. See upstream's setupKernelTunables.

use std::path::Path;

/// Below /proc/sys, with what they should be.
const WANTED: [(&str, i64); 6] = [
    ("vm/overcommit_memory", 1),
    ("vm/panic_on_oom", 0),
    ("kernel/panic", 10),
    ("kernel/panic_on_oops", 1),
    ("kernel/keys/root_maxkeys", 1_000_000),
    ("kernel/keys/root_maxbytes", 25_000_000),
];

/// What is otherwise, in upstream's words.
pub(crate) fn faults(sys: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for (name, wanted) in WANTED {
        match std::fs::read_to_string(sys.join(name)) {
            Ok(text) if text.trim() == wanted.to_string() => {}
            Ok(text) => out.push(format!("invalid kernel flag: {name}, expected value: {wanted}, actual value: {}", text.trim())),
            Err(error) => out.push(format!("{name} cannot be read: {error}")),
        }
    }
    out
}

/// Makes all of them as they should be; fails with what cannot be, or cannot be read.
pub(crate) fn set(sys: &Path) -> Result<(), String> {
    let mend = |name: &str, wanted: i64| match std::fs::read_to_string(sys.join(name))?.trim() == wanted.to_string() {
        true => Ok(()),
        false => std::fs::write(sys.join(name), wanted.to_string()),
    };
    let failed: Vec<String> = WANTED
        .iter()
        .filter_map(|(name, wanted)| mend(name, *wanted).err().map(|error: std::io::Error| format!("{name}: {error}")))
        .collect();
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_that_is_otherwise_is_named() {
        let sys = tempfile::tempdir().unwrap();
        for (name, wanted) in WANTED {
            let path = sys.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{wanted}\n")).unwrap();
        }
        assert!(faults(sys.path()).is_empty());
        std::fs::write(sys.path().join("kernel/panic"), "0\n").unwrap();
        std::fs::remove_file(sys.path().join("vm/panic_on_oom")).unwrap();
        let told = faults(sys.path());
        assert!(told.len() == 2 && told[0].starts_with("vm/panic_on_oom cannot be read"), "{told:?}");
        assert_eq!(told[1], "invalid kernel flag: kernel/panic, expected value: 10, actual value: 0");
        // What can be set is set, and what the kernel does not have is told and not made.
        assert!(set(sys.path()).unwrap_err().starts_with("vm/panic_on_oom: "));
        assert_eq!(faults(sys.path()), told[..1]);
    }
}
