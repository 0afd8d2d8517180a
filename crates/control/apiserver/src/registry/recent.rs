//! What was written a moment ago, as the trees that its writers had. Components of the same process follow all writes; this spares
//! each of them the decoding. It is known by the very bytes that were committed: an engine that reads its values anew finds nothing
//! here, and decodes.

use std::collections::VecDeque;

use bytes::Bytes;
use fram_machinery::Value;
use parking_lot::Mutex;

/// So many writes may be on their way to their watchers.
const MOST: usize = 64;
/// Larger objects, in bytes, are decoded by who follows them: their trees are several times as large, and would stay.
const LARGEST: usize = 64 * 1024;

#[derive(Default)]
pub(super) struct Recent(Mutex<VecDeque<(Bytes, Value)>>);

impl Recent {
    /// Keeps a tree beside the bytes that it was encoded to.
    pub(super) fn put(&self, bytes: Bytes, object: Value) {
        if bytes.len() > LARGEST {
            return;
        }
        let mut known = self.0.lock();
        if known.len() == MOST {
            known.pop_front();
        }
        known.push_back((bytes, object));
    }

    /// The tree of these very bytes, of some earlier revision or of none.
    pub(super) fn get(&self, bytes: &Bytes) -> Option<Value> {
        let known = self.0.lock();
        let same = |(own, _): &&(Bytes, Value)| own.as_ptr() == bytes.as_ptr() && own.len() == bytes.len();
        known.iter().rev().find(same).map(|(_, object)| object.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_known_by_their_place_and_not_for_long() {
        let recent = Recent::default();
        let bytes = Bytes::from(vec![1, 2]);
        recent.put(bytes.clone(), Value::Int(1));
        assert_eq!(recent.get(&bytes.clone()), Some(Value::Int(1)));
        assert_eq!(recent.get(&Bytes::from(vec![1, 2])), None);
        (0..MOST).for_each(|n| recent.put(Bytes::from(vec![n as u8]), Value::Null));
        assert_eq!(recent.get(&bytes), None);
        let large = Bytes::from(vec![0; LARGEST + 1]);
        recent.put(large.clone(), Value::Null);
        assert_eq!(recent.get(&large), None);
    }
}
