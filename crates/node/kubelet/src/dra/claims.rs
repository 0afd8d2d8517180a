//! Which claims pods of this node use, what their drivers have prepared, and what of it a container gets. Pure; see upstream's
//! pkg/kubelet/cm/dra/claiminfo.go.

use std::collections::{BTreeMap, BTreeSet};

use fram_machinery::{Map, Value, meta, object};

/// A device that a driver has prepared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) pool: String,
    pub(crate) name: String,
    pub(crate) share_id: String,
    /// The requests of the claim that it is for; none for all of them.
    pub(crate) requests: Vec<String>,
    pub(crate) cdi_ids: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) uid: String,
    pub(crate) pods: BTreeSet<String>,
    /// What each driver of the allocation has prepared.
    pub(crate) drivers: BTreeMap<String, Vec<Device>>,
    pub(crate) prepared: bool,
    /// Its drivers are taking it back from its last pod. Not on disk: after a restart that pod has it taken back anew.
    pub(crate) leaving: bool,
}

/// By namespace and name.
pub(crate) type Claims = BTreeMap<(String, String), Claim>;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClaimError {
    #[error("pod claim {0}: resource claim not created yet")]
    NotCreated(String),
    #[error("ResourceClaim {0} was not created for pod {1}")]
    OfAnother(String, String),
    #[error("pod {pod} ({uid}) is not allowed to use ResourceClaim {claim} ({claim_uid})")]
    NotReserved { pod: String, uid: String, claim: String, claim_uid: String },
    #[error("ResourceClaim {0}: not allocated")]
    NotAllocated(String),
    #[error("ResourceClaim {0} is being taken back from its last pod")]
    Leaving(String),
    #[error("old ResourceClaim with same name {0} and different UID {1} still exists (previous pod force-deleted?!)")]
    Former(String, String),
}

/// A claim of a pod: its name in the pod, that of the object, and whether the object is made for the pod.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wanted<'a> {
    pub(crate) entry: &'a str,
    pub(crate) name: &'a str,
    made: bool,
}

/// The claims of a pod; those of which no object was needed are left out. See resourceclaim.Name.
pub(crate) fn wanted(pod: &Value) -> Result<Vec<Wanted<'_>>, ClaimError> {
    let mut out = Vec::new();
    for claim in pod.list_at(&["spec", "resourceClaims"]) {
        let entry = claim.str_at(&["name"]);
        let own = claim.str_at(&["resourceClaimName"]);
        if !own.is_empty() {
            out.push(Wanted { entry, name: own, made: false });
            continue;
        }
        let told = pod.list_at(&["status", "resourceClaimStatuses"]).iter().find(|s| s.str_at(&["name"]) == entry);
        let told = told.ok_or_else(|| ClaimError::NotCreated(entry.into()))?;
        let name = told.str_at(&["resourceClaimName"]);
        if !name.is_empty() {
            out.push(Wanted { entry, name, made: true });
        }
    }
    // What the scheduler has claimed for extended resources (KEP-5004).
    let extended = pod.str_at(&["status", "extendedResourceClaimStatus", "resourceClaimName"]);
    if !extended.is_empty() {
        out.push(Wanted { entry: "", name: extended, made: false });
    }
    Ok(out)
}

/// Whether the pod may use this object; gives the drivers of its allocation.
pub(crate) fn check(pod: &Value, wanted: &Wanted, object: &Value) -> Result<BTreeSet<String>, ClaimError> {
    let (name, uid) = (meta::name(object).to_string(), meta::uid(pod));
    let owners = object.list_at(&["metadata", "ownerReferences"]);
    if wanted.made && !owners.iter().any(|o| o.str_at(&["uid"]) == uid && o.bool_at(&["controller"]) == Some(true)) {
        return Err(ClaimError::OfAnother(name, meta::key(pod)));
    }
    let reserved =
        object.list_at(&["status", "reservedFor"]).iter().any(|r| r.str_at(&["uid"]) == uid && r.str_at(&["resource"]) == "pods");
    if !reserved {
        let claim_uid = meta::uid(object).to_string();
        return Err(ClaimError::NotReserved { pod: meta::name(pod).into(), uid: uid.into(), claim: name, claim_uid });
    }
    let allocation = object.at(&["status", "allocation"]).ok_or(ClaimError::NotAllocated(name))?;
    Ok(allocation.list_at(&["devices", "results"]).iter().map(|r| r.str_at(&["driver"]).to_string()).collect())
}

