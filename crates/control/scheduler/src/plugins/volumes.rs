//! VolumeBinding: a pod runs where its volumes are, or can be made.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cache::{Cache, Change};
use crate::framework::{Plugin, Refusal, Sharing, Verdicts, View};
use crate::pod::Pod;
use crate::storage::Needs;

pub(super) struct VolumeBinding;

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn pre_filter(&self, pod: &Pod, cache: &Cache) -> Result<(), String> {
        cache.storage.premature(&pod.object)
    }

    fn sharing(&self, pod: &Pod, cache: &Cache) -> Sharing {
        if cache.storage.has_claims(&pod.object) { Sharing::Alone } else { Sharing::Nothing }
    }

    fn view(&self, pod: &Arc<Pod>, cache: &Cache) -> Box<dyn View> {
        Box::new(Claims { needs: cache.storage.needs(&pod.object), reasons: BTreeMap::new() })
    }
}

struct Claims {
    needs: Needs,
    /// Details by reason.
    reasons: BTreeMap<String, u32>,
}

impl View for Claims {
    fn changed(&mut self, _: &Change, _: &Cache) -> bool {
        true
    }

    fn filter(&mut self, cache: &Cache, verdicts: &mut Verdicts) {
        for slot in verdicts.open().collect::<Vec<_>>() {
            if let Err(reason) = cache.storage.steps(&self.needs, cache.at(slot)) {
                let next = self.reasons.len() as u32 + 1;
                verdicts.refuse(slot, *self.reasons.entry(reason).or_insert(next));
            }
        }
    }

    fn refusal(&self, cache: &Cache, slot: usize) -> Option<Refusal> {
        cache.storage.steps(&self.needs, cache.at(slot)).err().map(Refusal::lasting)
    }
}
