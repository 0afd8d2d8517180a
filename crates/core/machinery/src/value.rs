//! The object tree: an immutable, cheaply cloned JSON-shaped value. Integers and floats are told apart, and the keys of a
//! map are sorted and unique. Copying shares; changing copies only what is shared.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use ecow::EcoVec;

/// A text of an object: a short one, of up to 23 bytes, stands in its place in the tree, a longer one is shared.
pub use smol_str::SmolStr as Text;
pub(crate) use smol_str::SmolStrBuilder as TextBuilder;

/// A map key or field name. Field names of built-in kinds are borrowed from the description.
#[derive(Clone)]
pub enum Key {
    Static(&'static str),
    Own(Text),
}

impl Key {
    /// What is behind the first `from` bytes, where that takes no copy.
    pub(crate) fn part(&self, from: usize) -> Option<Key> {
        match self {
            Key::Static(s) => s.get(from..).map(Key::Static),
            Key::Own(_) => None,
        }
    }

    pub fn as_str(&self) -> &str {
        match self {
            Key::Static(s) => s,
            Key::Own(s) => s,
        }
    }
}

impl From<&str> for Key {
    fn from(s: &str) -> Self {
        Key::Own(s.into())
    }
}

impl From<String> for Key {
    fn from(s: String) -> Self {
        Key::Own(s.into())
    }
}

impl From<Text> for Key {
    fn from(s: Text) -> Self {
        Key::Own(s)
    }
}

impl From<&Key> for Key {
    fn from(key: &Key) -> Self {
        key.clone()
    }
}

impl PartialEq<str> for Key {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Key {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl std::ops::Deref for Key {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

/// The order of two keys. Most differ in their first byte: that is told without a call.
#[inline]
pub(crate) fn order(a: &str, b: &str) -> std::cmp::Ordering {
    a.as_bytes().first().cmp(&b.as_bytes().first()).then_with(|| a.cmp(b))
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (self.as_str(), other.as_str());
        // The names of fields are the same text, not only equal ones.
        std::ptr::eq(a, b) || a == b
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        order(self, other)
    }
}

impl std::hash::Hash for Key {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A list of values; a clone shares the elements, which stand right behind the count of those who share them.
pub type List = EcoVec<Value>;

/// What maps are made of, in any order.
pub type Entries = EcoVec<(Key, Value)>;

/// One node of an object tree.
#[derive(Clone, Default)]
pub enum Value {
    #[default]
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    String(Text),
    List(List),
    Map(Map),
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::Float(a), Value::Float(b)) => a == b,
            (Value::String(a), Value::String(b)) => a == b,
            (Value::List(a), Value::List(b)) => std::ptr::eq(a.as_slice(), b.as_slice()) || a == b,
            (Value::Map(a), Value::Map(b)) => a == b,
            _ => false,
        }
    }
}

/// No number of an object is NaN, so everything equals itself: parts that two trees share are equal without a look into them.
impl Eq for Value {}

/// In a map of so many entries a key is found sooner by a look at each than by a search (measured; no built-in type has more fields).
const FEW: usize = 48;

/// An ordered map of unique keys; a clone shares the entries.
#[derive(Clone, Default)]
pub struct Map {
    entries: Entries,
}

impl PartialEq for Map {
    fn eq(&self, other: &Self) -> bool {
        // Entries that both share are not looked into.
        self.shares(other) || self.entries == other.entries
    }
}

impl Eq for Map {}

impl Map {
    pub fn new() -> Self {
        Self::default()
    }

    /// Builds a map from entries in any order. Of entries with the same key the last one wins, as in Go's decoder.
    pub fn from_entries(mut entries: Entries) -> Self {
        if entries.is_sorted_by(|a, b| a.0 < b.0) {
            return Self { entries };
        }
        entries.make_mut().sort_by(|a, b| a.0.cmp(&b.0));
        if entries.windows(2).any(|w| w[0].0 == w[1].0) {
            let mut unique = Entries::with_capacity(entries.len());
            for entry in entries {
                match unique.make_mut().last_mut() {
                    Some(last) if last.0 == entry.0 => last.1 = entry.1,
                    _ => unique.push(entry),
                }
            }
            entries = unique;
        }
        Self { entries }
    }

    fn find(&self, key: &str) -> Result<usize, usize> {
        self.entries.binary_search_by(|e| order(&e.0, key))
    }

    /// Where a key stands. Among few keys each is looked at, since most are told apart by their lengths alone; many are searched.
    fn position(&self, key: &str) -> Option<usize> {
        if self.entries.len() > FEW {
            return self.find(key).ok();
        }
        self.entries.iter().position(|(k, _)| k.as_str() == key)
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.position(key).map(|i| &self.entries[i].1)
    }

    pub fn contains(&self, key: &str) -> bool {
        self.position(key).is_some()
    }

    /// A place to change the value of `key`, or None where there is no such key.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        let i = self.position(key)?;
        Some(&mut self.entries.make_mut()[i].1)
    }

