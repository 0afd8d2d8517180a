//! Whose turn a migration is, and what is said of it and of the definition that it is about. Pure; see KEP-4192 and upstream's
//! pkg/controller/storageversionmigrator.

use std::sync::Arc;

use fram_machinery::{Value, meta, object};

/// What is to be done next for the migrations of one resource.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Turn {
    Nothing,
    /// It is over and still says that it runs.
    Finish(Arc<Value>),
    Run(Arc<Value>),
}

pub(super) fn is_running(migration: &Value) -> bool {
    meta::condition_is_true(migration, "Running")
}

pub(super) fn is_over(migration: &Value) -> bool {
    meta::condition_is_true(migration, "Succeeded") || meta::condition_is_true(migration, "Failed")
}

/// The resource that a migration is about, as a key.
pub(super) fn resource(migration: &Value) -> String {
    format!("{}/{}", migration.str_at(&["spec", "resource", "group"]), migration.str_at(&["spec", "resource", "resource"]))
}

/// One migration of a resource runs at a time: the one that has begun, or the oldest.
pub(super) fn turn(mut migrations: Vec<Arc<Value>>) -> Turn {
    migrations.sort_by_cached_key(|m| (m.str_at(&["metadata", "creationTimestamp"]).to_string(), meta::name(m).to_string()));
    if let Some(over) = migrations.iter().find(|m| is_running(m) && is_over(m)) {
        return Turn::Finish(over.clone());
    }
    let open = || migrations.iter().filter(|m| !is_over(m));
    open().find(|m| is_running(m)).or_else(|| open().next()).map_or(Turn::Nothing, |m| Turn::Run(m.clone()))
}

/// Sets a condition; its time is kept where its status is what it was.
pub(super) fn set_condition(object: &mut Value, (ty, status): (&str, &str), reason: &str, message: &str, now: &str) {
    let before = meta::condition(object, ty).filter(|c| c.str_at(&["status"]) == status);
    let since = before.map_or(now, |c| c.str_at(&["lastTransitionTime"])).to_string();
    let condition = object!({
        "type": ty, "status": status, "reason": reason, "message": message, "lastTransitionTime": since,
        "observedGeneration": (meta::generation(object))
    });
    let mut conditions: Vec<Value> =
        object.list_at(&["status", "conditions"]).iter().filter(|c| c.str_at(&["type"]) != ty).cloned().collect();
    conditions.push(condition);
    object.set(&["status", "conditions"], conditions);
}

/// What the definition of the resource says while its objects are migrated.
pub(super) fn begun(mut definition: Value, migration: &str, now: &str) -> Value {
    set_condition(&mut definition, ("StorageMigrating", "True"), "MigrationRunning", &format!("Migration {migration} is running"), now);
    definition
}

/// What the definition says afterwards. Where it is the same as before, all objects are stored in its storage version.
pub(super) fn ended(mut definition: Value, succeeded: bool, now: &str) -> Value {
    let same = meta::condition(&definition, "StorageMigrating")
        .is_some_and(|c| c.int_at(&["observedGeneration"]) == Some(meta::generation(&definition)));
    let (reason, message) = match (succeeded, same) {
        (true, true) => ("MigrationSucceeded", "The migration has succeeded and the stored versions have been updated"),
        (true, false) => {
            ("MigrationSucceeded", "The migration has succeeded but the stored versions have not been updated due to a generation mismatch")
        }
        (false, _) => ("MigrationFailed", "The migration has failed"),
    };
    let version = definition.list_at(&["spec", "versions"]).iter().find(|v| v.bool_at(&["storage"]) == Some(true));
    if succeeded
        && same
        && let Some(version) = version.map(|v| v.str_at(&["name"]).to_string())
    {
        definition.set(&["status", "storedVersions"], object!([version]));
    }
    set_condition(&mut definition, ("StorageMigrating", "False"), reason, message, now);
    definition
}

/// Whether an object may be stored in an older version: it was not written after the migration began.
pub(super) fn is_older(object: &Value, beginning: &str) -> bool {
    let number = |text: &str| text.parse::<u64>().ok();
    match (number(meta::resource_version(object)), number(beginning)) {
        (Some(own), Some(beginning)) => own <= beginning,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn migration(name: &str, created: &str, conditions: &[&str]) -> Arc<Value> {
        let conditions: Vec<Value> = conditions.iter().map(|ty| object!({ "type": (*ty), "status": "True" })).collect();
        Arc::new(object!({ "metadata": { "name": name, "creationTimestamp": created }, "status": { "conditions": conditions } }))
    }

    #[test]
    fn migrations_of_a_resource_take_turns() {
        let (a, b) = (migration("a", "2026-01-02T00:00:00Z", &[]), migration("b", "2026-01-01T00:00:00Z", &[]));
        assert_eq!(turn(vec![a.clone(), b.clone()]), Turn::Run(b.clone()));
        let running = migration("a", "2026-01-02T00:00:00Z", &["Running"]);
        assert_eq!(turn(vec![running.clone(), b.clone()]), Turn::Run(running));
        let over = migration("a", "2026-01-02T00:00:00Z", &["Running", "Succeeded"]);
        assert_eq!(turn(vec![over.clone(), b]), Turn::Finish(over));
        assert_eq!(turn(vec![migration("a", "2026-01-02T00:00:00Z", &["Failed"])]), Turn::Nothing);
    }

    #[test]
    fn a_definition_that_stayed_the_same_has_one_stored_version_afterwards() {
        let definition = || {
            object!({ "metadata": { "generation": 2 }, "spec": { "versions": [{ "name": "v1" }, { "name": "v2", "storage": true }] },
                "status": { "storedVersions": ["v1", "v2"], "conditions": [{ "type": "Established", "status": "True" }] } })
        };
        let versions = |d: &Value| d.list_at(&["status", "storedVersions"]).len();
        let running = begun(definition(), "m", "now");
        assert!(meta::condition_is_true(&running, "StorageMigrating") && meta::condition_is_true(&running, "Established"));
        let done = ended(running.clone(), true, "later");
        assert_eq!(done.list_at(&["status", "storedVersions"]), [Value::from("v2")]);
        let mut changed = running.clone();
        changed.set(&["metadata", "generation"], 3);
        assert_eq!((versions(&ended(changed, true, "later")), versions(&ended(running, false, "later"))), (2, 2));
    }

    #[test]
    fn what_was_written_after_the_beginning_is_left_alone() {
        let object = |version: &str| object!({ "metadata": { "resourceVersion": version } });
        assert!(is_older(&object("9"), "10") && is_older(&object("10"), "10"));
        assert!(!is_older(&object("11"), "10"));
    }
}
