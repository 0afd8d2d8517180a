//! Zones of other sizes, and what they get.

use super::*;

fn node(zone: &str, cpu: &str) -> Value {
    let mut node = object!({ "metadata": { "labels": {} }, "status": { "allocatable": { "cpu": cpu },
        "conditions": [{ "type": "Ready", "status": "True" }] } });
    if !zone.is_empty() {
        meta::set_label(&mut node, "topology.kubernetes.io/zone", zone);
    }
    node
}

fn zones(of: &[(&str, &str)]) -> Zones {
    let mut zones = Zones::default();
    for (i, (zone, cpu)) in of.iter().enumerate() {
        assert!(zones.note(&i.to_string(), Some(&node(zone, cpu))));
    }
    zones
}

fn endpoints(zones: &str, ready: bool) -> Vec<Value> {
    let one = |zone: char| object!({ "conditions": { "ready": ready }, "zone": (zone.to_string()) });
    zones.chars().map(one).collect()
}

/// The zones that endpoints are for; `-` where they have no hint.
fn hints(endpoints: &[Value]) -> String {
    let one = |e: &Value| e.list_at(&["hints", "forZones"]).first().map_or("-", |zone| zone.str_at(&["name"])).to_string();
    endpoints.iter().map(one).collect()
}

#[test]
fn zones_have_the_part_of_the_processors_that_their_ready_nodes_tell() {
    let mut zones = zones(&[("a", "1"), ("b", "1500m"), ("b", "1500m")]);
    assert_eq!(zones.ratios(), Ratios::from([("a".into(), 0.25), ("b".into(), 0.75)]));
    assert!(!zones.note("0", Some(&node("a", "1000m"))), "the same in other words");
    let mut down = node("b", "1500m");
    down.set(&["status", "conditions"], object!([{ "type": "Ready", "status": "False" }]));
    assert!(zones.note("2", Some(&down)));
    assert_eq!(zones.ratios(), Ratios::from([("a".into(), 0.4), ("b".into(), 0.6)]));
    let mut control = node("", "");
    meta::set_label(&mut control, "node-role.kubernetes.io/control-plane", "");
    assert!(!zones.note("control", Some(&control)));
    // One that does not tell is reason enough not to know.
    assert!(zones.note("3", Some(&node("", "1"))));
    assert!(zones.ratios().is_empty());
    assert!(zones.note("3", None) && zones.note("4", Some(&node("c", "0"))));
    assert!(zones.ratios().is_empty());
    assert!(zones.note("4", None) && zones.note("0", None) && zones.note("1", None));
    assert!(zones.ratios().is_empty() && zones.sums.is_empty());
}

#[test]
fn endpoints_are_for_their_own_zone_and_as_many_of_others_as_are_fair() {
    let even: &[(&str, &str)] = &[("a", "2"), ("b", "2")];
    let (three, uneven): (&[_], &[_]) = (&[("a", "1"), ("b", "1"), ("c", "1")], &[("a", "1"), ("b", "3")]);
    let table = [
        (even, "ab", Ok("ab")),
        (even, "aaaa", Ok("bbaa")),
        (even, "aaab", Ok("baab")),
        (uneven, "aabb", Ok("babb")),
        (three, "aabbcc", Ok("aabbcc")),
        (three, "aaabbbccc", Ok("aaabbbccc")),
        (three, "aaaaaaccc", Ok("bbbaaaccc")),
        (even, "a", Err("Insufficient number of endpoints (1 endpoints, 2 zones)")),
        (
            three,
            "aabc",
            Err("Unable to allocate minimum required endpoints to each zone without exceeding overload threshold (4 endpoints, 3 zones)"),
        ),
        (&even[..1], "aa", Err(ONE_ZONE)),
        (&[], "aa", Err(NO_NODE_INFORMATION)),
        (&[("a", "1"), ("", "1")], "ab", Err(NO_NODE_INFORMATION)),
    ];
    for (nodes, of, expect) in table {
        let mut all = endpoints(of, true);
        all.extend(endpoints("ab", false));
        let told = spread(&zones(nodes).ratios(), vec![(false, &mut all)]);
        assert_eq!(told.as_ref().map(|_| ()).map_err(String::as_str), expect.map(|_| ()), "{of}");
        let expected = expect.map_or_else(|_| "-".repeat(of.len()), String::from);
        assert_eq!(hints(&all), format!("{expected}--"), "{of}");
        if let Ok(given) = told {
            assert_eq!(given.values().sum::<usize>(), of.len(), "{of}");
        }
    }
}