/// Notes that a pod uses a claim; true where its drivers are still to prepare it.
pub(crate) fn refer(claims: &mut Claims, object: &Value, drivers: BTreeSet<String>, pod_uid: &str) -> Result<bool, ClaimError> {
    let (name, uid) = (meta::name(object).to_string(), meta::uid(object).to_string());
    let key = (meta::namespace(object).to_string(), name.clone());
    let fresh = || Claim { uid: uid.clone(), drivers: drivers.into_iter().map(|d| (d, Vec::new())).collect(), ..Claim::default() };
    let claim = claims.entry(key).or_insert_with(fresh);
    if claim.uid != uid {
        return Err(ClaimError::Former(name, claim.uid.clone()));
    }
    if claim.leaving {
        return Err(ClaimError::Leaving(name));
    }
    claim.pods.insert(pod_uid.to_string());
    Ok(!claim.prepared)
}

/// The claims of which a pod is the last user; from the others it is taken off.
pub(crate) fn leave(claims: &mut Claims, pod_uid: &str) -> Vec<(String, String)> {
    let mut last = Vec::new();
    for (key, claim) in claims.iter_mut().filter(|(_, c)| c.pods.contains(pod_uid)) {
        if claim.pods.len() > 1 {
            claim.pods.remove(pod_uid);
        } else {
            // Who comes from now on has it prepared anew, once it is taken back.
            (claim.prepared, claim.leaving) = (false, true);
            last.push(key.clone());
        }
    }
    last
}

/// What a container gets of the pod's claims: the names of devices as CDI has them.
pub(crate) fn devices_of<'a>(claims: &'a Claims, pod: &Value, container: &Value) -> Vec<(&'a (String, String), &'a str, &'a Device)> {
    let namespace = meta::namespace(pod);
    // The request that is asked for; none for the whole claim.
    let mut asked: Vec<(String, String)> = Vec::new();
    for wanted in wanted(pod).unwrap_or_default().iter().filter(|w| !w.entry.is_empty()) {
        let of = container.list_at(&["resources", "claims"]).iter().filter(|c| c.str_at(&["name"]) == wanted.entry);
        asked.extend(of.map(|c| (wanted.name.to_string(), c.str_at(&["request"]).to_string())));
    }
    let extended = pod.at(&["status", "extendedResourceClaimStatus"]);
    let mappings = extended.map(|e| e.list_at(&["requestMappings"])).unwrap_or_default();
    for mapping in mappings.iter().filter(|m| m.str_at(&["containerName"]) == container.str_at(&["name"])) {
        let claim = extended.map(|e| e.str_at(&["resourceClaimName"])).unwrap_or_default();
        asked.push((claim.to_string(), mapping.str_at(&["requestName"]).to_string()));
    }
    let mut out = Vec::new();
    for (name, request) in asked {
        let Some((key, claim)) = claims.get_key_value(&(namespace.to_string(), name)) else { continue };
        // A request with alternatives is told as `request/alternative`.
        let is_for = |d: &&Device| {
            let named = |r: &String| *r == request || r.strip_prefix(request.as_str()).is_some_and(|rest| rest.starts_with('/'));
            request.is_empty() || d.requests.is_empty() || d.requests.iter().any(named)
        };
        for (driver, devices) in &claim.drivers {
            out.extend(devices.iter().filter(is_for).map(|d| (key, driver.as_str(), d)));
        }
    }
    out
}

/// What has to be known after a kill.
pub(crate) fn document(claims: &Claims) -> Value {
    let texts = |list: &[String]| list.iter().map(|t| t.as_str().into()).collect::<Vec<Value>>();
    let device = |d: &Device| {
        object!({ "poolName": (d.pool.as_str()), "deviceName": (d.name.as_str()), "shareID": (d.share_id.as_str()),
            "requestNames": (texts(&d.requests)), "cdiDeviceIDs": (texts(&d.cdi_ids)) })
    };
    let one = |((namespace, name), claim): (&(String, String), &Claim)| {
        let drivers: Map =
            claim.drivers.iter().map(|(driver, devices)| (driver.as_str(), devices.iter().map(device).collect::<Vec<_>>())).collect();
        object!({ "namespace": (namespace.as_str()), "claimName": (name.as_str()), "claimUID": (claim.uid.as_str()),
            "podUIDs": (claim.pods.iter().map(|p| p.as_str().into()).collect::<Vec<Value>>()), "drivers": drivers, "prepared": (claim.prepared) })
    };
    object!({ "version": 1, "claims": (claims.iter().map(one).collect::<Vec<_>>()) })
}