    /// A place to change the value of `key`, which is made (null) where it does not exist.
    pub fn entry(&mut self, key: impl Into<Key>) -> &mut Value {
        let key = key.into();
        let i = self.find(&key).unwrap_or_else(|i| {
            self.entries.insert(i, (key, Value::Null));
            i
        });
        &mut self.entries.make_mut()[i].1
    }

    pub fn insert(&mut self, key: impl Into<Key>, value: impl Into<Value>) {
        *self.entry(key) = value.into();
    }

    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let i = self.position(key)?;
        Some(self.entries.remove(i).1)
    }

    pub fn retain(&mut self, keep: impl Fn(&Key, &Value) -> bool) {
        if self.iter().any(|(k, v)| !keep(k, v)) {
            self.entries.retain(|(k, v)| keep(k, v));
        }
    }

    /// Whether both are the same entries in memory, not only equal ones.
    pub fn shares(&self, other: &Self) -> bool {
        std::ptr::eq(self.entries.as_slice(), other.entries.as_slice())
    }

    /// Gives back what it holds beyond its entries, where nobody shares them.
    pub fn trim(&mut self) {
        if self.entries.capacity() > self.entries.len() && self.entries.is_unique() {
            let mut exact = Entries::with_capacity(self.entries.len());
            exact.extend(std::mem::take(&mut self.entries));
            self.entries = exact;
        }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Key, &Value)> + Clone {
        self.entries.iter().map(|(k, v)| (k, v))
    }

    /// The values, each to be changed in its place.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Key, &mut Value)> {
        self.entries.make_mut().iter_mut().map(|(k, v)| (&*k, v))
    }

    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.entries.iter().map(|(k, _)| k)
    }

    /// Takes the entries out, without copying where nobody shares them.
    pub fn into_entries(self) -> Entries {
        self.entries
    }
}

impl<K: Into<Key>, V: Into<Value>> FromIterator<(K, V)> for Map {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        Self::from_entries(iter.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

impl Value {
    /// The value below a path of map keys, or None where a step is missing.
    pub fn at(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(self, |v, key| v.get(key))
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_map()?.get(key)
    }

    /// The text below a path of map keys; empty where there is none.
    pub fn str_at(&self, path: &[&str]) -> &str {
        self.at(path).and_then(Value::as_str).unwrap_or_default()
    }

    pub fn int_at(&self, path: &[&str]) -> Option<i64> {
        self.at(path).and_then(Value::as_int)
    }

    pub fn bool_at(&self, path: &[&str]) -> Option<bool> {
        self.at(path).and_then(Value::as_bool)
    }

    /// The elements of the list below a path; none where there is no list.
    pub fn list_at(&self, path: &[&str]) -> &[Value] {
        self.at(path).and_then(Value::as_list).map_or(&[], |l| l.as_slice())
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(s) => Some(s),
            _ => None,
        }
    }

    /// The same as it stands in the tree.
    pub fn as_text(&self) -> Option<&Text> {
        match self {
            Value::String(s) => Some(s),
            _ => None,
        }
    }

    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(i) => Some(*i),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }

    pub fn as_list(&self) -> Option<&List> {
        match self {
            Value::List(l) => Some(l),
            _ => None,
        }
    }

    pub fn as_map(&self) -> Option<&Map> {
        match self {
            Value::Map(m) => Some(m),
            _ => None,
        }
    }

