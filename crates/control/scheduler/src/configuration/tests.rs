//! Configurations as users write them.

use super::*;

fn read(rest: &str) -> Result<Configuration, String> {
    let text = format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{rest}");
    parse(&text).and_then(|document| Configuration::read(document).map_err(|error| error.to_string()))
}

/// Names of a profile's plugins with F where they filter, and their weights.
fn plugins(rest: &str) -> Vec<String> {
    let show = |s: &Slot| {
        format!(
            "{}{}{}",
            s.plugin.name(),
            if s.filters { " F" } else { "" },
            if s.weight > 0 { format!(" {}", s.weight) } else { String::new() }
        )
    };
    read(rest).unwrap().profiles[0].slots.iter().map(show).collect()
}

#[test]
fn what_is_not_said_is_as_without_a_configuration() {
    let said = read("profiles: [{schedulerName: mine}]").unwrap();
    assert_eq!((said.profiles[0].name.as_str(), said.profiles[0].slots.len()), ("mine", Configuration::default().profiles[0].slots.len()));
    assert_eq!(said.backoff, Backoff::default());
    assert_eq!(read("").unwrap().profiles[0].name, DEFAULT_SCHEDULER);
}

#[test]
fn plugins_are_taken_out_and_weighed_anew_by_point() {
    let only = "profiles: [{plugins: {multiPoint: {disabled: [{name: '*'}], enabled: [{name: PrioritySort}, {name: DefaultBinder},
        {name: SchedulingGates}, {name: NodeResourcesFit, weight: 7}, {name: ImageLocality}]}}}]";
    assert_eq!(plugins(only), ["NodeResourcesFit F 7", "ImageLocality 1"]);
    let points = "profiles: [{plugins: {filter: {disabled: [{name: TaintToleration}]}, score: {disabled: [{name: '*'}],
        enabled: [{name: NodeAffinity, weight: 5}]}}}]";
    let plugins = plugins(points);
    assert!(plugins.contains(&"NodeAffinity F 5".into()) && plugins.contains(&"NodeResourcesFit F".into()), "{plugins:?}");
    assert!(!plugins.iter().any(|p| p.starts_with("TaintToleration") || p.starts_with("ImageLocality")), "{plugins:?}");
    let polite = read("profiles: [{plugins: {postFilter: {disabled: [{name: DefaultPreemption}]}}}]").unwrap();
    assert_eq!(polite.profiles[0].preemption, None);
}

#[test]
fn arguments_reach_their_plugins() {
    let text = "podInitialBackoffSeconds: 2
podMaxBackoffSeconds: 60
parallelism: 8
profiles:
- pluginConfig:
  - {name: NodeResourcesFit, args: {kind: NodeResourcesFitArgs, scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 3}]}}}
  - {name: PodTopologySpread, args: {defaultingType: List, defaultConstraints: [{topologyKey: z, maxSkew: 1, whenUnsatisfiable: ScheduleAnyway}]}}
  - {name: InterPodAffinity, args: {hardPodAffinityWeight: 50}}
  - {name: NodeAffinity, args: {addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: []}}}}
  - {name: VolumeBinding, args: {bindTimeoutSeconds: 5}}
  - {name: DefaultPreemption, args: {minCandidateNodesAbsolute: 7}}";
    let said = read(text).unwrap();
    assert_eq!(said.backoff, Backoff { first: Duration::from_secs(2), last: Duration::from_secs(60) });
    let profile = &said.profiles[0];
    assert_eq!((profile.bind_timeout, profile.preemption), (Duration::from_secs(5), Some(Limits { percentage: 10, absolute: 7 })));
}