pub(crate) fn recall(document: &Value) -> Claims {
    let texts = |value: &Value, key: &str| value.list_at(&[key]).iter().filter_map(Value::as_str).map(String::from).collect::<Vec<_>>();
    let device = |d: &Value| Device {
        pool: d.str_at(&["poolName"]).into(),
        name: d.str_at(&["deviceName"]).into(),
        share_id: d.str_at(&["shareID"]).into(),
        requests: texts(d, "requestNames"),
        cdi_ids: texts(d, "cdiDeviceIDs"),
    };
    let one = |claim: &Value| {
        let key = (claim.str_at(&["namespace"]).to_string(), claim.str_at(&["claimName"]).to_string());
        let drivers = claim.get("drivers").and_then(Value::as_map).into_iter().flat_map(|m| m.iter());
        let drivers =
            drivers.map(|(name, list)| (name.to_string(), list.as_list().into_iter().flat_map(|l| l.iter()).map(device).collect()));
        let info = Claim {
            uid: claim.str_at(&["claimUID"]).into(),
            pods: texts(claim, "podUIDs").into_iter().collect(),
            drivers: drivers.collect(),
            prepared: claim.bool_at(&["prepared"]) == Some(true),
            leaving: false,
        };
        (key, info)
    };
    document.list_at(&["claims"]).iter().map(one).collect()
}

