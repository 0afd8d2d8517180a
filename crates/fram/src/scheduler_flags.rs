//! The flags of the scheduler.

use std::path::Path;

use fram_scheduler::Configuration;

/// How the scheduler is run.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Scheduler")]
pub(crate) struct SchedulerFlags {
    /// Profiles, plugins and extenders: a KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1). Its connection, leader election
    /// and parallelism have no meaning here, the scheduler being in the server's process; the log says so where they are set.
    #[arg(long = "scheduler-config", value_name = "FILE", value_parser = read)]
    configuration: Option<Configuration>,
    /// Run no scheduler: pods are bound by another one, or by nobody.
    #[arg(long)]
    pub(crate) disable_scheduler: bool,
}

fn read(path: &str) -> Result<Configuration, String> {
    Configuration::load(Path::new(path)).map_err(|error| error.to_string())
}

impl SchedulerFlags {
    pub(crate) fn configuration(&self) -> Configuration {
        self.configuration.clone().unwrap_or_default()
    }
}
