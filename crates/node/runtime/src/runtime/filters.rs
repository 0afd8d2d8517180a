//! The default profile's filters, which are as many as there are sets of capabilities: few, and long to compile.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::seccomp::{self, Instruction, SeccompError};
use crate::spec::{self, Privileges};

/// More than a node's pods have; who makes up new sets all the time has them compiled anew.
const MOST: usize = 16;

#[derive(Default)]
pub(super) struct Filters(Mutex<BTreeMap<u64, Vec<Instruction>>>);

impl Filters {
    pub(super) fn of(&self, privileges: &Privileges) -> Result<Vec<Instruction>, SeccompError> {
        let mut known = self.0.lock();
        if let Some(filter) = known.get(&privileges.capabilities) {
            return Ok(filter.clone());
        }
        let filter = seccomp::compile(&seccomp::default_profile(&spec::bounding_names(privileges)))?;
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(privileges.capabilities, filter.clone());
        Ok(filter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_set_of_capabilities_has_the_filter_that_is_compiled_for_it() {
        let filters = Filters::default();
        for capabilities in [0, 1 << 21, 0, 1 << 21].into_iter().chain((0..2 * MOST as u64).map(|bits| bits << 5)) {
            let privileges = Privileges { capabilities, ..Privileges::default() };
            let expect = seccomp::compile(&seccomp::default_profile(&spec::bounding_names(&privileges))).unwrap();
            assert_eq!(filters.of(&privileges).unwrap(), expect);
            assert!(filters.0.lock().len() <= MOST);
        }
        let of = |capabilities| filters.of(&Privileges { capabilities, ..Privileges::default() }).unwrap();
        assert_ne!(of(0), of(1 << 21));
    }
}
