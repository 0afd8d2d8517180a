//! ImageLocality: nodes that have a pod's images already are better, the more so the larger the images.

use std::sync::Arc;

use fram_machinery::Value;

use crate::cache::{Cache, Change};
use crate::framework::{MAX_SCORE, Plugin, Sharing, View};
use crate::pod::Pod;

const MIB: i64 = 1024 * 1024;
/// Images below this size in all count nothing, beyond the other (for each container) nothing more.
const LEAST: i64 = 23 * MIB;
const MOST: i64 = 1000 * MIB;

pub(super) struct ImageLocality;

fn images(pod: &Pod) -> Vec<String> {
    let lists = ["containers", "initContainers"].into_iter().flat_map(|list| pod.object.list_at(&["spec", list]));
    lists.map(|c| normalized(c.str_at(&["image"]))).collect()
}

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn sharing(&self, pod: &Pod, _: &Cache) -> Sharing {
        Sharing::With(images(pod).join("\n"))
    }

    fn view(&self, pod: &Arc<Pod>, cache: &Cache) -> Box<dyn View> {
        Box::new(Local::new(&images(pod), cache))
    }
}

/// By slot; empty where no node has any of the images.
struct Local(Vec<i64>);

impl Local {
    fn new(images: &[String], cache: &Cache) -> Self {
        let all = cache.count().max(1) as i64;
        // An image that few nodes have counts less, so that not all pods go to one node.
        let spread: Vec<i64> =
            images.iter().map(|image| cache.nodes().filter(|(_, n)| n.images.contains_key(image)).count() as i64).collect();
        if spread.iter().all(|n| *n == 0) {
            return Self(Vec::new());
        }
        let most = MOST * images.len().max(1) as i64;
        let score = |slot: usize| {
            let has = |image: &String| cache.at(slot).images.get(image).copied().unwrap_or(0).max(0);
            let sizes = images.iter().zip(&spread).map(|(image, n)| has(image).saturating_mul(*n) / all);
            (sizes.fold(0, i64::saturating_add).clamp(LEAST, most) - LEAST) * MAX_SCORE / (most - LEAST)
        };
        Self((0..cache.slots()).map(score).collect())
    }
}

impl View for Local {
    /// What one node has counts for how common an image is on all.
    fn changed(&mut self, change: &Change, _: &Cache) -> bool {
        !matches!(change, Change::Node(_))
    }

    fn score(&mut self, _: &Cache, slots: &[usize]) -> Option<Vec<i64>> {
        (!self.0.is_empty()).then(|| slots.iter().map(|slot| self.0[*slot]).collect())
    }
}

/// The image's name as nodes tell it: with a tag.
fn normalized(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or_default();
    if last.contains(':') || image.contains('@') { image.to_string() } else { format!("{image}:latest") }
}

/// The images of a node by each of their names, in bytes.
pub(crate) fn of_node(node: &Value) -> std::collections::HashMap<String, i64> {
    let names = |image: &Value| -> Vec<(String, i64)> {
        let size = image.int_at(&["sizeBytes"]).unwrap_or(0);
        image.list_at(&["names"]).iter().filter_map(Value::as_str).map(|name| (name.to_string(), size)).collect()
    };
    node.list_at(&["status", "images"]).iter().flat_map(names).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::*;
    use fram_machinery::object;

    #[test]
    fn the_node_that_has_the_image_is_better() {
        let mut with = node("b", "4");
        with.set(&["status", "images"], object!([{ "names": ["img:latest"], "sizeBytes": (900 * MIB) }]));
        check(&mut cache(vec![node("a", "4"), with]), object!({ "containers": [{ "image": "img" }] }), "b");
    }
}
