//! One profile: which plugins take part where, how much their scores count, and what they are told.

use std::time::Duration;

use fram_machinery::Value;
use fram_machinery::names::qualified_name;
use fram_machinery::normalize::parse_duration;

use super::types::{
    BalancedArgs, DynamicResourcesArgs, FitArgs, InterPodArgs, NodeAffinityArgs, Plugin, PluginSet, PreemptionArgs, Profile,
    ScoringStrategy, SpreadArgs, VolumeBindingArgs, tree,
};
use super::{BIND_TIMEOUT, DEFAULT_SCHEDULER, ProfileSpec};
use crate::devices::steps_within;
use crate::framework::MAX_SCORE;
use crate::plugins::{Arguments, Ranking, Slot, standard};
use crate::preemption::Limits;

/// Plugins that are part of every profile's work and are no views of nodes.
const SORT: &str = "PrioritySort";
const BIND: &str = "DefaultBinder";
const PREEMPT: &str = "DefaultPreemption";
const GATES: &str = "SchedulingGates";

pub(super) struct Told {
    pub(super) arguments: Arguments,
    limits: Limits,
    bind_timeout: Duration,
}

/// Reads a profile; `ignored` resources are seen to by extenders.
pub(super) fn read(said: &Profile, ignored: &[String]) -> Result<ProfileSpec, Vec<String>> {
    let mut faults = Vec::new();
    let mut told = arguments(said, &mut faults);
    told.arguments.fit.ignored.extend(ignored.iter().cloned());
    let all = standard(&told.arguments);
    let known = |name: &str| [SORT, BIND, PREEMPT, GATES].contains(&name) || all.iter().any(|s| s.plugin.name() == name);
    let plugins = &said.plugins;
    let sets = [
        ("preEnqueue", &plugins.pre_enqueue),
        ("queueSort", &plugins.queue_sort),
        ("preFilter", &plugins.pre_filter),
        ("filter", &plugins.filter),
        ("postFilter", &plugins.post_filter),
        ("preScore", &plugins.pre_score),
        ("score", &plugins.score),
        ("reserve", &plugins.reserve),
        ("permit", &plugins.permit),
        ("preBind", &plugins.pre_bind),
        ("bind", &plugins.bind),
        ("postBind", &plugins.post_bind),
        ("multiPoint", &plugins.multi_point),
        ("placementGenerate", &plugins.placement_generate),
        ("placementScore", &plugins.placement_score),
    ];
    for (point, set) in sets {
        for plugin in set.enabled.iter().filter(|p| !known(&p.name)) {
            faults.push(format!("plugins.{point}.enabled: plugin {:?} does not exist", plugin.name));
        }
    }
    let takes_part =
        |point: &PluginSet, name: &str| enabled(point, name).is_some() || !disabled(point, name) && in_general(plugins_of(said), name);
    for (point, set, name) in
        [("queueSort", &plugins.queue_sort, SORT), ("bind", &plugins.bind, BIND), ("preEnqueue", &plugins.pre_enqueue, GATES)]
    {
        if !takes_part(set, name) {
            faults.push(format!("plugins.{point}: at least one plugin is needed, and {name} is the only one"));
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let slots = all.into_iter().filter_map(|slot| {
        let name = slot.plugin.name();
        let filters = slot.filters && takes_part(&plugins.filter, name) && takes_part(&plugins.pre_filter, name);
        let weight = enabled(&plugins.score, name).or(enabled(&plugins.multi_point, name)).and_then(|p| p.weight).filter(|w| *w > 0);
        let scores = slot.weight > 0 && takes_part(&plugins.score, name);
        let weight = if scores { weight.unwrap_or(slot.weight) } else { 0 };
        (filters || weight > 0).then_some(Slot { filters, weight, ..slot })
    });
    Ok(ProfileSpec {
        name: said.scheduler_name.clone().unwrap_or_else(|| DEFAULT_SCHEDULER.into()),
        slots: slots.collect(),
        preemption: takes_part(&plugins.post_filter, PREEMPT).then_some(told.limits),
        bind_timeout: told.bind_timeout,
        devices: told.arguments.devices,
        percentage: said.percentage_of_nodes_to_score.map_or(0, |n| n.unsigned_abs() as usize),
    })
}

fn plugins_of(said: &Profile) -> &PluginSet {
    &said.plugins.multi_point
}

fn enabled<'a>(set: &'a PluginSet, name: &str) -> Option<&'a Plugin> {
    set.enabled.iter().find(|p| p.name == name)
}

fn disabled(set: &PluginSet, name: &str) -> bool {
    set.disabled.iter().any(|p| p.name == name || p.name == "*")
}

/// Whether a plugin takes part wherever nothing else is said.
fn in_general(multi_point: &PluginSet, name: &str) -> bool {
    enabled(multi_point, name).is_some() || !disabled(multi_point, name)
}

