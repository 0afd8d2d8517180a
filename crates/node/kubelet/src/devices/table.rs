//! Which devices there are, who has which of them, and which ones a container gets. Pure; see upstream's
//! pkg/kubelet/cm/devicemanager.

use std::collections::{BTreeMap, BTreeSet};

use fram_machinery::{Map, Value, meta, object};

use crate::pod::{self, resources};
use crate::resource::cpuset::CpuSet;
use crate::resource::topology::{self, Hint, Hints};

/// A device as its plugin tells of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) healthy: bool,
    /// Empty where the plugin says nothing of it.
    pub(crate) nodes: CpuSet,
}

pub(crate) type Devices = BTreeMap<String, Known>;

/// What a container has of one resource: pod, container, resource.
pub(crate) type Place = (String, String, String);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// By resource.
    pub(crate) known: BTreeMap<String, Devices>,
    pub(crate) held: BTreeMap<Place, BTreeSet<String>>,
}

/// There are not enough.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("requested number of devices unavailable for {resource}. Requested: {wanted}, Available: {available}")]
pub(crate) struct TooFew {
    resource: String,
    wanted: usize,
    available: usize,
}

impl Table {
    /// The resources of plugins that a container asks for, with how many.
    pub(crate) fn asked(&self, container: &Value) -> Vec<(String, usize)> {
        let limits = container.at(&["resources", "limits"]).and_then(Value::as_map);
        let ours = limits.into_iter().flat_map(|m| m.iter()).filter(|(name, _)| self.known.contains_key(name.as_str()));
        let count = |v: &Value| resources::parse(v).and_then(|q| usize::try_from(q.value()).ok()).filter(|n| *n > 0);
        ours.filter_map(|(name, amount)| Some((name.to_string(), count(amount)?))).collect()
    }

    /// How the devices of a container are, by resource. One that its plugin has never told of passes for well, as upstream has it.
    pub(crate) fn health_of(&self, uid: &str, container: &str) -> Vec<Value> {
        let own = self.held.iter().filter(|((of, name, _), ids)| of == uid && name == container && !ids.is_empty());
        let status = |((_, _, resource), ids): (&Place, &BTreeSet<String>)| {
            let known = self.known.get(resource);
            let is_well = |id: &String| known.and_then(|devices| devices.get(id)).is_none_or(|device| device.healthy);
            let one = |id: &String| object!({ "resourceID": (id.as_str()), "health": (if is_well(id) { "Healthy" } else { "Unhealthy" }) });
            object!({ "name": (resource.as_str()), "resources": (ids.iter().map(one).collect::<Vec<Value>>()) })
        };
        own.map(status).collect()
    }

    /// Healthy devices that nobody has.
    pub(crate) fn free(&self, resource: &str) -> BTreeSet<String> {
        let held: BTreeSet<&String> = self.held.iter().filter(|((_, _, r), _)| r == resource).flat_map(|(_, ids)| ids).collect();
        let known = self.known.get(resource).into_iter().flatten();
        known.filter(|(id, device)| device.healthy && !held.contains(id)).map(|(id, _)| id.clone()).collect()
    }

    /// Reserves devices for all containers of a pod, or for none. Main containers have again what init containers had.
    /// `affinity` says on which NUMA nodes a container should be.
    pub(crate) fn reserve(&mut self, pod: &Value, affinity: impl Fn(&str) -> Option<CpuSet>) -> Result<bool, TooFew> {
        let uid = meta::uid(pod).to_string();
        let mut trial = self.clone();
        let mut reusable: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let containers =
            pod::init_containers(pod).iter().map(|c| (c, !pod::is_sidecar(c))).chain(pod::containers(pod).iter().map(|c| (c, false)));
        for (container, passes_on) in containers {
            let name = pod::container_name(container);
            for (resource, wanted) in trial.asked(container) {
                let again = reusable.entry(resource.clone()).or_default();
                let chosen = trial.choose(&resource, wanted, again, affinity(name).as_ref())?;
                if passes_on {
                    again.extend(chosen.iter().cloned());
                } else {
                    again.retain(|id| !chosen.contains(id));
                }
                trial.held.insert((uid.clone(), name.to_string(), resource), chosen);
            }
        }
        let any = trial != *self;
        *self = trial;
        Ok(any)
    }

    /// Those that can be had again first, then those on the wanted nodes, then those of which nothing is said, then the others.
    fn choose(&self, resource: &str, wanted: usize, again: &BTreeSet<String>, nodes: Option<&CpuSet>) -> Result<BTreeSet<String>, TooFew> {
        let free = self.free(resource);
        let available = free.union(again).count();
        if available < wanted {
            return Err(TooFew { resource: resource.to_string(), wanted, available });
        }
        let distance = |id: &&String| {
            let own = self.known.get(resource).and_then(|d| d.get(*id)).map(|d| &d.nodes).filter(|n| !n.is_empty());
            let near = match (own, nodes) {
                (Some(own), Some(wanted)) => {
                    if own.intersection(wanted).is_empty() {
                        2
                    } else {
                        0
                    }
                }
                (None, Some(_)) => 1,
                (_, None) => 0,
            };
            (!again.contains(*id), near)
        };
        let mut sorted: Vec<&String> = free.union(again).collect();
        sorted.sort_by_key(distance);
        Ok(sorted.into_iter().take(wanted).cloned().collect())
    }

