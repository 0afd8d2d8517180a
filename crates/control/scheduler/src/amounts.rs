//! Amounts of resources by name. Wide enough that no sum of what quantities can say overflows.

use fram_machinery::quantity::Quantity;
use fram_machinery::{Key, Value};

pub(crate) const CPU: &str = "cpu";
pub(crate) const MEMORY: &str = "memory";
pub(crate) const STORAGE: &str = "ephemeral-storage";
pub(crate) const PODS: &str = "pods";

/// cpu in thousandths, everything else in whole units; in the order of the names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Amounts(Vec<(Key, i128)>);

fn amount(name: &str, text: &Value) -> i128 {
    let quantity = text.as_str().and_then(|t| t.parse::<Quantity>().ok()).unwrap_or(Quantity::zero());
    i128::from(if name == CPU { quantity.milli_value() } else { quantity.value() })
}

impl Amounts {
    /// Those of a map of quantities, such as `resources.requests`.
    pub(crate) fn read(map: Option<&Value>) -> Self {
        let map = map.and_then(Value::as_map);
        Self(map.into_iter().flat_map(|m| m.iter()).map(|(k, v)| (k.clone(), amount(k, v))).collect())
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(key, _)| key.as_str().cmp(name))
    }

    pub(crate) fn get(&self, name: &str) -> i128 {
        self.find(name).map_or(0, |i| self.0[i].1)
    }

    /// Nothing is said of it.
    pub(crate) fn lacks(&self, name: &str) -> bool {
        self.find(name).is_err()
    }

    pub(crate) fn entry(&mut self, name: &Key) -> &mut i128 {
        let i = self.find(name).unwrap_or_else(|i| {
            self.0.insert(i, (name.clone(), 0));
            i
        });
        &mut self.0[i].1
    }

    pub(crate) fn add(&mut self, other: &Self) {
        other.iter().for_each(|(name, n)| *self.entry(name) += n);
    }

    pub(crate) fn subtract(&mut self, other: &Self) {
        other.iter().for_each(|(name, n)| *self.entry(name) -= n);
    }

    /// At least as much of everything as the other has.
    pub(crate) fn raise(&mut self, other: &Self) {
        for (name, n) in other.iter() {
            let held = self.entry(name);
            *held = (*held).max(n);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key, i128)> {
        self.0.iter().map(|(name, n)| (name, *n))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there is less of anything than the other has.
    pub(crate) fn falls_short_of(&self, other: &Self) -> bool {
        other.iter().any(|(name, n)| self.get(name) < n)
    }
}
