//! Conversion between the versions of a kind. Built-in kinds and most custom resources are converted in place; where a
//! definition names a webhook, that is asked, once for all objects of a request.

use std::sync::Arc;
use std::time::Duration;

use fram_api::Kind;
use fram_machinery::{Status, Value, meta, object};
use fram_store::Entry;

use super::{Registry, Served, whole};
use crate::webhook::Target;

/// How long a conversion may take; see upstream's conversion webhook client.
const TIMEOUT: Duration = Duration::from_secs(30);

impl Served {
    /// Whether somebody else may have to be asked for the objects as they are served.
    pub(crate) fn needs_webhook(&self) -> bool {
        self.kind.custom.as_ref().is_some_and(|c| c.conversion.is_some()) && !self.verbatim()
    }
}

impl Registry {
    /// A stored entry as the kind that was asked for.
    pub(crate) async fn object(&self, served: &Served, entry: &Entry) -> Result<Value, Status> {
        self.convert(self.stored(entry)?, &served.stored, &served.kind).await
    }

    /// The same, of what is likely to be asked for again soon.
    pub(crate) async fn consult(&self, served: &Served, entry: &Entry) -> Result<Value, Status> {
        if !served.verbatim() {
            return self.object(served, entry).await;
        }
        if let Some(object) = self.consulted.get_again(&entry.value, &()) {
            return Ok(object);
        }
        // Bytes are committed once, at one revision: an equal object of another one has bytes of its own.
        let object = self.decode(served, entry)?;
        self.consulted.put(entry.value.clone(), (), object.clone());
        Ok(object)
    }

    /// Stored entries as the kind that was asked for.
    pub(crate) async fn objects(&self, served: &Served, entries: &[Arc<Entry>]) -> Result<Vec<Value>, Status> {
        let values = entries.iter().map(|e| whole(e, e.modified.0)).collect::<Result<_, _>>()?;
        self.convert_all(values, &served.stored, &served.kind).await
    }

    pub(crate) async fn convert(&self, value: Value, from: &Kind, to: &Kind) -> Result<Value, Status> {
        if to.custom.as_ref().is_none_or(|c| c.conversion.is_none()) {
            return Ok(fram_api::convert(value, from, to));
        }
        Ok(self.convert_all(vec![value], from, to).await?.pop().unwrap_or_default())
    }

    pub(crate) async fn convert_all(&self, mut values: Vec<Value>, from: &Kind, to: &Kind) -> Result<Vec<Value>, Status> {
        if let Some(webhook) = to.custom.as_ref().and_then(|c| c.conversion.as_ref()) {
            let version = to.api_version();
            let foreign: Vec<usize> = (0..values.len()).filter(|&i| values[i].str_at(&["apiVersion"]) != version).collect();
            if !foreign.is_empty() {
                let asked: Vec<Value> = foreign.iter().map(|&i| values[i].clone()).collect();
                let answered = Box::pin(self.ask(webhook, to, asked)).await?;
                for (i, mut converted) in foreign.into_iter().zip(answered) {
                    restore(&mut converted, &values[i]);
                    values[i] = converted;
                }
            }
        }
        Ok(values.into_iter().map(|value| fram_api::convert(value, from, to)).collect())
    }

    /// Asks a definition's webhook for objects in another version, in the same order.
    async fn ask(&self, webhook: &Value, to: &Kind, objects: Vec<Value>) -> Result<Vec<Value>, Status> {
        let fail = |why: String| Status::internal(format!("conversion webhook for {}, Kind={} failed: {why}", to.api_version(), to.kind));
        let caller = self.admission.webhooks.as_ref().map(|w| w.caller().clone());
        let caller = caller.ok_or_else(|| fail("this server calls no webhooks".into()))?;
        let uid = self.environment.uid();
        let (count, wanted) = (objects.len(), to.api_version());
        let question = object!({ "kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1",
            "request": { "uid": (uid.as_str()), "desiredAPIVersion": (wanted.as_str()), "objects": objects } });
        let nothing = Value::Null;
        let target = Target::read(webhook.get("clientConfig").unwrap_or(&nothing));
        let answer = caller.post(self, &target, &question, TIMEOUT).await;
        let answer = answer.map_err(|e| fail(format!("Post {:?}: {e}", target.url())))?;
        if answer.str_at(&["response", "uid"]) != uid {
            return Err(fail("response.uid is not that of the request".into()));
        }
        if answer.str_at(&["response", "result", "status"]) != "Success" {
            return Err(fail(answer.str_at(&["response", "result", "message"]).to_string()));
        }
        let converted = answer.list_at(&["response", "convertedObjects"]).to_vec();
        if converted.len() != count {
            return Err(fail(format!("returned {} objects, expected {count}", converted.len())));
        }
        match converted.iter().find(|o| o.str_at(&["apiVersion"]) != wanted) {
            Some(other) => Err(fail(format!("returned an object of version {}, expected {wanted}", other.str_at(&["apiVersion"])))),
            None => Ok(converted),
        }
    }
}

/// Of the metadata a conversion may change labels and annotations only.
fn restore(converted: &mut Value, original: &Value) {
    let mut metadata = meta::metadata(original);
    for field in ["labels", "annotations"] {
        match converted.at(&["metadata", field]).cloned() {
            Some(changed) => metadata.insert(field, changed),
            None => drop(metadata.remove(field)),
        }
    }
    converted.set(&["metadata"], metadata);
}