    /// On which nodes a container could have its devices, one list for each resource of which plugins say where they are.
    pub(crate) fn hints(&self, container: &Value, nodes: &CpuSet) -> Vec<Hints> {
        let hints = |(resource, wanted): (String, usize)| {
            let devices = self.known.get(&resource)?;
            if devices.values().all(|d| d.nodes.is_empty()) {
                return None;
            }
            let free = self.free(&resource);
            let count = |of: &CpuSet, free_only: bool| {
                let on = |d: &Known| d.nodes.is_empty() || !d.nodes.intersection(of).is_empty();
                let number = devices.iter().filter(|(id, d)| on(d) && (!free_only || free.contains(*id))).count();
                i64::try_from(number).unwrap_or(i64::MAX)
            };
            let wanted = i64::try_from(wanted).unwrap_or(i64::MAX);
            let made: Vec<Hint> = topology::hints(nodes, wanted, |of| count(of, false), |of| Some(count(of, true)));
            Some(made)
        };
        self.asked(container).into_iter().map(hints).collect()
    }

    /// Takes devices in exchange for those that a container has, where they are its own or free.
    pub(crate) fn exchange(&mut self, place: &Place, ids: BTreeSet<String>) -> bool {
        let Some(own) = self.held.get(place) else { return false };
        let free = self.free(&place.2);
        let fits = ids.len() == own.len() && ids.iter().all(|id| own.contains(id) || free.contains(id));
        if fits {
            self.held.insert(place.clone(), ids);
        }
        fits
    }

    /// Gives back what a pod has; true where that was something.
    pub(crate) fn release(&mut self, uid: &str) -> bool {
        let before = self.held.len();
        self.held.retain(|(of, _, _), _| of != uid);
        before != self.held.len()
    }

    /// Capacity and what is healthy of it, by resource.
    pub(crate) fn amounts(&self) -> BTreeMap<String, (usize, usize)> {
        self.known.iter().map(|(name, devices)| (name.clone(), (devices.len(), devices.values().filter(|d| d.healthy).count()))).collect()
    }
}

/// What has to be known after a kill: who has what. Resources stand in it, so that what they were is known before their plugins
/// come back.
pub(crate) fn document(table: &Table, prepared: &BTreeMap<Place, Vec<u8>>) -> Value {
    let entry = |(place, ids): (&Place, &BTreeSet<String>)| {
        use base64::Engine;
        let answer = prepared.get(place).map(|bytes| base64::engine::general_purpose::STANDARD.encode(bytes)).unwrap_or_default();
        object!({
            "podUID": (place.0.as_str()), "containerName": (place.1.as_str()), "resourceName": (place.2.as_str()),
            "deviceIDs": (ids.iter().map(|id| id.as_str().into()).collect::<Vec<Value>>()), "allocResp": answer
        })
    };
    let registered: Map = table
        .known
        .iter()
        .map(|(name, devices)| (name.as_str(), devices.keys().map(|id| id.as_str().into()).collect::<Vec<Value>>()))
        .collect();
    object!({ "podDeviceEntries": (table.held.iter().map(entry).collect::<Vec<_>>()), "registeredDevices": registered })
}

/// Who has what, and what plugins answered. Devices count as unhealthy until their plugins say otherwise.
pub(crate) fn recall(document: &Value) -> (Table, BTreeMap<Place, Vec<u8>>) {
    use base64::Engine;
    let (mut table, mut prepared) = (Table::default(), BTreeMap::new());
    for entry in document.list_at(&["podDeviceEntries"]) {
        let text = |key: &str| entry.str_at(&[key]).to_string();
        let place = (text("podUID"), text("containerName"), text("resourceName"));
        let ids = entry.list_at(&["deviceIDs"]).iter().filter_map(Value::as_str).map(String::from).collect();
        if let Some(bytes) = base64::engine::general_purpose::STANDARD.decode(text("allocResp")).ok().filter(|b| !b.is_empty()) {
            prepared.insert(place.clone(), bytes);
        }
        table.held.insert(place, ids);
    }
    for (name, ids) in document.get("registeredDevices").and_then(Value::as_map).into_iter().flat_map(|m| m.iter()) {
        let ids = ids.as_list().into_iter().flat_map(|l| l.iter()).filter_map(Value::as_str);
        table.known.insert(name.to_string(), ids.map(|id| (id.to_string(), Known::default())).collect());
    }
    (table, prepared)
}

#[cfg(test)]
mod tests {
    use super::*;

    const R: &str = "example.com/gpu";