#[test]
fn an_endpoint_without_a_zone_takes_all_hints_away() {
    let mut all = endpoints("ab", true);
    hint(&mut all[0], "a");
    all[1].remove(&["zone"]);
    assert_eq!(spread(&zones(&[("a", "1"), ("b", "1")]).ratios(), vec![(true, &mut all)]), Err(NO_ZONE.into()));
    assert_eq!(hints(&all), "--");
}

#[test]
fn slices_that_are_as_they_were_stay_so_where_that_is_fair() {
    let ratios = zones(&[("a", "1"), ("b", "1")]).ratios();
    let with = |zones: &str, hints: &str| {
        let mut all = endpoints(zones, true);
        all.iter_mut().zip(hints.chars()).filter(|(_, zone)| *zone != '-').for_each(|(e, zone)| hint(e, &zone.to_string()));
        all
    };
    // (hints of the kept slice, zones of the new one) -> hints of both.
    let table = [
        ("ba", "ab", "ba", "ab"),
        ("bb", "ab", "bb", "aa"),
        ("bb", "aa", "bb", "aa"),
        ("b-", "ab", "ba", "ab"),
        // A zone that has no node any more.
        ("ac", "ab", "ba", "ab"),
    ];
    for (before, zones, expect, new) in table {
        let (mut old, mut added) = (with("aa", before), endpoints(zones, true));
        let told = spread(&ratios, vec![(true, &mut old), (false, &mut added)]);
        assert!(told.is_ok());
        assert_eq!((hints(&old).as_str(), hints(&added).as_str()), (expect, new), "{before} {zones}");
    }
}

#[test]
fn a_service_is_looked_at_again_when_zones_that_change_overload_it_or_it_had_no_hints() {
    let given = |of: &[(&str, usize)]| Spreads::from([("IPv4", Ok(of.iter().map(|(zone, n)| ((*zone).into(), *n)).collect()))]);
    let none = Spreads::from([("IPv4", Err("why".into()))]);
    let even: &[(&str, &str)] = &[("a", "1"), ("b", "1")];
    let table = [
        (given(&[("a", 3), ("b", 3)]), even, false),
        (given(&[("a", 3), ("b", 3)]), &[("a", "3"), ("b", "2")], false),
        (given(&[("a", 3), ("b", 3)]), &[("a", "3"), ("b", "1")], true),
        (given(&[("a", 3), ("b", 3)]), &[("a", "1"), ("b", "1"), ("c", "1")], true),
        (given(&[("a", 3), ("b", 3)]), &[], true),
        (none.clone(), even, true),
        (none, &[], false),
        (Spreads::new(), even, false),
    ];
    for (spreads, nodes, expect) in table {
        assert_eq!(is_to_be_spread_again(&spreads, &zones(nodes).ratios()), expect, "{spreads:?} {nodes:?}");
    }
}

#[test]
fn people_are_told_when_hints_come_and_go_and_once_why_there_are_none() {
    let (on, off) = (|| Spreads::from([("IPv4", Ok(BTreeMap::new()))]), |why: &str| Spreads::from([("IPv4", Err(why.into()))]));
    let none = Spreads::new;
    let table: [(Spreads, Spreads, &[&str]); 8] = [
        (none(), on(), &["TopologyAwareHintsEnabled Topology Aware Hints has been enabled, addressType: IPv4"]),
        (on(), on(), &[]),
        (on(), off("x"), &["TopologyAwareHintsDisabled x, addressType: IPv4"]),
        (off("x"), off("x"), &[]),
        (off("x"), off("y"), &["TopologyAwareHintsDisabled y, addressType: IPv4"]),
        (off("x"), on(), &["TopologyAwareHintsEnabled Topology Aware Hints has been enabled, addressType: IPv4"]),
        (on(), none(), &["TopologyAwareHintsDisabled Topology Aware Hints has been disabled, addressType: IPv4"]),
        (off("x"), none(), &[]),
    ];
    for (before, now, expect) in table {
        let told: Vec<String> = news(&before, &now).into_iter().map(|(_, reason, message)| format!("{reason} {message}")).collect();
        assert_eq!(told, expect, "{before:?} {now:?}");
    }
}

#[test]
fn the_older_annotation_goes_before_the_newer_one() {
    let wanted = |older: &str, newer: &str| {
        let mut service = Value::default();
        for (key, mode) in [("service.kubernetes.io/topology-aware-hints", older), ("service.kubernetes.io/topology-mode", newer)] {
            if !mode.is_empty() {
                meta::set_annotation(&mut service, key, mode);
            }
        }
        is_wanted(&service)
    };
    assert!(wanted("", "Auto") && wanted("", "auto") && wanted("Auto", "Disabled"));
    assert!(!wanted("Disabled", "Auto") && !wanted("", "PreferZone") && !wanted("", ""));
}
