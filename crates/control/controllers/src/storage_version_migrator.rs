//! StorageVersionMigrations: writes all objects of a resource again, so that each is stored in the present version, where that kind
//! is served. What needs no other bytes is not written. See upstream's pkg/controller/storageversionmigrator.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use fram_client::{Action, Client, Controller, Informer, ListOptions, PatchKind, Resource};
use fram_machinery::{Reason, Status, Value, meta, object};
use tokio::sync::watch;

use crate::context::{Clock, KindInfo};
use crate::{Context, pods};
use plan::Turn;

const DEFINITIONS: Resource = Resource::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");
/// So many objects are looked at at once.
const PAGE: u32 = 500;
/// A resource may be about to be served for so long after a migration of it was asked for.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn start(context: &Context) {
    let Some(resource) = context.served("storagemigration.k8s.io", "storageversionmigrations") else { return };
    let migrations = context.informers.get(&resource);
    let migrator = Migrator {
        client: context.client("storage-version-migrator-controller"),
        migrations: migrations.clone(),
        kinds: context.kinds.clone(),
        custom_kinds: context.custom_kinds.clone(),
        now: context.now.clone(),
    };
    let controller = Controller::new("storage-version-migrator-controller", 5).watches(&migrations, |m| vec![plan::resource(m)]);
    context.run(controller, migrator, |m, resource| async move { m.reconcile(&resource).await });
}

struct Migrator {
    client: Client,
    migrations: Informer,
    kinds: Arc<[KindInfo]>,
    custom_kinds: watch::Receiver<Arc<[KindInfo]>>,
    now: Clock,
}

impl Migrator {
    async fn reconcile(&self, resource: &str) -> Result<Action, Status> {
        let all = self.migrations.list().into_iter().filter(|m| plan::resource(m) == resource && !meta::is_terminating(m));
        match plan::turn(all.collect()) {
            Turn::Nothing => Ok(Action::Done),
            Turn::Finish(migration) => self.finish(&migration).await.map(|()| Action::Done),
            Turn::Run(migration) => self.run(migration).await,
        }
    }

    fn now_text(&self) -> String {
        (self.now)().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    async fn write(&self, migration: Value) -> Result<Arc<Value>, Status> {
        self.client.all(self.migrations.resource()).update_status(migration).await
    }

    async fn tell(&self, migration: &Value, condition: (&str, &str), reason: &str, message: &str) -> Result<Arc<Value>, Status> {
        let mut migration = migration.clone();
        plan::set_condition(&mut migration, condition, reason, message, &self.now_text());
        self.write(migration).await
    }

    /// The resource in the version that clients use first.
    fn resource(&self, migration: &Value) -> Option<Resource> {
        let of = |field: &str| migration.str_at(&["spec", "resource", field]);
        let custom = self.custom_kinds.borrow();
        let kind =
            self.kinds.iter().chain(custom.iter()).find(|k| k.resource.group == of("group") && k.resource.plural == of("resource"))?;
        Some(kind.resource.clone())
    }

    async fn run(&self, migration: Arc<Value>) -> Result<Action, Status> {
        let mut migration = migration;
        if !plan::is_running(&migration) {
            self.about_definition(&migration, |d| plan::begun(d, meta::name(&migration), &self.now_text())).await?;
            migration = self.tell(&migration, ("Running", "True"), "MigrationRunning", "The migration is running").await?;
        }
        let Some(resource) = self.resource(&migration) else {
            let age = pods::created(&migration).map(|at| Duration::try_from((self.now)().duration_since(at)).unwrap_or_default());
            if let Some(left) = age.and_then(|age| PATIENCE.checked_sub(age)).filter(|left| !left.is_zero()) {
                return Ok(Action::After(left.min(Duration::from_secs(5))));
            }
            return self.fail(&migration, "resource does not exist in discovery").await;
        };
        if migration.str_at(&["status", "resourceVersion"]).is_empty() {
            let page = self.client.all(&resource).list(ListOptions { limit: 1, ..Default::default() }).await?;
            let mut changed = (*migration).clone();
            changed.set(&["status", "resourceVersion"], page.resource_version);
            migration = self.write(changed).await?;
        }
        if let Err(failure) = self.migrate(&resource, migration.str_at(&["status", "resourceVersion"])).await {
            if may_pass(&failure) {
                return Err(failure);
            }
            return self.fail(&migration, &format!("migration encountered unhandled error: {failure}")).await;
        }
        let migration = self.tell(&migration, ("Succeeded", "True"), "StorageVersionMigrationSucceeded", "").await?;
        self.finish(&migration).await.map(|()| Action::Done)
    }

    async fn fail(&self, migration: &Value, message: &str) -> Result<Action, Status> {
        let migration = self.tell(migration, ("Failed", "True"), "StorageVersionMigrationFailed", message).await?;
        self.finish(&migration).await.map(|()| Action::Done)
    }

    async fn finish(&self, migration: &Value) -> Result<(), Status> {
        let succeeded = meta::condition_is_true(migration, "Succeeded");
        self.about_definition(migration, |d| plan::ended(d, succeeded, &self.now_text())).await?;
        self.tell(migration, ("Running", "False"), "MigrationCompleted", "Migration completed").await.map(drop)
    }

    /// Changes the status of the definition of the resource, if it has one.
    async fn about_definition(&self, migration: &Value, change: impl Fn(Value) -> Value) -> Result<(), Status> {
        let of = |field: &str| migration.str_at(&["spec", "resource", field]);
        let definitions = self.client.all(&DEFINITIONS);
        let name = format!("{}.{}", of("resource"), of("group"));
        let Some(definition) = definitions.find(&name).await? else { return Ok(()) };
        let changed = change((*definition).clone());
        let mut status = object!({ "conditions": (changed.at(&["status", "conditions"]).cloned().unwrap_or_default()) });
        if let Some(versions) = changed.at(&["status", "storedVersions"]) {
            status.set(&["storedVersions"], versions.clone());
        }
        // With its resource version: what is said holds for what was seen.
        let patch = object!({ "metadata": { "resourceVersion": (meta::resource_version(&definition)) }, "status": status });
        definitions.patch(&name, "status", PatchKind::Merge, patch).await.map(drop)
    }

    /// Writes each object that is older than the beginning, as it is.
    async fn migrate(&self, resource: &Resource, beginning: &str) -> Result<(), Status> {
        let mut options = ListOptions { limit: PAGE, ..Default::default() };
        loop {
            let page = self.client.all(resource).list(options.clone()).await?;
            for object in page.items.iter().filter(|object| plan::is_older(object, beginning)) {
                // Whoever changed, deleted or replaced it meanwhile has done what was to be done.
                let same = object!({ "metadata": { "uid": (meta::uid(object)), "resourceVersion": (meta::resource_version(object)) } });
                let objects = self.client.within(resource, meta::namespace(object));
                match objects.patch(meta::name(object), "", PatchKind::Merge, same).await {
                    Err(status) if !matches!(status.reason, Reason::Conflict | Reason::NotFound) => return Err(status),
                    _ => {}
                }
            }
            if page.continue_token.is_empty() {
                return Ok(());
            }
            options.continue_token = page.continue_token;
        }
    }
}

/// Whether it is worth to begin anew; a list that took too long is.
fn may_pass(status: &Status) -> bool {
    use Reason::{Expired, Gone, InternalError, ServerTimeout, ServiceUnavailable, Timeout, TooManyRequests};
    matches!(status.reason, TooManyRequests | ServerTimeout | Timeout | ServiceUnavailable | InternalError | Gone | Expired)
}