    fn table(devices: &[(&str, &str)]) -> Table {
        let known =
            devices.iter().map(|(id, nodes)| (id.to_string(), Known { healthy: true, nodes: CpuSet::parse(nodes).unwrap() })).collect();
        Table { known: [(R.to_string(), known)].into(), held: BTreeMap::new() }
    }

    fn pod(uid: &str, containers: &[(&str, i64)], init: &[(&str, i64)]) -> Value {
        let one =
            |(name, n): &(&str, i64)| object!({ "name": (*name), "resources": { "limits": { "example.com/gpu": (*n), "cpu": "1" } } });
        let list = |l: &[(&str, i64)]| l.iter().map(one).collect::<Vec<_>>();
        object!({ "metadata": { "uid": uid }, "spec": { "containers": (list(containers)), "initContainers": (list(init)) } })
    }

    fn has(table: &Table, uid: &str, container: &str) -> Vec<String> {
        table.held[&(uid.to_string(), container.to_string(), R.to_string())].iter().cloned().collect()
    }

    #[test]
    fn a_pod_gets_all_its_devices_or_none_and_gives_them_back() {
        let mut table = table(&[("a", ""), ("b", ""), ("c", "")]);
        assert_eq!(table.reserve(&pod("1", &[("x", 1), ("y", 1)], &[]), |_| None), Ok(true));
        assert_eq!((has(&table, "1", "x"), has(&table, "1", "y")), (vec!["a".to_string()], vec!["b".to_string()]));
        let before = table.clone();
        let refused = table.reserve(&pod("2", &[("x", 1), ("y", 1)], &[]), |_| None).unwrap_err().to_string();
        assert_eq!(refused, "requested number of devices unavailable for example.com/gpu. Requested: 1, Available: 0");
        assert_eq!(table, before);
        assert!(table.release("1") && !table.release("1"));
        assert_eq!(table.reserve(&pod("2", &[("x", 3)], &[]), |_| None), Ok(true));
        assert_eq!(table.reserve(&pod("3", &[("x", 0)], &[]), |_| None), Ok(false));
    }

    #[test]
    fn unhealthy_devices_are_not_given_and_init_containers_pass_theirs_on() {
        let mut table = table(&[("a", ""), ("b", ""), ("c", "")]);
        table.known.get_mut(R).unwrap().get_mut("a").unwrap().healthy = false;
        assert_eq!(table.amounts()[R], (3, 2));
        table.reserve(&pod("1", &[("x", 2)], &[("i", 2)]), |_| None).unwrap();
        assert_eq!((has(&table, "1", "i"), has(&table, "1", "x")), (has(&table, "1", "x"), vec!["b".to_string(), "c".to_string()]));
    }

    #[test]
    fn devices_near_the_affinity_come_first_and_hints_say_where_they_are() {
        let mut table = table(&[("a", "0"), ("b", "1"), ("c", "1"), ("d", "")]);
        let nodes = CpuSet::parse("0-1").unwrap();
        let pod = pod("1", &[("x", 3)], &[]);
        let shown: Vec<(String, bool)> = table
            .hints(&pod::containers(&pod)[0], &nodes)
            .remove(0)
            .unwrap()
            .into_iter()
            .map(|h| (h.nodes.unwrap().to_string(), h.preferred))
            .collect();
        assert_eq!(shown, [("1".to_string(), true), ("0-1".to_string(), false)]);
        table.reserve(&pod, |_| CpuSet::parse("1")).unwrap();
        assert_eq!(has(&table, "1", "x"), ["b", "c", "d"]);
    }

    #[test]
    fn preferred_devices_are_taken_in_exchange_only_where_they_are_free() {
        let mut table = table(&[("a", ""), ("b", ""), ("c", "")]);
        table.reserve(&pod("1", &[("x", 1)], &[]), |_| None).unwrap();
        table.reserve(&pod("2", &[("x", 1)], &[]), |_| None).unwrap();
        let place = ("1".to_string(), "x".to_string(), R.to_string());
        for (id, fits) in [("b", false), ("nowhere", false), ("c", true), ("c", true)] {
            assert_eq!(table.exchange(&place, [id.to_string()].into()), fits, "{id}");
        }
        assert!(!table.exchange(&place, ["a".to_string(), "c".to_string()].into()));
    }

    #[test]
    fn who_has_what_is_known_after_a_kill_and_nothing_is_given_before_plugins_are_back() {
        let mut table = table(&[("a", ""), ("b", "")]);
        table.reserve(&pod("1", &[("x", 1)], &[]), |_| None).unwrap();
        let place = ("1".to_string(), "x".to_string(), R.to_string());
        let prepared = BTreeMap::from([(place, vec![1, 2])]);
        let (again, answers) = recall(&document(&table, &prepared));
        assert_eq!((&again.held, &answers), (&table.held, &prepared));
        assert_eq!((again.free(R).len(), again.amounts()[R]), (0, (2, 0)));
    }
}
