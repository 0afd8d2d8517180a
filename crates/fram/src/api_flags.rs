//! The flags of the API server that are kube-apiserver's, by its names and with its defaults, and what is made of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::builder::RangedU64ValueParser;
use fram_api::{Api, FeatureGates, RuntimeConfig};
use fram_apiserver::admission::{Chain, Choice};
use fram_apiserver::limits::{Limits, go_duration};
use fram_apiserver::{Environment, Server};
use fram_audit::{Audit, BatchOptions, Counters, Log, LogOptions, Policy, Sender, Sink, Webhook};
use fram_encryption::{Encryption, Reloads};
use fram_flowcontrol::{FlowControl, InFlight};
use fram_machinery::yaml;

use crate::etcd_flags::EtcdFlags;
use crate::own_defaults;

/// How the API server is run.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct ApiFlags {
    #[command(flatten)]
    audit: AuditFlags,
    #[command(flatten)]
    encryption: EncryptionFlags,
    #[command(flatten)]
    requests: RequestFlags,
    #[command(flatten)]
    versions: VersionFlags,
    #[command(flatten)]
    features: FeatureFlags,
    #[command(flatten)]
    admission: AdmissionFlags,
    #[command(flatten)]
    kubelets: KubeletFlags,
    #[command(flatten)]
    pub(crate) etcd: EtcdFlags,
}

/// How kubelets are reached that have no agent of Fram's.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Kubelets")]
struct KubeletFlags {
    /// The authorities (PEM) of the certificates by which kubelets without an agent of Fram's serve; by default the cluster's own, which
    /// signs what they ask for with `serverTLSBootstrap: true`.
    #[arg(long, value_name = "FILE")]
    kubelet_certificate_authority: Option<PathBuf>,
}

/// Which versions of the APIs are served.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "API versions")]
struct VersionFlags {
    /// Switches versions of APIs on or off: pairs KEY=BOOL, where a key is api/all, api/ga, api/beta, api/alpha, GROUP/VERSION or
    /// GROUP/VERSION/RESOURCE. Alphas and betas are off where nothing is said; what belongs to them is on where they are.
    #[arg(long, value_name = "KEY=BOOL,…")]
    runtime_config: Vec<RuntimeConfig>,
}

/// Which features are on.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Features")]
struct FeatureFlags {
    /// Switches features on or off: pairs NAME=BOOL, by the names that Kubernetes 1.36 has. Of what is switched nowhere here, a gate can say
    /// only what is so already; the metric kubernetes_feature_enabled tells of all of them.
    #[arg(long, value_name = "NAME=BOOL,…")]
    feature_gates: Vec<FeatureGates>,
}

/// Which plugins of admission run.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Admission")]
struct AdmissionFlags {
    /// Plugins that run beside those that do unasked, by kube-apiserver's names; their order does not matter.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    enable_admission_plugins: Vec<String>,
    /// Plugins that do not run though they would unasked.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    disable_admission_plugins: Vec<String>,
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
    /// How long a request may take that is not a watch or a stream.
    #[arg(long, value_name = "DURATION", default_value = "1m0s", value_parser = duration)]
    request_timeout: Duration,
    /// Seconds that a watch goes on for at least where its client names no end.
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    min_request_timeout: u64,
    /// How many streams a client may have open over one connection.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    http2_max_streams_per_connection: u32,
    /// How long the server goes on as before when it is told to end, while /readyz says that it does.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    shutdown_delay_duration: Duration,
}

/// The part of its time that a request may wait in a queue, as upstream has it.
const WAITING: u32 = 4;

/// How values look on disk.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Encryption at rest")]
pub(crate) struct EncryptionFlags {
    /// The file that says which resources are encrypted on disk, and by what. Without it Secrets are, by a key of the cluster's own
    /// in encryption.yaml among its keys.
    #[arg(long, value_name = "FILE")]
    encryption_provider_config: Option<PathBuf>,
    /// Take over changes of that file while the server runs.
    #[arg(long)]
    encryption_provider_config_automatic_reload: bool,
}

impl EncryptionFlags {
    /// The encryption of the store whose keys start with the prefix of these flags; the server's own keys are beside the cluster's.
    pub(crate) fn open(&self, etcd: &EtcdFlags, data: &Path) -> anyhow::Result<Arc<Encryption>> {
        let (prefix, keys) = (etcd.prefix(), etcd.cert_dir(data));
        Ok(Arc::new(match &self.encryption_provider_config {
            Some(path) => Encryption::load(path, &prefix)?,
            // Other servers of a cluster whose keys are older than this rule could not read what is sealed.
            None if etcd.is_shared() && !own_defaults::may_encrypt(&keys)? => Encryption::none(&prefix),
            None => Encryption::load(&own_defaults::encryption_file(&keys)?, &prefix)?,
        }))
    }
}

