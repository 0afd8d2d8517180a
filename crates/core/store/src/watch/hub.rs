//! Routes published events to the watches that they concern.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{Queue, Sides, WatchLimits};
use crate::error::StoreError;
use crate::types::Event;

/// All open watches of a store by prefix, and by facet. An event costs one look-up per distinct length of prefix, one per field that
/// watches of the prefix ask for, and the delivery to the watches that match, however many others there are.
pub(crate) struct Hub {
    by_prefix: HashMap<Box<str>, Followers>,
    /// How many distinct prefixes there are of each length.
    lengths: BTreeMap<usize, usize>,
    limits: WatchLimits,
}

/// The watches of one prefix.
#[derive(Default)]
struct Followers {
    of_all: Vec<Arc<Queue>>,
    by_field: BTreeMap<usize, ByText>,
}

/// The watches of one prefix that ask for texts of one field.
struct ByText {
    read: fn(&[u8], usize) -> Option<&str>,
    queues: HashMap<Box<str>, Vec<Arc<Queue>>>,
}

impl Followers {
    fn add(&mut self, queue: Arc<Queue>) {
        let Some(facet) = &queue.facet else { return self.of_all.push(queue) };
        let field = self.by_field.entry(facet.field).or_insert_with(|| ByText { read: facet.read, queues: HashMap::new() });
        field.queues.entry(facet.text.clone()).or_default().push(queue);
    }

    fn remove(&mut self, queue: &Arc<Queue>) {
        let others = |queues: &mut Vec<Arc<Queue>>| queues.retain(|other| !Arc::ptr_eq(other, queue));
        match &queue.facet {
            None => others(&mut self.of_all),
            Some(facet) => {
                let Some(field) = self.by_field.get_mut(&facet.field) else { return };
                field.queues.get_mut(&facet.text).into_iter().for_each(others);
                if field.queues.get(&facet.text).is_some_and(Vec::is_empty) {
                    field.queues.remove(&facet.text);
                }
            }
        }
        self.forget_empty();
    }

    fn forget_empty(&mut self) {
        self.by_field.retain(|_, field| !field.queues.is_empty());
    }

    fn is_empty(&self) -> bool {
        self.of_all.is_empty() && self.by_field.is_empty()
    }

    /// Delivers events of the prefix.
    fn deliver(&mut self, events: &Arc<[Event]>, limits: WatchLimits) {
        self.of_all.retain(|queue| queue.push(events, limits));
        for (field, followers) in &mut self.by_field {
            followers.deliver(*field, events, limits);
        }
        self.forget_empty();
    }

    fn into_queues(self) -> impl Iterator<Item = Arc<Queue>> {
        self.of_all.into_iter().chain(self.by_field.into_values().flat_map(|field| field.queues.into_values().flatten()))
    }
}

impl ByText {
    fn deliver(&mut self, field: usize, events: &Arc<[Event]>, limits: WatchLimits) {
        let mut indices: HashMap<&str, Vec<usize>> = HashMap::new();
        for (index, event) in events.iter().enumerate() {
            let Some(sides) = Sides::of(event, self.read, field) else { return self.deliver_all(events, limits) };
            let [before, after] = sides.0;
            for text in before.into_iter().chain(after.filter(|after| before != Some(after))) {
                if self.queues.contains_key(text) {
                    indices.entry(text).or_default().push(index);
                }
            }
        }
        for (text, indices) in indices {
            let batch = chosen(events, &indices);
            let Some(queues) = self.queues.get_mut(text) else { continue };
            queues.retain(|queue| queue.push(&batch, limits));
            if queues.is_empty() {
                self.queues.remove(text);
            }
        }
    }

    /// Who gets more than it asked for has still to choose.
    fn deliver_all(&mut self, events: &Arc<[Event]>, limits: WatchLimits) {
        self.queues.retain(|_, queues| {
            queues.retain(|queue| queue.push(events, limits));
            !queues.is_empty()
        });
    }
}

/// Some of a batch, in their order.
fn chosen(events: &Arc<[Event]>, indices: &[usize]) -> Arc<[Event]> {
    if indices.len() == events.len() {
        return Arc::clone(events);
    }
    indices.iter().map(|&index| events[index].clone()).collect()
}

impl Hub {
    pub(crate) fn new(limits: WatchLimits) -> Self {
        Self { by_prefix: HashMap::new(), lengths: BTreeMap::new(), limits }
    }

    pub(crate) fn add(&mut self, queue: Arc<Queue>) {
        let followers = self.by_prefix.entry(queue.prefix.clone()).or_insert_with(|| {
            *self.lengths.entry(queue.prefix.len()).or_default() += 1;
            Followers::default()
        });
        followers.add(queue);
    }

    pub(crate) fn remove(&mut self, queue: &Arc<Queue>) {
        if let Some(followers) = self.by_prefix.get_mut(&queue.prefix) {
            followers.remove(queue);
        }
        self.forget_if_empty(&queue.prefix);
    }

    /// Delivers the events of whole transactions, in order.
    pub(crate) fn publish(&mut self, events: &Arc<[Event]>) {
        for (prefix, indices) in self.route(events) {
            if let Some(followers) = self.by_prefix.get_mut(&prefix) {
                followers.deliver(&chosen(events, &indices), self.limits);
            }
            self.forget_if_empty(&prefix);
        }
    }

    /// Which events concern which prefixes.
    fn route(&self, events: &[Event]) -> HashMap<Box<str>, Vec<usize>> {
        let mut routes: HashMap<Box<str>, Vec<usize>> = HashMap::new();
        for (index, event) in events.iter().enumerate() {
            let lengths = self.lengths.keys().take_while(|length| **length <= event.key.len());
            for prefix in lengths.filter_map(|length| event.key.get(..*length)) {
                if let Some(indices) = routes.get_mut(prefix) {
                    indices.push(index);
                } else if let Some((prefix, _)) = self.by_prefix.get_key_value(prefix) {
                    routes.insert(prefix.clone(), vec![index]);
                }
            }
        }
        routes
    }

    /// Ends every watch.
    pub(crate) fn end(&mut self, error: &StoreError) {
        for queue in std::mem::take(&mut self.by_prefix).into_values().flat_map(Followers::into_queues) {
            queue.end(error.clone());
        }
        self.lengths.clear();
    }

    fn forget_if_empty(&mut self, prefix: &str) {
        if self.by_prefix.get(prefix).is_some_and(Followers::is_empty) {
            self.by_prefix.remove(prefix);
            if let Some(count) = self.lengths.get_mut(&prefix.len()) {
                *count -= 1;
                if *count == 0 {
                    self.lengths.remove(&prefix.len());
                }
            }
        }
    }
}