pub(super) fn arguments(said: &Profile, faults: &mut Vec<String>) -> Told {
    let mut told = Told { arguments: Arguments::default(), limits: Limits::default(), bind_timeout: BIND_TIMEOUT };
    for (n, config) in said.plugin_config.iter().enumerate() {
        if said.plugin_config[..n].iter().any(|other| other.name == config.name) {
            faults.push(format!("pluginConfig[{n}]: Duplicate value: {:?}", config.name));
        }
        let read = match config.name.as_str() {
            "NodeResourcesFit" => config.read().and_then(|args| fit(args, &mut told)),
            "NodeResourcesBalancedAllocation" => config.read().and_then(|args| balanced(args, &mut told)),
            "PodTopologySpread" => config.read().and_then(|args| spreading(&args, &mut told)),
            "InterPodAffinity" => config.read().and_then(|args| inter_pod(&args, &mut told)),
            "NodeAffinity" => config.read().and_then(|args| affinity(&args, &mut told)),
            PREEMPT => config.read().and_then(|args| preemption(&args, &mut told)),
            "VolumeBinding" => config.read::<VolumeBindingArgs>().and_then(|args| match args.bind_timeout_seconds {
                Some(n) if n < 0 => {
                    Err(format!("bindTimeoutSeconds: Invalid value: {n}: invalid BindTimeoutSeconds, should not be a negative value"))
                }
                Some(n) => {
                    told.bind_timeout = Duration::from_secs(n.unsigned_abs());
                    Ok(())
                }
                None => Ok(()),
            }),
            "DynamicResources" => config.read().and_then(|args| devices(&args, &mut told)),
            other => Err(format!("no arguments are known of plugin {other:?}")),
        };
        if let Err(fault) = read {
            faults.push(format!("pluginConfig[{n}]: {fault}"));
        }
    }
    told
}

fn affinity(args: &NodeAffinityArgs, told: &mut Told) -> Result<(), String> {
    told.arguments.added_affinity = args.added_affinity.as_ref().map_or(Value::Null, tree);
    let errors = fram_api::strategy::node_affinity_errors(&told.arguments.added_affinity, "addedAffinity");
    errors.first().map_or(Ok(()), |error| Err(error.to_string()))
}

fn fit(args: FitArgs, told: &mut Told) -> Result<(), String> {
    let fit = &mut told.arguments.fit;
    (fit.ignored, fit.ignored_groups) = (args.ignored_resources, args.ignored_resource_groups);
    let names = [("ignoredResources", &fit.ignored), ("ignoredResourceGroups", &fit.ignored_groups)];
    for (field, name) in names.into_iter().flat_map(|(field, names)| names.iter().map(move |name| (field, name))) {
        if let Err(why) = qualified_name(name) {
            return Err(format!("{field}: Invalid value: {name:?}: {why}"));
        }
    }
    if let Some(group) = fit.ignored_groups.iter().find(|g| g.contains('/')) {
        return Err(format!("ignoredResourceGroups: Invalid value: {group:?}: resource group name can't contain '/'"));
    }
    let Some(strategy) = args.scoring_strategy else { return Ok(()) };
    fit.ranking = ranking(&strategy)?;
    if strategy.requested_to_capacity_ratio.is_some() && strategy.kind != "RequestedToCapacityRatio" {
        let why = "must be nil when type is not RequestedToCapacityRatio";
        return Err(format!("scoringStrategy.requestedToCapacityRatio: Forbidden: {why}"));
    }
    if !strategy.resources.is_empty() {
        // A weight that is not said is one.
        fit.resources = strategy.resources.into_iter().map(|r| (r.name, if r.weight == 0 { 1 } else { r.weight })).collect();
    }
    match fit.resources.iter().find(|(_, weight)| !(1..=100).contains(weight)) {
        Some((name, weight)) => {
            Err(format!("scoringStrategy.resources: Invalid value: {weight}: resource weight of {name} not in valid range [1, 100]"))
        }
        None => Ok(()),
    }
}

fn ranking(strategy: &ScoringStrategy) -> Result<Ranking, String> {
    match strategy.kind.as_str() {
        "" | "LeastAllocated" => Ok(Ranking::LeastAllocated),
        "MostAllocated" => Ok(Ranking::MostAllocated),
        "RequestedToCapacityRatio" => {
            let points = strategy.requested_to_capacity_ratio.as_ref().map(|s| s.shape.as_slice()).unwrap_or_default();
            let shape: Vec<(i64, i64)> = points.iter().map(|p| (p.utilization, p.score)).collect();
            if shape.is_empty() {
                return Err("scoringStrategy.requestedToCapacityRatio.shape: Required value: at least one point must be specified".into());
            }
            if !shape.is_sorted_by(|a, b| a.0 < b.0) {
                return Err("scoringStrategy.requestedToCapacityRatio.shape: utilization values must be sorted in increasing order".into());
            }
            match shape.iter().all(|(x, y)| (0..=100).contains(x) && (0..=10).contains(y)) {
                true => Ok(Ranking::RequestedToCapacityRatio(shape.into_iter().map(|(x, y)| (x, y * (MAX_SCORE / 10))).collect())),
                false => Err("scoringStrategy.requestedToCapacityRatio.shape: not in valid range: utilization 0-100, score 0-10".into()),
            }
        }
        other => Err(format!(
            "scoringStrategy.type: Unsupported value: {other:?}: supported values: LeastAllocated, MostAllocated, RequestedToCapacityRatio"
        )),
    }
}

