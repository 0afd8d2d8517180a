//! What the running kernel can, told by its number where it cannot be asked.

/// User namespaces of pods need idmapped mounts of tmpfs, which came with this version; see KEP-127.
const USER_NAMESPACES: (u32, u32) = (6, 3);

/// Whether a kernel's release (`6.1.0-56-cloud-amd64`) is at least of this version. What cannot be read is not held against it.
pub fn is_at_least(release: &str, version: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else { return true };
    (major, minor) >= version
}

/// The running kernel's release; empty where it does not tell.
pub fn release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

pub(crate) fn has_user_namespaces() -> bool {
    is_at_least(&release(), USER_NAMESPACES)
}

#[cfg(test)]
mod tests {
    use super::is_at_least;

    #[test]
    fn kernels_are_told_apart_by_their_numbers() {
        assert!(!["4.19.0-27-amd64", "5.10.0", "5.4"].into_iter().any(|release| is_at_least(release, (5, 12))));
        assert!(["5.12.1", "6.1.0-56-cloud-amd64", "6.18.2", "strange"].into_iter().all(|release| is_at_least(release, (5, 12))));
        assert!(!is_at_least("6.1.0-56-cloud-amd64", (6, 3)) && is_at_least("6.12.48", (6, 3)));
    }
}