/// How the devices of each claim of a container are. `health` tells it of a driver's device in a pool, with what is said of it.
pub(crate) fn health_of<'a>(
    claims: &Claims,
    pod: &Value,
    container: &Value,
    health: impl Fn(&str, &str, &str) -> (&'static str, &'a str),
) -> Vec<Value> {
    let wanted = wanted(pod).unwrap_or_default();
    let mut out = Vec::new();
    for used in container.list_at(&["resources", "claims"]) {
        let (entry, request) = (used.str_at(&["name"]), used.str_at(&["request"]));
        let Some(one) = wanted.iter().find(|w| w.entry == entry) else { continue };
        let Some(claim) = claims.get(&(meta::namespace(pod).to_string(), one.name.to_string())) else { continue };
        let base = request.split('/').next().unwrap_or_default();
        let mut resources: Vec<Value> = Vec::new();
        for (driver, device) in claim.drivers.iter().flat_map(|(driver, devices)| devices.iter().map(move |d| (driver, d))) {
            if !request.is_empty() && !device.requests.is_empty() && !device.requests.iter().any(|r| r == base) {
                continue;
            }
            let id = device.cdi_ids.first().cloned().unwrap_or_else(|| format!("{driver}/{}/{}", device.pool, device.name));
            if resources.iter().any(|r| r.str_at(&["resourceID"]) == id) {
                continue;
            }
            let (word, message) = health(driver, &device.pool, &device.name);
            let mut resource = object!({ "resourceID": id, "health": word });
            if !message.is_empty() {
                resource.set(&["message"], message);
            }
            resources.push(resource);
        }
        if !resources.is_empty() {
            let name = if request.is_empty() { format!("claim:{entry}") } else { format!("claim:{entry}/{request}") };
            out.push(object!({ "name": name, "resources": resources }));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Value {
        object!({
            "metadata": { "namespace": "ns", "name": "p", "uid": "u" },
            "spec": { "resourceClaims": [{ "name": "own", "resourceClaimName": "c" }, { "name": "made", "resourceClaimTemplateName": "t" }] },
            "status": { "resourceClaimStatuses": [{ "name": "made", "resourceClaimName": "p-made" }] }
        })
    }

    fn object(name: &str, pod: &str) -> Value {
        object!({
            "metadata": { "namespace": "ns", "name": name, "uid": (format!("{name}-uid")), "ownerReferences": [{ "uid": "u", "controller": true }] },
            "status": { "reservedFor": [{ "resource": "pods", "uid": pod }], "allocation": { "devices": { "results": [{ "driver": "d.example" }] } } }
        })
    }

    #[test]
    fn a_pod_uses_what_is_reserved_for_it_and_made_for_it() {
        let pod = pod();
        let claims = wanted(&pod).unwrap();
        assert_eq!(claims.iter().map(|w| (w.entry, w.name)).collect::<Vec<_>>(), [("own", "c"), ("made", "p-made")]);
        assert_eq!(check(&pod, &claims[1], &object("p-made", "u")), Ok(["d.example".to_string()].into()));
        assert!(matches!(check(&pod, &claims[0], &object("c", "other")), Err(ClaimError::NotReserved { .. })));
        let mut foreign = object("p-made", "u");
        foreign.remove(&["metadata", "ownerReferences"]);
        assert!(matches!(check(&pod, &claims[1], &foreign), Err(ClaimError::OfAnother(..))));
        assert!(check(&pod, &claims[0], &foreign).is_ok());
        let mut idle = object("c", "u");
        idle.remove(&["status", "allocation"]);
        assert_eq!(check(&pod, &claims[0], &idle), Err(ClaimError::NotAllocated("c".into())));
        let mut early = pod.clone();
        early.remove(&["status"]);
        assert_eq!(wanted(&early), Err(ClaimError::NotCreated("made".into())));
    }

    #[test]
    fn a_claim_is_prepared_once_and_given_up_by_its_last_pod() {
        let (mut claims, object) = (Claims::new(), object("c", "u"));
        let drivers = || BTreeSet::from(["d.example".to_string()]);
        let key = ("ns".to_string(), "c".to_string());
        assert_eq!(refer(&mut claims, &object, drivers(), "u"), Ok(true));
        claims.get_mut(&key).unwrap().prepared = true;
        assert_eq!(refer(&mut claims, &object, drivers(), "v"), Ok(false));
        assert_eq!(leave(&mut claims, "u"), []);
        assert_eq!(leave(&mut claims, "u"), []);
        assert_eq!(leave(&mut claims, "v"), std::slice::from_ref(&key));
        let mut other = object.clone();
        other.set(&["metadata", "uid"], "new");
        assert!(matches!(refer(&mut claims, &other, drivers(), "w"), Err(ClaimError::Former(..))));
    }

    #[test]
    fn a_container_gets_the_devices_of_its_requests_and_all_is_known_after_a_kill() {
        let device = |name: &str, requests: &[&str]| Device {
            name: name.into(),
            requests: requests.iter().map(ToString::to_string).collect(),
            cdi_ids: vec![format!("v/c={name}")],
            ..Device::default()
        };
        let devices = vec![device("a", &["one"]), device("b", &["two/big"]), device("c", &[])];
        let claim = Claim { uid: "x".into(), drivers: [("d".to_string(), devices)].into(), prepared: true, ..Claim::default() };
        let claims = Claims::from([(("ns".to_string(), "c".to_string()), claim)]);
        let names = |request: Value| {
            let container = object!({ "name": "x", "resources": { "claims": [request] } });
            devices_of(&claims, &pod(), &container).into_iter().map(|(_, _, d)| d.name.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(names(object!({ "name": "own" })), ["a", "b", "c"]);
        assert_eq!(names(object!({ "name": "own", "request": "one" })), ["a", "c"]);
        assert_eq!(names(object!({ "name": "own", "request": "two" })), ["b", "c"]);
        assert!(names(object!({ "name": "made" })).is_empty());
        assert_eq!(recall(&document(&claims)), claims);
    }

    #[test]
    fn a_container_has_the_health_of_the_devices_of_its_own_requests() {
        let device = |name: &str, request: &str, cdi: &str| Device {
            pool: "p".into(),
            name: name.into(),
            requests: vec![request.into()],
            cdi_ids: if cdi.is_empty() { Vec::new() } else { vec![cdi.into()] },
            ..Device::default()
        };
        let claim = Claim {
            drivers: BTreeMap::from([("d".to_string(), vec![device("a", "r", "x/y=a"), device("b", "s", ""), device("c", "s", "x/y=a")])]),
            ..Claim::default()
        };
        let claims = Claims::from([(("ns".to_string(), "c1".to_string()), claim)]);
        let pod =
            object!({ "metadata": { "namespace": "ns" }, "spec": { "resourceClaims": [{ "name": "rc", "resourceClaimName": "c1" }] } });
        let of = |used: Value| {
            let container = object!({ "resources": { "claims": [used] } });
            health_of(&claims, &pod, &container, |_, _, device| if device == "a" { ("Healthy", "") } else { ("Unhealthy", "hot") })
        };
        let one = object!({ "name": "claim:rc/s", "resources": [
            { "resourceID": "d/p/b", "health": "Unhealthy", "message": "hot" }, { "resourceID": "x/y=a", "health": "Unhealthy", "message": "hot" }] });
        assert_eq!(of(object!({ "name": "rc", "request": "s" })), [one]);
        let all = of(object!({ "name": "rc" }));
        let ids: Vec<&str> = all[0].list_at(&["resources"]).iter().map(|r| r.str_at(&["resourceID"])).collect();
        assert_eq!((all[0].str_at(&["name"]), ids), ("claim:rc", vec!["x/y=a", "d/p/b"]));
        assert_eq!(of(object!({ "name": "other" })), Vec::<Value>::new());
    }
}
