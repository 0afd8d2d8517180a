//! The revisions of a workload: ReplicaSets of a Deployment, ControllerRevisions of the others.

use std::sync::Arc;

use fram_client::{ListOptions, PatchKind};
use fram_machinery::{Value, meta, object, yaml};

use crate::access::Access;
use crate::choose::Chosen;
use crate::error::{CliError, Result};
use crate::print::{escaped, out};
use crate::table;

use super::{object_of, patch};

const REVISION: &str = "deployment.kubernetes.io/revision";
const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
const HASH: &str = "pod-template-hash";

/// One revision.
struct Revision {
    number: i64,
    cause: String,
    object: Arc<Value>,
}

impl Revision {
    /// A patch, or part of an object, that holds the template.
    fn template(&self) -> Value {
        let mut template = match self.object.at(&["data", "spec", "template"]) {
            Some(template) => template.clone(),
            None => self.object.at(&["spec", "template"]).cloned().unwrap_or_default(),
        };
        template.remove(&["metadata", "labels", HASH]);
        // How a strategic merge patch says that the whole is replaced; it is no part of the template.
        template.remove(&["$patch"]);
        template
    }
}

/// Revisions, the oldest first.
async fn revisions(access: &Access, one: &Chosen, owner: &Value) -> Result<Vec<Revision>> {
    let of_deployment = one.ty.kind == "Deployment";
    let ty = access.resource_type(if of_deployment { "replicasets.apps" } else { "controllerrevisions.apps" }).await?;
    let page = access.objects_in(ty, &one.namespace).list(ListOptions::default()).await?;
    let owned = page.items.into_iter().filter(|i| meta::controller_of(i).is_some_and(|c| c.str_at(&["uid"]) == meta::uid(owner)));
    let revision = |object: Arc<Value>| {
        let number = match of_deployment {
            true => meta::annotation(&object, REVISION).and_then(|r| r.parse().ok()),
            false => object.int_at(&["revision"]),
        };
        let cause = meta::annotation(&object, CHANGE_CAUSE).unwrap_or("<none>").to_string();
        Some(Revision { number: number?, cause, object })
    };
    let mut all: Vec<Revision> = owned.filter_map(revision).collect();
    all.sort_by_key(|r| r.number);
    Ok(all)
}

pub(super) async fn show(access: &Access, one: &Chosen, revision: Option<i64>) -> Result<()> {
    let owner = object_of(access, one).await?;
    let all = revisions(access, one, &owner).await?;
    if let Some(wanted) = revision {
        let found = all.iter().find(|r| r.number == wanted).ok_or_else(|| CliError::failed("unable to find the specified revision"))?;
        let text = yaml::to_string(&found.template()).map_err(|e| CliError::failed(e.to_string()))?;
        return out(format!("{} with revision #{wanted}\n{text}", one.place()));
    }
    let mut lines = vec![vec!["REVISION".to_string(), "CHANGE-CAUSE".to_string()]];
    lines.extend(all.into_iter().map(|r| vec![r.number.to_string(), escaped(&r.cause)]));
    out(format!("{} \n{}\n", one.place(), table::align_close(&lines)))
}

/// The revision to go back to: the one that is named, else the last but one.
fn target(all: &[Revision], to: i64) -> Option<&Revision> {
    if to != 0 { all.iter().find(|r| r.number == to) } else { all.len().checked_sub(2).map(|i| &all[i]) }
}

pub(super) async fn undo(access: &Access, one: &Chosen, to: i64) -> Result<()> {
    let owner = object_of(access, one).await?;
    if owner.bool_at(&["spec", "paused"]) == Some(true) {
        return Err(CliError::failed("you cannot rollback a paused deployment; resume it first with 'fram rollout resume' and try again"));
    }
    let all = revisions(access, one, &owner).await?;
    let missing = || match to {
        0 => CliError::failed(format!("no rollout history found for {}", one.place())),
        to => CliError::failed(format!("unable to find specified revision {to} in history")),
    };
    let found = target(&all, to).ok_or_else(missing)?;
    let template = found.template();
    if owner.at(&["spec", "template"]) == Some(&template) {
        return out(format!("{} skipped rollback (current template already matches revision {})\n", one.place(), found.number));
    }
    // The template as a whole: what the later revision added goes.
    let body = object!([{ "op": "replace", "path": "/spec/template", "value": template }]);
    patch(access, one, PatchKind::Json, body, "rolled back").await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undo_goes_to_the_last_but_one_or_to_the_named_revision() {
        let revision = |number| Revision { number, cause: String::new(), object: Arc::new(Value::Null) };
        let all = [revision(1), revision(3), revision(4)];
        let number = |to| target(&all, to).map(|r| r.number);
        assert_eq!((number(0), number(1), number(2), number(-1)), (Some(3), Some(1), None, None));
        assert!(target(&all[..1], 0).is_none());
    }

    #[test]
    fn a_template_is_read_without_what_controllers_added() {
        let set = object!({ "spec": { "template": { "metadata": { "labels": { "a": "b", "pod-template-hash": "x" } } } } });
        let expect = object!({ "metadata": { "labels": { "a": "b" } } });
        assert_eq!(Revision { number: 1, cause: String::new(), object: Arc::new(set) }.template(), expect);
        let data = object!({ "data": { "spec": { "template": { "$patch": "replace", "metadata": { "labels": { "a": "b" } } } } } });
        assert_eq!(Revision { number: 1, cause: String::new(), object: Arc::new(data) }.template(), expect);
    }
}
