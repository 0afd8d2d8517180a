//! What the server was asked, counted under upstream's names and shown at /metrics. Requests of components in the same process
//! count like any other.

use fram_machinery::Status;
use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::authorize::Attributes;

/// Labels of upstream's `apiserver_request_total`, as far as they are known here.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    code: u16,
}

/// The counters of one server.
pub(crate) struct Requests {
    registry: Mutex<Registry>,
    total: Family<Labels, Counter>,
}

impl Default for Requests {
    fn default() -> Self {
        let (mut registry, total) = (Registry::default(), Family::default());
        // The encoder adds `_total`.
        registry.register("apiserver_request", "Requests by verb, resource and HTTP response code", Family::clone(&total));
        Self { registry: Mutex::new(registry), total }
    }
}

impl Requests {
    /// Counts a request by what came of it. One that names nothing that is `known` is not counted by what it named.
    pub(crate) fn count<T>(&self, asked: &Attributes, known: bool, result: &Result<T, Status>) {
        let named = |text: &str| if known { text.to_string() } else { String::new() };
        let labels = Labels {
            verb: asked.verb.to_uppercase(),
            group: named(&asked.group),
            version: named(&asked.version),
            resource: named(&asked.resource),
            subresource: named(&asked.subresource),
            code: result.as_ref().err().map_or(200, |status| status.code),
        };
        self.total.get_or_create(&labels).inc();
    }

    /// Shows others beside them.
    pub(crate) fn register(&self, others: impl FnOnce(&mut Registry)) {
        others(&mut self.registry.lock());
    }

    /// In the text format of OpenMetrics.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        if let Err(error) = text::encode(&mut out, &self.registry.lock()) {
            tracing::error!(%error, "the counters cannot be written as text");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_verb_resource_and_code() {
        let requests = Requests::default();
        let asked = Attributes { verb: "get".into(), version: "v1".into(), resource: "pods".into(), ..Default::default() };
        requests.count(&asked, true, &Ok(()));
        requests.count(&asked, true, &Ok(()));
        requests.count::<()>(&asked, true, &Err(Status::not_found("", "pods", "a")));
        let unknown = Attributes { resource: "nonsense".into(), ..asked.clone() };
        requests.count::<()>(&unknown, false, &Err(Status::forbidden("", "nonsense", "", "no")));
        let text = requests.text();
        let line = |code| format!("verb=\"GET\",group=\"\",version=\"v1\",resource=\"pods\",subresource=\"\",code=\"{code}\"");
        assert!(text.contains(&format!("apiserver_request_total{{{}}} 2", line(200))), "{text}");
        assert!(text.contains(&format!("apiserver_request_total{{{}}} 1", line(404))), "{text}");
        assert!(!text.contains("nonsense"), "{text}");
    }
}
