//! Selectors of devices, compiled once, and what they said of each device of a slice.

use std::collections::HashMap;
use std::sync::Arc;

use fram_api::devices::DeviceSelector;
use fram_machinery::{Value, meta};

/// So many expressions are kept.
const MOST: usize = 256;

/// Whether a device is meant, or why that cannot be said.
type Answer = Result<bool, Arc<str>>;

#[derive(Debug, Default)]
pub(super) struct Selectors {
    known: HashMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    /// What is wrong with it where it does not compile, which the API would have refused.
    selector: Result<Arc<DeviceSelector>, Arc<str>>,
    /// By slice, of which version, and for each of its devices.
    said: HashMap<String, (String, Vec<Option<Answer>>)>,
}

impl Selectors {
    /// A slice is another, or gone.
    pub(super) fn forget(&mut self, slice: &str) {
        self.known.values_mut().for_each(|known| drop(known.said.remove(slice)));
    }

    /// Whether an expression means a device of a slice, or why that cannot be said.
    pub(super) fn matches(&mut self, text: &str, slice: &Value, number: usize) -> Answer {
        if self.known.len() >= MOST && !self.known.contains_key(text) {
            self.known.clear();
        }
        let known = self.known.entry(text.into()).or_insert_with(|| {
            let compiled = DeviceSelector::compile(text).inspect_err(|why| tracing::warn!(text, why, "a device selector cannot be used"));
            Known { selector: compiled.map(Arc::new).map_err(Arc::from), said: HashMap::new() }
        });
        let devices = slice.list_at(&["spec", "devices"]);
        let (version, said) = known.said.entry(meta::name(slice).into()).or_default();
        if version != meta::resource_version(slice) || said.len() != devices.len() {
            *version = meta::resource_version(slice).into();
            *said = vec![None; devices.len()];
        }
        let selector = known.selector.as_ref().map_err(Arc::clone)?;
        let (Some(answer), Some(device)) = (said.get_mut(number), devices.get(number)) else { return Ok(false) };
        answer.get_or_insert_with(|| selector.matches(slice.str_at(&["spec", "driver"]), device).map_err(Arc::from)).clone()
    }
}
