//! Names that occur as keys again and again. What is borrowed from here takes no memory in the trees that have it.

use fnv::{FnvBuildHasher, FnvHashSet};

use crate::value::Key;

/// A set of names that live as long as the program. They are the program's own, so nobody can choose them to collide.
#[derive(Debug, Default)]
pub struct Names(FnvHashSet<&'static str>);

impl Names {
    pub fn new(names: impl IntoIterator<Item = &'static str>) -> Self {
        Self(names.into_iter().collect())
    }

    pub(super) fn none() -> &'static Self {
        static NONE: Names = Names(FnvHashSet::with_hasher(FnvBuildHasher::new()));
        &NONE
    }

    /// A key of this name.
    pub fn key(&self, name: &str) -> Key {
        self.0.get(name).map_or_else(|| Key::from(name), |known| Key::Static(known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_borrowed_and_other_keys_are_not() {
        let names = Names::new(["metadata", "name"]);
        assert!(matches!(names.key("name"), Key::Static("name")));
        assert!(matches!(names.key("nam"), Key::Own(_)));
    }
}
