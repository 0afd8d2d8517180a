//! Feature gates that a KubeletConfiguration names: what it says of them has to be so already, or something has to be behind them. Of
//! what goes with an API the server decides, and the node follows. Pure.

use std::collections::BTreeMap;

use fram_machinery::Value;

/// What a document says of gates that cannot be so.
pub(super) fn faults(document: &Value) -> Vec<String> {
    let gates = document.get("featureGates").and_then(Value::as_map);
    let each = gates.into_iter().flat_map(|map| map.iter()).filter_map(|(name, value)| Some((name.to_string(), value.as_bool()?)));
    let said: BTreeMap<String, bool> = each.collect();
    said.iter().filter_map(|(name, wanted)| Some(format!("featureGates: {}", fram_api::gate_fault(name, *wanted, &said)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[test]
    fn a_gate_can_say_what_is_so_and_nothing_else() {
        let of = |name: &'static str, wanted: bool| {
            let mut document = object!({});
            document.set(&["featureGates", name], wanted);
            faults(&document)
        };
        for (name, wanted) in
            [("SidecarContainers", true), ("MemoryQoS", false), ("ClusterTrustBundle", true), ("ClusterTrustBundle", false)]
        {
            assert!(of(name, wanted).is_empty(), "{name}");
        }
        assert_eq!(of("MemoryQoS", true), ["featureGates: cannot set feature gate MemoryQoS to true: here it is false"]);
        assert_eq!(
            of("SidecarContainers", false),
            ["featureGates: cannot set feature gate SidecarContainers to false, feature is locked to true"]
        );
        for (name, is) in [
            ("AtomicFIFO", true),
            ("UnlockWhileProcessingFIFO", true),
            ("ClientsPreferCBOR", false),
            ("AllAlpha", false),
            ("NodeLogQuery", true),
        ] {
            assert_eq!((of(name, is).len(), of(name, !is).len()), (0, 1), "{name}");
        }
        assert_eq!((of("AllBeta", false).len(), of("AllBeta", true).len()), (1, 1));
        assert_eq!(of("Sidecars", true), ["featureGates: unrecognized feature gate: Sidecars"]);
    }
}
