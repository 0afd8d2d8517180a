//! What was made of the latest writes and is wanted again at once: the trees that their writers had, and their encodings for watchers.
//! Components of the same process follow all writes, and many clients watch the same collections; this spares each of them the work.
//! What admission looks up for one request after the other is kept the same way, apart from the writes, which would drive it out.
//! It is known by the very bytes that were committed: an engine that reads its values anew finds nothing here, and decodes.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;

/// So many trees may be on their way to their watchers.
const MOST: usize = 128;
/// Larger objects, in bytes, are decoded by who follows them: their trees are several times as large, and would stay.
const LARGEST: usize = 64 * 1024;

/// Values of `V`, each of which was made from bytes under the circumstances `K`.
pub(super) struct Recent<K, V>(Mutex<VecDeque<(Bytes, K, V)>>);

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: PartialEq, V: Clone> Recent<K, V> {
    /// Keeps what was made of the bytes, or what they were made of.
    pub(super) fn put(&self, bytes: Bytes, made: K, value: V) {
        if bytes.len() > LARGEST {
            return;
        }
        let mut known = self.0.lock();
        let oldest = if known.len() == MOST { known.pop_front() } else { None };
        known.push_back((bytes, made, value));
        // Taking a tree apart takes time, in which nobody should have to wait.
        drop(known);
        drop(oldest);
    }

    /// What belongs to these very bytes, which stays for as long as it is wanted more often than others.
    pub(super) fn get_again(&self, bytes: &Bytes, made: &K) -> Option<V> {
        let mut known = self.0.lock();
        let place = known.iter().rposition(|entry| is_of(entry, bytes, made))?;
        if place < known.len() / 2
            && let Some(entry) = known.remove(place)
        {
            known.push_back(entry);
            return known.back().map(|(_, _, value)| value.clone());
        }
        known.get(place).map(|(_, _, value)| value.clone())
    }

    /// What belongs to these very bytes.
    pub(super) fn get(&self, bytes: &Bytes, made: &K) -> Option<V> {
        let known = self.0.lock();
        known.iter().rev().find(|entry| is_of(entry, bytes, made)).map(|(_, _, value)| value.clone())
    }
}

fn is_of<K: PartialEq, V>((own, how, _): &(Bytes, K, V), bytes: &Bytes, made: &K) -> bool {
    own.as_ptr() == bytes.as_ptr() && own.len() == bytes.len() && how == made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_again_and_again_is_not_driven_out() {
        let recent = Recent::default();
        let often = Bytes::from(vec![1]);
        recent.put(often.clone(), 1, "tree");
        for n in 0..2 * MOST {
            recent.put(Bytes::from(vec![n as u8]), 1, "");
            assert_eq!(recent.get_again(&often, &1), Some("tree"), "{n}");
        }
        assert_eq!(recent.get_again(&often, &2), None);
    }

    #[test]
    fn bytes_are_known_by_their_place_and_not_for_long() {
        let recent = Recent::default();
        let bytes = Bytes::from(vec![1, 2]);
        recent.put(bytes.clone(), 1, "tree");
        assert_eq!(recent.get(&bytes.clone(), &1), Some("tree"));
        assert_eq!(recent.get(&bytes.clone(), &2), None, "it was made otherwise");
        assert_eq!(recent.get(&Bytes::from(vec![1, 2]), &1), None);
        (0..MOST).for_each(|n| recent.put(Bytes::from(vec![n as u8]), 1, ""));
        assert_eq!(recent.get(&bytes, &1), None);
        let large = Bytes::from(vec![0; LARGEST + 1]);
        recent.put(large.clone(), 1, "");
        assert_eq!(recent.get(&large, &1), None);
    }
}
