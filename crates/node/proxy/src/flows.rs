//! Which tracked UDP flows have lost their backend: decided purely. TCP needs none of this, it notices by itself.

use std::collections::BTreeSet;

use fram_datapath::conntrack::Connection;

use crate::plan::{Balance, Desired, Frontend, Target};
use crate::service::Protocol;

/// The UDP frontends whose targets differ between two plans.
pub(crate) fn changed(old: &Desired, new: &Desired) -> BTreeSet<Frontend> {
    let mut changed = BTreeSet::new();
    for (old, new) in [(&old.frontends, &new.frontends), (&old.external, &new.external)] {
        let udp = |balance: &Balance| balance.actions.keys().filter(|f| f.protocol == Protocol::Udp).copied().collect::<BTreeSet<_>>();
        let differs = |f: &Frontend| old.targets(f).collect::<BTreeSet<_>>() != new.targets(f).collect();
        changed.extend(udp(old).union(&udp(new)).filter(|f| differs(f)));
    }
    changed
}

/// A flow to a changed frontend whose answers come from something that is none of its targets, the frontend itself included:
/// that one was sent before there was any target.
pub(crate) fn is_stale(flow: &Connection, changed: &BTreeSet<Frontend>, desired: &Desired) -> bool {
    let frontend = Frontend { ip: flow.original.destination, protocol: Protocol::Udp, port: flow.original.destination_port };
    let target = Target { ip: flow.reply.source, port: flow.reply.source_port };
    changed.contains(&frontend) && !desired.allows(&frontend, &target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Action;
    use fram_datapath::conntrack::Tuple;

    #[test]
    fn flows_to_endpoints_that_are_gone_and_to_no_endpoint_are_stale() {
        let frontend = Frontend { ip: "10.96.0.10".parse().unwrap(), protocol: Protocol::Udp, port: 53 };
        let target = |n: u8| Target { ip: [10, 244, 0, n].into(), port: 5353 };
        let desired = |targets: &[u8]| {
            let mut desired = Desired::default();
            desired.frontends.actions.insert(frontend, Action::Drop);
            desired.frontends.slots = targets.iter().map(|n| ((frontend, u32::from(*n)), target(*n))).collect();
            desired
        };
        let flow = |to: Target| {
            let tuple = |source, source_port, destination, destination_port| Tuple {
                source,
                destination,
                protocol: 17,
                source_port,
                destination_port,
            };
            let client = "10.244.0.99".parse().unwrap();
            Connection { original: tuple(client, 4000, frontend.ip, 53), reply: tuple(to.ip, to.port, client, 4000) }
        };
        let untranslated = Target { ip: frontend.ip, port: 53 };
        let (old, new) = (desired(&[1, 2]), desired(&[2, 3]));
        let changed_frontends = changed(&old, &new);
        assert_eq!(changed_frontends, BTreeSet::from([frontend]));
        for (to, stale) in [(target(1), true), (target(2), false), (target(3), false), (untranslated, true)] {
            assert_eq!(is_stale(&flow(to), &changed_frontends, &new), stale, "{to:?}");
        }
        assert!(changed(&new, &new).is_empty());
        assert!(!is_stale(&flow(target(1)), &BTreeSet::new(), &new), "frontends that did not change are left alone");
        assert!(is_stale(&flow(target(1)), &changed(&old, &Desired::default()), &Desired::default()), "the Service is gone");
    }
}