    /// Whether another value shares this list or map; who shares a long text is not known.
    pub fn is_shared(&mut self) -> bool {
        match self {
            Value::List(l) => !l.is_unique(),
            Value::Map(m) => !m.entries.is_unique(),
            _ => false,
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// Null, or a list or map without entries.
    pub fn is_empty(&self) -> bool {
        match self {
            Value::Null => true,
            Value::List(l) => l.is_empty(),
            Value::Map(m) => m.is_empty(),
            _ => false,
        }
    }

    /// The map at this place; whatever else stood there is replaced by an empty map.
    pub fn make_map(&mut self) -> &mut Map {
        if !matches!(self, Value::Map(_)) {
            *self = Value::Map(Map::new());
        }
        match self {
            Value::Map(m) => m,
            _ => unreachable!("made a map just now"),
        }
    }

    /// The list at this place; whatever else stood there is replaced by an empty list.
    pub fn make_list(&mut self) -> &mut List {
        if !matches!(self, Value::List(_)) {
            *self = Value::List(List::default());
        }
        match self {
            Value::List(l) => l,
            _ => unreachable!("made a list just now"),
        }
    }

    /// The place below a path of map keys; missing maps are made on the way.
    pub fn place(&mut self, path: &[&str]) -> &mut Value {
        path.iter().fold(self, |v, key| v.make_map().entry(*key))
    }

    /// Sets the value below a path of map keys, making missing maps on the way.
    pub fn set(&mut self, path: &[&str], value: impl Into<Value>) {
        *self.place(path) = value.into();
    }

    /// Removes the entry at a path; nothing happens where there is none.
    pub fn remove(&mut self, path: &[&str]) -> Option<Value> {
        let (last, parents) = path.split_last()?;
        self.at(path)?;
        match self.place(parents) {
            Value::Map(m) => m.remove(last),
            _ => None,
        }
    }

    /// What Go's decoder calls this sort of JSON value in its errors.
    pub fn kind_name(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Int(_) | Value::Float(_) => "number",
            Value::String(_) => "string",
            Value::List(_) => "array",
            Value::Map(_) => "object",
        }
    }
}

impl From<&str> for Value {
    fn from(s: &str) -> Self {
        Value::String(s.into())
    }
}

impl From<Key> for Value {
    fn from(key: Key) -> Self {
        match key {
            Key::Static(s) => Value::String(Text::new_static(s)),
            Key::Own(s) => Value::String(s),
        }
    }
}

impl From<&Key> for Value {
    fn from(key: &Key) -> Self {
        key.clone().into()
    }
}

impl From<String> for Value {
    fn from(s: String) -> Self {
        Value::String(s.into())
    }
}

impl From<Text> for Value {
    fn from(s: Text) -> Self {
        Value::String(s)
    }
}

impl From<Arc<str>> for Value {
    fn from(s: Arc<str>) -> Self {
        Value::String(s.into())
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Self {
        Value::Bool(b)
    }
}

impl From<i64> for Value {
    fn from(i: i64) -> Self {
        Value::Int(i)
    }
}

impl From<i32> for Value {
    fn from(i: i32) -> Self {
        Value::Int(i.into())
    }
}

impl From<u32> for Value {
    fn from(i: u32) -> Self {
        Value::Int(i.into())
    }
}

impl From<f64> for Value {
    fn from(f: f64) -> Self {
        Value::Float(f)
    }
}

impl From<Map> for Value {
    fn from(m: Map) -> Self {
        Value::Map(m)
    }
}

impl From<List> for Value {
    fn from(l: List) -> Self {
        Value::List(l)
    }
}

impl From<Vec<Value>> for Value {
    fn from(l: Vec<Value>) -> Self {
        Value::List(l.into())
    }
}

impl<const N: usize> From<[Value; N]> for Value {
    fn from(l: [Value; N]) -> Self {
        Value::List(l.into())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(o: Option<T>) -> Self {
        o.map_or(Value::Null, Into::into)
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::json::to_string(self))
    }
}

/// Writes an object tree the way its JSON reads: `object!({ "kind": "Pod", "metadata": { "name": name } })`.
#[macro_export]
macro_rules! object {
    ({ $($key:literal : $value:tt),* $(,)? }) => {
        $crate::Value::Map($crate::Map::from_entries([$(($crate::Key::Static($key), $crate::object!($value))),*].into()))
    };
    ([ $($value:tt),* $(,)? ]) => {
        $crate::Value::from([$($crate::object!($value)),*] as [$crate::Value; _])
    };
    (null) => { $crate::Value::Null };
    ($value:expr) => { $crate::Value::from($value) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_and_keys_are_small_and_short_texts_stand_in_them() {
        assert_eq!((size_of::<Value>(), size_of::<Key>()), (24, 24));
        assert!(!Text::from("pod-template-hash").is_heap_allocated());
        assert_eq!(Value::from("x".repeat(40)), Value::from("x".repeat(40).as_str()));
    }

    #[test]
    fn a_map_that_lost_all_entries_is_an_empty_one() {
        let mut map = Map::from_entries([("a".into(), 1.into())].into());
        map.remove("a");
        assert_eq!((map.is_empty(), map.len(), map.get("a")), (true, 0, None));
        assert!(map == Map::new());
        assert_eq!(map.into_entries().len(), 0);
    }

    #[test]
    fn a_change_does_not_reach_a_clone() {
        let a = object!({ "metadata": { "name": "x", "labels": { "a": "b" } } });
        let mut b = a.clone();
        b.set(&["metadata", "labels", "a"], "c");
        assert_eq!(a.str_at(&["metadata", "labels", "a"]), "b");
        assert_eq!(b.str_at(&["metadata", "labels", "a"]), "c");
    }

    #[test]
    fn keys_are_found_in_small_maps_and_in_large_ones() {
        for size in [0, 1, FEW, FEW + 1, 1000] {
            let map: Map = (0..size).map(|i| (format!("key-{i}"), i as i64)).collect();
            assert!((0..size).all(|i| map.get(&format!("key-{i}")) == Some(&Value::Int(i as i64))), "{size}");
            assert!(["", "key-", "key-1000", "z"].iter().all(|key| !map.contains(key)), "{size}");
        }
    }

    #[test]
    fn of_duplicate_keys_the_last_one_wins() {
        let map = Map::from_entries([("b".into(), 1.into()), ("a".into(), 2.into()), ("b".into(), 3.into())].into());
        assert_eq!(map.len(), 2);
        assert_eq!(map.get("b"), Some(&Value::Int(3)));
    }

    #[test]
    fn removing_what_is_not_there_changes_nothing() {
        let mut a = object!({ "x": 1 });
        assert_eq!(a.remove(&["spec", "y"]), None);
        assert_eq!(a, object!({ "x": 1 }));
    }
}
