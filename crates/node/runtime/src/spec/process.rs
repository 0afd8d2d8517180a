//! The first process: arguments, environment and working directory from the container and its image.

use fram_cri::{ContainerConfig, ImageConfig};

use super::SpecError;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command replaces the image's entrypoint and its arguments; arguments alone replace the image's arguments.
pub(super) fn args(container: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>, SpecError> {
    let (entrypoint, arguments) = match (container.command.is_empty(), container.args.is_empty()) {
        (false, _) => (&container.command, &container.args),
        (true, false) => (&image.entrypoint, &container.args),
        (true, true) => (&image.entrypoint, &image.cmd),
    };
    let args: Vec<String> = entrypoint.iter().chain(arguments).cloned().collect();
    if args.first().is_none_or(String::is_empty) {
        return Err(SpecError::NoCommand);
    }
    Ok(args)
}

/// The image's variables, then the container's; the last of a name counts, at its first place.
pub(super) fn environment(container: &ContainerConfig, image: &ImageConfig, hostname: &str) -> Result<Vec<String>, SpecError> {
    let mut variables: Vec<(String, String)> = vec![("PATH".into(), DEFAULT_PATH.into())];
    let mut set = |name: &str, value: &str| {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(SpecError::Environment(name.to_owned()));
        }
        match variables.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => variables.push((name.to_owned(), value.to_owned())),
        }
        Ok(())
    };
    if container.tty {
        set("TERM", "xterm")?;
    }
    if !hostname.is_empty() {
        set("HOSTNAME", hostname)?;
    }
    for variable in &image.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        set(name, value)?;
    }
    for variable in &container.envs {
        set(&variable.key, &variable.value)?;
    }
    Ok(variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}

pub(super) fn working_directory(container: &ContainerConfig, image: &ImageConfig) -> Result<String, SpecError> {
    let directory = [&container.working_dir, &image.working_dir].into_iter().find(|directory| !directory.is_empty());
    match directory.map(String::as_str) {
        None => Ok("/".to_owned()),
        Some(directory) if directory.starts_with('/') => Ok(directory.to_owned()),
        // The image specification does not forbid a relative one; it is meant from the root.
        Some(directory) if container.working_dir.is_empty() => Ok(format!("/{directory}")),
        Some(directory) => Err(SpecError::WorkingDirectory(directory.to_owned())),
    }
}
