//! ImageLocality: nodes that have a pod's images already are better, the more so the larger the images.

use fram_machinery::Value;

use crate::framework::{Cluster, MAX_SCORE, Plugin};
use crate::node::Node;
use crate::pod::Pod;

const MIB: i64 = 1024 * 1024;
/// Images below this size in all count nothing, beyond the other (for each container) nothing more.
const LEAST: i64 = 23 * MIB;
const MOST: i64 = 1000 * MIB;

pub(super) struct ImageLocality;

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn score(&self, pod: &Pod, nodes: &[&Node], cluster: &Cluster<'_>) -> Option<Vec<i64>> {
        let lists = ["containers", "initContainers"].into_iter().flat_map(|list| pod.object.list_at(&["spec", list]));
        let images: Vec<String> = lists.map(|c| normalized(c.str_at(&["image"]))).collect();
        let all = cluster.nodes.len().max(1) as i64;
        // An image that few nodes have counts less, so that not all pods go to one node.
        let spread: Vec<i64> = images.iter().map(|i| cluster.nodes.iter().filter(|n| n.images.contains_key(i)).count() as i64).collect();
        if spread.iter().all(|n| *n == 0) {
            return None;
        }
        let most = MOST * images.len().max(1) as i64;
        let score = |node: &&Node| {
            let sizes = images.iter().zip(&spread).map(|(image, n)| node.images.get(image).copied().unwrap_or(0) * n / all);
            (sizes.sum::<i64>().clamp(LEAST, most) - LEAST) * MAX_SCORE / (most - LEAST)
        };
        Some(nodes.iter().map(score).collect())
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
        check(&cache(vec![node("a", "4"), with]), object!({ "containers": [{ "image": "img" }] }), "b");
    }
}