/// What is recorded of the requests, and where.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Auditing")]
struct AuditFlags {
    /// The file with the audit policy: which requests are recorded, and how much of each. Without it changes are, with their
    /// metadata, in audit/audit.log in the data directory.
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
    audit_webhook_initial_backoff: Duration,
    /// How many records wait for the webhook at most; more are lost, and counted.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    audit_webhook_batch_buffer_size: usize,
    /// How many records are posted at once at most.
    #[arg(long, value_name = "N", default_value = "400", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    audit_webhook_batch_max_size: usize,
    /// How long a record waits for others at most.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    audit_webhook_batch_max_wait: Duration,
    /// How many times a second records are posted at most.
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    audit_webhook_batch_throttle_qps: f64,
    /// How many times at once, after a pause.
    #[arg(long, value_name = "N", default_value_t = 15.0)]
    audit_webhook_batch_throttle_burst: f64,
}

/// A duration as Go writes it: `90s`, `1m30s`, `500ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    go_duration(text).ok_or_else(|| format!("{text:?} is not a duration such as 30s or 1m30s"))
}

/// The names of a list, whose commas may stand at its ends or twice.
fn named(names: &[String]) -> Vec<String> {
    names.iter().map(|name| name.trim().to_string()).filter(|name| !name.is_empty()).collect()
}

impl ApiFlags {
    /// The server with its limits on requests.
    pub(crate) fn limited(&self, server: Server) -> Server {
        let flags = &self.requests;
        let limits = Limits {
            request: flags.request_timeout,
            watch: Duration::from_secs(flags.min_request_timeout),
            streams: flags.http2_max_streams_per_connection,
            ..Limits::default()
        };
        let server = server.with_limits(limits);
        let (reading, writing) = (flags.max_requests_inflight, flags.max_mutating_requests_inflight);
        match flags.enable_priority_and_fairness && reading + writing > 0 {
            true => server.with_flow_control(Arc::new(FlowControl::new((reading + writing) as u64, flags.request_timeout / WAITING))),
            false => server.with_in_flight_limits(InFlight::new(reading, writing)),
        }
    }

    /// Which features are on.
    pub(crate) fn gates(&self) -> anyhow::Result<FeatureGates> {
        FeatureGates::merged(&self.features.feature_gates).context("--feature-gates")
    }

    /// The kinds that are served.
    pub(crate) fn api(&self, gates: &FeatureGates) -> anyhow::Result<Api> {
        Api::gated(&RuntimeConfig::merged(&self.versions.runtime_config), gates).context("--runtime-config")
    }

    /// The plugins of admission.
    pub(crate) fn admission(&self) -> anyhow::Result<Chain> {
        let [on, off] = [&self.admission.enable_admission_plugins, &self.admission.disable_admission_plugins].map(|names| named(names));
        Ok(Chain::chosen(Choice::new(&on, &off)?))
    }

    /// Who vouches for kubelets without an agent, if not the cluster's own authority.
    pub(crate) fn kubelet_authorities(&self) -> anyhow::Result<Option<String>> {
        let Some(path) = &self.kubelets.kubelet_certificate_authority else { return Ok(None) };
        let text = std::fs::read_to_string(path).with_context(|| format!("--kubelet-certificate-authority {}", path.display()))?;
        anyhow::ensure!(
            text.contains("-----BEGIN CERTIFICATE-----"),
            "--kubelet-certificate-authority {} has no certificate",
            path.display()
        );
        Ok(Some(text))
    }

    /// How long the server goes on as before when it is told to end.
    pub(crate) fn shutdown_delay(&self) -> Duration {
        self.requests.shutdown_delay_duration
    }

    /// The encryption of the store.
    pub(crate) fn encryption(&self, data: &Path) -> anyhow::Result<Arc<Encryption>> {
        self.encryption.open(&self.etcd, data)
    }

    /// What follows changes of the encryption's file, where that is wanted.
    pub(crate) fn encryption_reloads(&self, encryption: &Arc<Encryption>) -> anyhow::Result<Option<Reloads>> {
        Ok(if self.encryption.encryption_provider_config_automatic_reload { encryption.follow()? } else { None })
    }

    /// The auditor, and what sends to its webhook.
    pub(crate) fn auditor(&self, environment: &Environment, data: &Path) -> anyhow::Result<(Option<Arc<Audit>>, Option<Sender>)> {
        let flags = &self.audit;
        let environment = environment.clone();
        let now: Arc<dyn Fn() -> jiff::Timestamp + Send + Sync> = Arc::new(move || environment.now());
        let counters = Counters::default();
        let Some(policy) = &flags.audit_policy_file else {
            let policy = Policy::read(&yaml::from_str(own_defaults::AUDIT_POLICY)?).map_err(anyhow::Error::msg)?;
            let log: Arc<dyn Sink> = Arc::new(Log::open(own_defaults::audit_log(data), now.clone())?);
            return Ok((Some(Arc::new(Audit::new(policy, vec![log], counters, now))), None));
        };
        let policy = Policy::load(policy)?;
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
    #[test]
    fn names_that_are_empty_are_none() {
        assert_eq!(super::named(&["".into(), " A".into(), "".into(), "B".into()]), ["A", "B"]);
    }
}
