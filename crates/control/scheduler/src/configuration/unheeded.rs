//! What a configuration may say that has no effect in a scheduler that is part of its server. Pure.

use super::types::Document;

/// The fields that say something else than what is so anyway.
pub(super) fn fields(document: &Document) -> Vec<&'static str> {
    let (election, client) = (&document.leader_election, &document.client_connection);
    let other = |said: &str, is: &str| !said.is_empty() && said != is;
    let said = [
        ("parallelism", document.parallelism.is_some_and(|n| n != 16)),
        ("leaderElection.leaderElect", election.leader_elect == Some(false)),
        ("leaderElection.leaseDuration", other(&election.lease_duration, "15s")),
        ("leaderElection.renewDeadline", other(&election.renew_deadline, "10s")),
        ("leaderElection.retryPeriod", other(&election.retry_period, "2s")),
        ("leaderElection.resourceName", other(&election.resource_name, "kube-scheduler")),
        ("leaderElection.resourceNamespace", other(&election.resource_namespace, "kube-system")),
        ("clientConnection.kubeconfig", !client.kubeconfig.is_empty()),
        ("clientConnection.acceptContentTypes", !client.accept_content_types.is_empty()),
        ("clientConnection.contentType", other(&client.content_type, "application/vnd.kubernetes.protobuf")),
        ("clientConnection.qps", client.qps != 0.0 && client.qps != 50.0),
        ("clientConnection.burst", client.burst != 0 && client.burst != 100),
        ("enableProfiling", document.enable_profiling),
        ("enableContentionProfiling", document.enable_contention_profiling),
        ("delayCacheUntilActive", document.delay_cache_until_active),
    ];
    said.into_iter().filter(|(_, is_said)| *is_said).map(|(field, _)| field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rest: &str) -> Vec<&'static str> {
        let text = format!("apiVersion: {}\nkind: {}\n{rest}", super::super::API_VERSION, super::super::KIND);
        fields(&super::super::parse(&text).unwrap())
    }

    #[test]
    fn what_has_no_effect_is_told_of_and_what_is_so_anyway_is_not() {
        assert_eq!(of(""), [""; 0]);
        assert_eq!(of("parallelism: 16\nleaderElection: {leaderElect: true, leaseDuration: 15s, resourceName: kube-scheduler}"), [""; 0]);
        assert_eq!(of("parallelism: 4\nclientConnection: {kubeconfig: /etc/x}"), ["parallelism", "clientConnection.kubeconfig"]);
        assert_eq!(
            of("leaderElection: {leaderElect: false, resourceName: mine}"),
            ["leaderElection.leaderElect", "leaderElection.resourceName"]
        );
    }
}
