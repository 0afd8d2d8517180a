//! Names that occur as keys again and again. What is borrowed from here takes no memory in the trees that have it.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::value::Key;

/// A set of names that live as long as the program.
#[derive(Debug, Default)]
pub struct Names(HashMap<&'static str, (), BuildHasherDefault<Fnv>>);

impl Names {
    pub fn new(names: impl IntoIterator<Item = &'static str>) -> Self {
        Self(names.into_iter().map(|name| (name, ())).collect())
    }

    pub(super) fn none() -> &'static Self {
        static NONE: Names = Names(HashMap::with_hasher(BuildHasherDefault::new()));
        &NONE
    }

    /// A key of this name.
    pub fn key(&self, name: &str) -> Key {
        match self.0.get_key_value(name) {
            Some((known, ())) => Key::Static(known),
            None => Key::from(name),
        }
    }
}

/// FNV-1a. The names are the program's own, so nobody can choose them to collide; what is looked up only reads.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_borrowed_and_other_keys_are_not() {
        let names = Names::new(["metadata", "name"]);
        assert!(matches!(names.key("name"), Key::Static("name")));
        assert!(matches!(names.key("nam"), Key::Shared(_)));
    }
}
