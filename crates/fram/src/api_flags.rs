//! The flags of the API server that are kube-apiserver's, by its names and with its defaults, and what is made of them.

use std::path::PathBuf;
use std::sync::Arc;

use fram_apiserver::{Environment, Server};
use fram_audit::{Audit, BatchOptions, Counters, Log, LogOptions, Policy, Sender, Sink, Webhook};
use fram_encryption::{Encryption, Reloads};
use fram_flowcontrol::{FlowControl, InFlight};

/// How the API server is run.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct ApiFlags {
    #[command(flatten)]
    audit: AuditFlags,
    #[command(flatten)]
    encryption: EncryptionFlags,
    #[command(flatten)]
    requests: RequestFlags,
}

/// How many requests are carried out at once.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Requests")]
struct RequestFlags {
    /// Let requests wait and run by FlowSchemas and PriorityLevelConfigurations; else refuse what is too much.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    enable_priority_and_fairness: bool,
    /// How many requests that read are carried out at once; with priority and fairness, a part of all seats.
    #[arg(long, value_name = "N", default_value_t = 400)]
    max_requests_inflight: usize,
    /// How many requests that write are carried out at once; with priority and fairness, a part of all seats.
    #[arg(long, value_name = "N", default_value_t = 200)]
    max_mutating_requests_inflight: usize,
}

/// How long a request waits in a queue at most: a quarter of what it may take, as upstream has it.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(15);

/// How values look on disk.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Encryption at rest")]
struct EncryptionFlags {
    /// The file that says which resources are encrypted on disk, and by what. Without it none is.
    #[arg(long, value_name = "FILE")]
    encryption_provider_config: Option<PathBuf>,
    /// Take over changes of that file while the server runs.
    #[arg(long)]
    encryption_provider_config_automatic_reload: bool,
}

/// What is recorded of the requests, and where.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Auditing")]
struct AuditFlags {
    /// The file with the audit policy: which requests are recorded, and how much of each. Without it nothing is.
    #[arg(long, value_name = "FILE")]
    audit_policy_file: Option<PathBuf>,
    /// Where records are written, a line each; `-` is standard output.
    #[arg(long, value_name = "FILE")]
    audit_log_path: Option<PathBuf>,
    /// Megabytes after which the audit log is put aside.
    #[arg(long, value_name = "MB", default_value_t = 100)]
    audit_log_maxsize: u64,
    /// Days for which audit logs that were put aside are kept.
    #[arg(long, value_name = "DAYS", default_value_t = 366)]
    audit_log_maxage: u64,
    /// How many audit logs that were put aside are kept.
    #[arg(long, value_name = "N", default_value_t = 100)]
    audit_log_maxbackup: usize,
    /// A kubeconfig that names the webhook to which records are posted.
    #[arg(long, value_name = "FILE")]
    audit_webhook_config_file: Option<PathBuf>,
    /// How long the webhook is left alone after its first failure.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    audit_webhook_initial_backoff: std::time::Duration,
    /// How many records wait for the webhook at most; more are lost, and counted.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    audit_webhook_batch_buffer_size: usize,
    /// How many records are posted at once at most.
    #[arg(long, value_name = "N", default_value_t = 400)]
    audit_webhook_batch_max_size: usize,
    /// How long a record waits for others at most.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    audit_webhook_batch_max_wait: std::time::Duration,
    /// How many times a second records are posted at most.
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    audit_webhook_batch_throttle_qps: f64,
    /// How many times at once, after a pause.
    #[arg(long, value_name = "N", default_value_t = 15.0)]
    audit_webhook_batch_throttle_burst: f64,
}

/// A duration as Go writes it: `90s`, `1m30s`, `500ms`.
pub(crate) fn duration(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 30s or 1m30s");
    let (mut rest, mut total) = (text, std::time::Duration::ZERO);
    if rest == "0" {
        return Ok(total);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |n| digits + n);
        let seconds = match &rest[digits..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => return Err(wrong()),
        };
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        total += std::time::Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
        rest = &rest[unit..];
    }
    Ok(total)
}

impl ApiFlags {
    /// The server with its limits on requests.
    pub(crate) fn limited(&self, server: Server) -> Server {
        let flags = &self.requests;
        let (reading, writing) = (flags.max_requests_inflight, flags.max_mutating_requests_inflight);
        match flags.enable_priority_and_fairness && reading + writing > 0 {
            true => server.with_flow_control(Arc::new(FlowControl::new((reading + writing) as u64, PATIENCE))),
            false => server.with_in_flight_limits(InFlight::new(reading, writing)),
        }
    }

    /// The encryption of the store whose keys start with `prefix`.
    pub(crate) fn encryption(&self, prefix: &str) -> anyhow::Result<Arc<Encryption>> {
        Ok(Arc::new(match &self.encryption.encryption_provider_config {
            Some(path) => Encryption::load(path, prefix)?,
            None => Encryption::none(prefix),
        }))
    }

    /// What follows changes of the encryption's file, where that is wanted.
    pub(crate) fn encryption_reloads(&self, encryption: &Arc<Encryption>) -> anyhow::Result<Option<Reloads>> {
        Ok(if self.encryption.encryption_provider_config_automatic_reload { encryption.follow()? } else { None })
    }

    /// The auditor, and what sends to its webhook.
    pub(crate) fn auditor(&self, environment: &Environment) -> anyhow::Result<(Option<Arc<Audit>>, Option<Sender>)> {
        let flags = &self.audit;
        let Some(policy) = &flags.audit_policy_file else { return Ok((None, None)) };
        let policy = Policy::load(policy)?;
        let environment = environment.clone();
        let now: Arc<dyn Fn() -> jiff::Timestamp + Send + Sync> = Arc::new(move || environment.now());
        let counters = Counters::default();
        let mut sinks: Vec<Arc<dyn Sink>> = Vec::new();
        if let Some(path) = &flags.audit_log_path {
            let options = LogOptions {
                path: path.clone(),
                max_size: flags.audit_log_maxsize,
                max_age: flags.audit_log_maxage,
                max_backups: flags.audit_log_maxbackup,
            };
            sinks.push(Arc::new(Log::open(options, now.clone())?));
        }
        let mut sender = None;
        if let Some(config) = &flags.audit_webhook_config_file {
            let options = BatchOptions {
                buffer_size: flags.audit_webhook_batch_buffer_size,
                max_size: flags.audit_webhook_batch_max_size,
                max_wait: flags.audit_webhook_batch_max_wait,
                throttle_qps: flags.audit_webhook_batch_throttle_qps,
                throttle_burst: flags.audit_webhook_batch_throttle_burst,
                initial_backoff: flags.audit_webhook_initial_backoff,
            };
            let (webhook, sends) = Webhook::open(config, options, counters.clone())?;
            sinks.push(Arc::new(webhook));
            sender = Some(sends);
        }
        if sinks.is_empty() {
            tracing::warn!("there is an audit policy, but neither --audit-log-path nor --audit-webhook-config-file: nothing is recorded");
            return Ok((None, None));
        }
        Ok((Some(Arc::new(Audit::new(policy, sinks, counters, now))), sender))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn durations_are_written_as_in_go() {
        for (text, expect) in [("30s", 30_000), ("1m30s", 90_000), ("1.5h", 5_400_000), ("500ms", 500), ("0", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(expect)), "{text}");
        }
        for text in ["", "30", "s", "1d", "-1s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