#[test]
fn points_of_a_ratio_are_scaled_to_what_plugins_score() {
    let text = "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: RequestedToCapacityRatio,
        requestedToCapacityRatio: {shape: [{utilization: 0, score: 0}, {utilization: 100, score: 10}]}}}}]}]";
    let mut told =
        profile::arguments(&parse(&format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{text}")).unwrap().profiles[0], &mut Vec::new());
    let ranking = std::mem::replace(&mut told.arguments.fit.ranking, crate::plugins::Ranking::LeastAllocated);
    assert_eq!(ranking, crate::plugins::Ranking::RequestedToCapacityRatio(vec![(0, 0), (100, 100)]));
}

#[test]
fn a_profile_looks_at_so_many_nodes_as_it_says_or_all_profiles_do() {
    let text = "percentageOfNodesToScore: 30\nprofiles: [{schedulerName: a}, {schedulerName: b, percentageOfNodesToScore: 70}]";
    let said = read(text).unwrap();
    assert_eq!(said.profiles.iter().map(|p| p.percentage).collect::<Vec<_>>(), [30, 70]);
    assert_eq!(Configuration::default().profiles[0].percentage, 0);
}

#[test]
fn what_cannot_be_is_refused_with_its_place() {
    let table = [
        ("parallelism: 0", "parallelism: Invalid value: 0: should be an integer value greater than zero"),
        ("percentageOfNodesToScore: 101", "percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]"),
        (
            "podInitialBackoffSeconds: 20",
            "podMaxBackoffSeconds: Invalid value: 10: must be greater than or equal to PodInitialBackoffSeconds",
        ),
        (
            "profiles: [{plugins: {filter: {enabled: [{name: Mine}]}}}]",
            "profiles[0].plugins.filter.enabled: plugin \"Mine\" does not exist",
        ),
        ("profiles: [{schedulerName: a}, {schedulerName: a}]", "Duplicate value"),
        ("profiles: [{}, {schedulerName: b}]", "profiles[0].schedulerName: Required value"),
        ("leaderElection: {resourceLock: endpoints}", "leaderElection.resourceLock: Invalid value: \"endpoints\": resourceLock value must be"),
        (
            "profiles: [{pluginConfig: [{name: PodTopologySpread, args: {defaultConstraints: [{topologyKey: z, maxSkew: 1, whenUnsatisfiable: ScheduleAnyway}]}}]}]",
            "defaultingType: Invalid value: \"System\": when .defaultConstraints are not empty",
        ),
        (
            "profiles: [{pluginConfig: [{name: PodTopologySpread, args: {defaultingType: List, defaultConstraints: [
             {topologyKey: z, maxSkew: 1, whenUnsatisfiable: ScheduleAnyway}, {topologyKey: z, maxSkew: 2, whenUnsatisfiable: ScheduleAnyway}]}}]}]",
            "defaultConstraints[1].{topologyKey, whenUnsatisfiable}: Duplicate value: \"{z, ScheduleAnyway}\"",
        ),
        (
            "profiles: [{pluginConfig: [{name: NodeAffinity, args: {addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution:
             {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Is, values: [b]}]}]}}}}]}]",
            "addedAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].operator: Invalid value: \"Is\"",
        ),
        (
            "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: LeastAllocated, requestedToCapacityRatio: {shape: []}}}}]}]",
            "scoringStrategy.requestedToCapacityRatio: Forbidden",
        ),
        ("profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {ignoredResources: ['a b']}}]}]", "ignoredResources: Invalid value: \"a b\""),
        (
            "profiles: [{pluginConfig: [{name: NodeResourcesBalancedAllocation, args: {resources: [{name: cpu}, {name: cpu}]}}]}]",
            "resources[1].name: Duplicate value: \"cpu\"",
        ),
        (
            "profiles: [{pluginConfig: [{name: NodeResourcesBalancedAllocation, args: {resources: [{name: cpu, weight: -1}]}}]}]",
            "resources[0].weight: Invalid value: -1: must be 1",
        ),
        ("profiles: [{pluginConfig: [{name: DynamicResources, args: {filterTimeout: -1s}}]}]", "filterTimeout: Invalid value: \"-1s\""),
        (
            "extenders: [{urlPrefix: 'http://x', managedResources: [{name: cpu}]}]",
            "extenders[0].managedResources[0].name: Invalid value: \"cpu\": is an invalid extended resource name",
        ),
        (
            "extenders: [{urlPrefix: 'http://x', managedResources: [{name: a.b/c}]}, {urlPrefix: 'http://y', managedResources: [{name: a.b/c}]}]",
            "extenders[1].managedResources[0].name: Invalid value: \"a.b/c\": duplicate extender managed resource name",
        ),
        ("profiles: [{pluginConfig: [{name: InterPodAffinity, args: {hardPodAffinityWeight: 101}}]}]", "not in valid range [0-100]"),
        ("profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoring: x}}]}]", "unknown field `scoring`"),
        ("profiles: [{plugin: x}]", "unknown field `plugin`"),
        ("extenders: [{urlPrefix: 'http://x', bindVerb: b}, {urlPrefix: 'http://y', bindVerb: b}]", "only one extender can implement bind"),
        ("extenders: [{urlPrefix: 'http://x', prioritizeVerb: p}]", "extenders[0].weight: Invalid value: 0: must have a positive weight"),
    ];
    for (text, expect) in table {
        let said = read(text).unwrap_err();
        assert!(said.contains(expect), "{text}: {said}");
    }
}