fn devices(args: &DynamicResourcesArgs, told: &mut Told) -> Result<(), String> {
    if let Some(text) = &args.filter_timeout {
        match parse_duration(text).and_then(|n| u64::try_from(n).ok()) {
            Some(nanos) => told.arguments.devices.steps = steps_within(Duration::from_nanos(nanos)),
            None => return Err(format!("filterTimeout: Invalid value: {text:?}: must be zero or positive")),
        }
    }
    let Some(text) = &args.binding_timeout else { return Ok(()) };
    let nanos = parse_duration(text).and_then(|n| u64::try_from(n).ok());
    match nanos.map(Duration::from_nanos).filter(|timeout| *timeout >= Duration::from_secs(1)) {
        Some(timeout) => {
            told.arguments.devices.patience = timeout;
            Ok(())
        }
        None => Err(format!("bindingTimeout: Invalid value: {text:?}: must be at least 1 second")),
    }
}

fn balanced(args: BalancedArgs, told: &mut Told) -> Result<(), String> {
    // A weight that is not said is one.
    for (n, r) in args.resources.iter().enumerate() {
        if args.resources[..n].iter().any(|other| other.name == r.name) {
            return Err(format!("resources[{n}].name: Duplicate value: {:?}", r.name));
        }
        if !matches!(r.weight, 0 | 1) {
            return Err(format!("resources[{n}].weight: Invalid value: {}: must be 1", r.weight));
        }
    }
    if !args.resources.is_empty() {
        told.arguments.balanced = args.resources.into_iter().map(|r| r.name).collect();
    }
    Ok(())
}

fn spreading(args: &SpreadArgs, told: &mut Told) -> Result<(), String> {
    match args.defaulting_type.as_str() {
        "" | "System" if args.default_constraints.is_empty() => Ok(()),
        "List" => {
            let constraints: Vec<Value> = args.default_constraints.iter().map(tree).collect();
            if constraints.iter().any(|c| c.get("labelSelector").is_some_and(|s| !s.is_null())) {
                return Err(
                    "defaultConstraints.labelSelector: Forbidden: constraint must not define a selector, as they deduced for each pod"
                        .into(),
                );
            }
            let sound = |c: &Value| {
                !c.str_at(&["topologyKey"]).is_empty()
                    && c.int_at(&["maxSkew"]).is_some_and(|n| n > 0)
                    && matches!(c.str_at(&["whenUnsatisfiable"]), "DoNotSchedule" | "ScheduleAnyway")
            };
            let twin = |a: &Value, b: &Value| ["topologyKey", "whenUnsatisfiable"].iter().all(|f| a.str_at(&[f]) == b.str_at(&[f]));
            if let Some(n) = (1..constraints.len()).find(|n| constraints[..*n].iter().any(|other| twin(other, &constraints[*n]))) {
                let [key, when] = ["topologyKey", "whenUnsatisfiable"].map(|field| constraints[n].str_at(&[field]));
                return Err(format!("defaultConstraints[{n}].{{topologyKey, whenUnsatisfiable}}: Duplicate value: \"{{{key}, {when}}}\""));
            }
            if !constraints.iter().all(sound) {
                return Err("defaultConstraints: each needs a topologyKey, a positive maxSkew and whenUnsatisfiable".into());
            }
            told.arguments.spreading = Some(constraints);
            Ok(())
        }
        "" | "System" => Err("defaultingType: Invalid value: \"System\": when .defaultConstraints are not empty".into()),
        other => Err(format!("defaultingType: Unsupported value: {other:?}: supported values: System, List")),
    }
}

fn inter_pod(args: &InterPodArgs, told: &mut Told) -> Result<(), String> {
    let weight = args.hard_pod_affinity_weight.unwrap_or(1);
    told.arguments.hard_pod_affinity_weight = weight;
    told.arguments.ignore_preferred_terms_of_existing_pods = args.ignore_preferred_terms_of_existing_pods;
    match (0..=100).contains(&weight) {
        true => Ok(()),
        false => Err(format!("hardPodAffinityWeight: Invalid value: {weight}: not in valid range [0-100]")),
    }
}

fn preemption(args: &PreemptionArgs, told: &mut Told) -> Result<(), String> {
    let Limits { percentage, absolute } = Limits::default();
    let percentage = args.min_candidate_nodes_percentage.unwrap_or(percentage as i64);
    let absolute = args.min_candidate_nodes_absolute.unwrap_or(absolute as i64);
    if !(0..=100).contains(&percentage) {
        return Err(format!("minCandidateNodesPercentage: Invalid value: {percentage}: not in valid range [0, 100]"));
    }
    if absolute < 0 || (percentage, absolute) == (0, 0) {
        return Err(format!("minCandidateNodesAbsolute: Invalid value: {absolute}: both cannot be zero, and none is negative"));
    }
    told.limits = Limits { percentage: percentage.unsigned_abs() as usize, absolute: absolute.unsigned_abs() as usize };
    Ok(())
}
